"""Callbacks of the training loop: what is done while it goes on, and at its end, and is not the loop."""

from __future__ import annotations

from .callback import Callback, TrainState
from .checkpoint import Checkpoints
from .ema import WeightAverage
from .interrupt import StopOnSignal
from .memory import MemoryRecorder
from .progress import ProgressBar
from .selected import FinalScores, KeepLogits
from .tracking import Tracking

__all__ = [
    "Callback",
    "Checkpoints",
    "FinalScores",
    "KeepLogits",
    "MemoryRecorder",
    "ProgressBar",
    "StopOnSignal",
    "Tracking",
    "TrainState",
    "WeightAverage",
]
