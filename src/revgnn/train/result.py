"""The result of a run, in memory and in ``result.json``."""

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
    """The result of a run; the model itself holds the best weights.

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2), data.info)
        >>> result = revgnn.fit(model, revgnn.make_batches(data), revgnn.TrainConfig(epochs=2), metric="accuracy")
        >>> isinstance(result, revgnn.FitResult), sorted(result.scores)
        (True, ['test', 'train', 'valid'])
    """

    metric: str
    """Name of the metric in the scores."""
    best_epoch: int
    """Epoch of the best weights."""
    scores: dict[str, Score]
    """Split name -> score of the best weights, on the final batches if there are any."""
    selection: dict[str, Score]
    """Split name -> score by which the best weights were selected, at that epoch."""
    epochs: int
    """Number of epochs run."""
    steps: int
    """Number of optimizer steps taken."""
    stopped: Literal["finished", "patience", "time"]
    """Why the run ended."""
    seconds_per_step: float
    """Wall-clock time of a training step, without evaluation; median over the epochs."""
    peak_memory: int | None
    """Peak memory of the training steps in bytes; ``None`` if it was not measured."""
    parameters: int
    """Number of trainable parameters; a shared tensor counts once."""
    device: str
    precision: str
    curve: list[Row]
    """One row per epoch."""

    def write(self, out: Path) -> None:
        """Write ``result.json`` without the curve, which has its own file."""
        facts = {name: value for name, value in asdict(self).items() if name != "curve"}
        write_whole(out / RESULT_FILE, json.dumps(facts, indent=1, allow_nan=False))
