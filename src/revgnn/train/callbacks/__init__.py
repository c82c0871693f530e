"""Callbacks of the training loop: checkpoints, weight averaging, progress, memory, tracking and final scores."""

from __future__ import annotations

from .callback import Callback, TrainState
from .checkpoint import Checkpoints
from .ema import WeightAverage
from .interrupt import StopOnSignal
from .memory import MemoryRecorder
from .progress import ProgressBar
from .selected import FinalScores, KeepLogits, KeepOutputs
from .tracking import Tracking

__all__ = [
    "Callback",
    "Checkpoints",
    "FinalScores",
    "KeepLogits",
    "KeepOutputs",
    "MemoryRecorder",
    "ProgressBar",
    "StopOnSignal",
    "Tracking",
    "TrainState",
    "WeightAverage",
]
