"""Writes and reads the training curve of a run: one JSON line per epoch in ``curve.jsonl``, also after a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict, cast

from ..files import parse_object, room_for, write_whole

CURVE_FILE = "curve.jsonl"


class Score(TypedDict):
    """Metric and loss of one split.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import read_curve
        >>> score = read_curve(Path("runs/first/curve.jsonl"))[0]["scores"]["valid"]  # a Score
        >>> sorted(score)
        ['loss', 'metric']
    """

    metric: float | None
    """The run's metric; ``None`` if it is undefined (for example ROC-AUC with one class)."""
    loss: float | None
    """The run's loss without dropout; ``None`` where it is not finite."""


class Row(TypedDict):
    """One epoch.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import read_curve
        >>> row = read_curve(Path("runs/first/curve.jsonl"))[0]  # a Row
        >>> row["epoch"], sorted(row["scores"])
        (1, ['test', 'train', 'valid'])
    """

    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate of the epoch's steps."""
    loss: float
    """Mean training loss over the epoch's rows, with dropout, each row evaluated before its step's update."""
    steps: int
    seconds: float
    """Wall-clock time of the steps, without evaluation."""
    memory: int | None
    """Peak memory of the steps in bytes; ``None`` if it was not measured."""
    scores: dict[str, Score] | None
    """Split name -> score after the epoch; ``None`` if the epoch was not evaluated."""
    observed: dict[str, float]
    """Quantities that the model reports of the epoch, for example solver residuals; empty if it reports none. Of a
    resumed epoch, those of the steps since then."""


class Curve:
    """The training curve so far, in memory and, if a run folder is given, on disk."""

    def __init__(self, out: Path | None) -> None:
        self.rows: list[Row] = []
        self._path = None if out is None else out / CURVE_FILE

    def resume(self, epoch: int) -> None:
        """Load the rows on disk up to ``epoch`` and drop later rows of the interrupted run."""
        if self._path is None:
            return
        self.rows = [row for row in read_curve(self._path) if row["epoch"] <= epoch]
        if [row["epoch"] for row in self.rows] != list(range(1, epoch + 1)):
            raise ValueError(f"{self._path} must have the epochs 1 to {epoch}, in order; start the run afresh")
        write_whole(self._path, "".join(_line(row) for row in self.rows))

    def append(self, row: Row) -> None:
        """Append an epoch and flush it to the file."""
        self.rows.append(row)
        if self._path is not None:
            line = _line(row)
            room = room_for("a line of the curve", len(line), self._path.parent)
            with room, self._path.open("a", encoding="utf-8") as file:
                file.write(line)

    def sync(self) -> None:
        """Sync the file to disk, so that no checkpoint is ahead of its curve."""
        if self._path is not None and self._path.exists():
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())


def read_curve(path: Path, *, is_finished: bool = False) -> list[Row]:
    """Read ``curve.jsonl``; a missing file gives an empty curve.

    Args:
        path: the file.
        is_finished: whether the run has ended; otherwise an incomplete last line, as a crash leaves it, is ignored.
    Raises: ValueError: a line is not a valid epoch.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import read_curve
        >>> [row["epoch"] for row in read_curve(Path("runs/first/curve.jsonl"))]
        [1, 2]
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif is_finished or number < len(lines):
            raise ValueError(f"{path}: line {number} must be one JSON object, an epoch of a run, got {line[:60]!r}")
    return rows


def _parse(line: str) -> Row | None:
    try:
        value = parse_object(line)
    except ValueError:
        return None
    numbers = [value.get(name) for name in ("lr", "loss", "steps", "seconds")]
    if type(value.get("epoch")) is not int or not all(type(number) in (int, float) for number in numbers):
        return None
    if not Row.__required_keys__ <= value.keys() or not isinstance(value["memory"], int | None):
        return None
    return cast(Row, value)


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
