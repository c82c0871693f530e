"""What a run came to, in memory and in ``result.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..files import write_whole
from .curve import Row, Score

RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run came to; the model itself holds the selected weights."""

    metric: str
    """Name of the metric in the scores."""
    best_epoch: int
    """Epoch whose weights were selected."""
    scores: dict[str, Score]
    """Split name -> score of those weights, by the final batches where there are such."""
    selection: dict[str, Score]
    """Split name -> score by which they were selected, at that epoch."""
    epochs: int
    """Epochs that were run."""
    steps: int
    """Optimizer steps that were taken."""
    stopped: Literal["finished", "patience"]
    """Why the run ended."""
    seconds_per_step: float
    """Median over the epochs of the wall-clock of a training step, evaluation apart."""
    peak_memory: int | None
    """Largest peak of the training steps in bytes; ``None`` where nobody measured."""
    parameters: int
    """Trained numbers in the model; a shared tensor counts once."""
    device: str
    precision: str
    curve: list[Row]
    """One row per epoch."""

    def write(self, out: Path) -> None:
        """Write ``result.json``, without the curve, which has a file of its own."""
        facts = {name: value for name, value in asdict(self).items() if name != "curve"}
        write_whole(out / RESULT_FILE, json.dumps(facts, indent=1, allow_nan=False))
