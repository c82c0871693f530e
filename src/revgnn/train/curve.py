"""The curve of a run: one JSON line per epoch in ``curve.jsonl``, readable while the run goes on and after a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict, cast

from ..files import parse_object, room_for, write_whole

CURVE_FILE = "curve.jsonl"


class Score(TypedDict):
    """How one split did."""

    metric: float | None
    """The run's metric; ``None`` where it is undefined (ROC-AUC without both classes)."""
    loss: float | None
    """The run's loss without dropout; ``None`` where it is not finite."""


class Row(TypedDict):
    """One epoch."""

    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate of every step in it."""
    loss: float
    """Mean over the training rows of the loss that was minimised, with dropout, each row before its step."""
    steps: int
    seconds: float
    """Wall-clock of the steps, evaluation apart."""
    memory: int | None
    """Peak bytes of the steps; ``None`` where nobody measured."""
    scores: dict[str, Score] | None
    """Split name -> score after the epoch; ``None`` where it was not evaluated."""
    observed: dict[str, float]
    """What the model showed of the last step, such as the residuals of its solver; empty where it shows nothing."""


class Curve:
    """The rows so far, in memory and, where a run folder is given, on disk."""

    def __init__(self, out: Path | None) -> None:
        self.rows: list[Row] = []
        self._path = None if out is None else out / CURVE_FILE

    def resume(self, epoch: int) -> None:
        """Take up the rows on disk as far as ``epoch`` and drop what an interrupted run wrote after it."""
        if self._path is None:
            return
        self.rows = [row for row in read_curve(self._path) if row["epoch"] <= epoch]
        if [row["epoch"] for row in self.rows] != list(range(1, epoch + 1)):
            raise ValueError(f"{self._path} must have the epochs 1 to {epoch}, in order; start the run afresh")
        write_whole(self._path, "".join(_line(row) for row in self.rows))

    def append(self, row: Row) -> None:
        """Add an epoch; a reader sees it at once."""
        self.rows.append(row)
        if self._path is not None:
            line = _line(row)
            room = room_for("a line of the curve", len(line), self._path.parent)
            with room, self._path.open("a", encoding="utf-8") as file:
                file.write(line)

    def sync(self) -> None:
        """Wait until the rows are on the disk, so that no checkpoint is ahead of its curve."""
        if self._path is not None and self._path.exists():
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())


def read_curve(path: Path) -> list[Row]:
    """Read ``curve.jsonl``; a last line cut short by a crash is left out, a missing file is an empty curve.

    Raises: ValueError: a line before the last that is not an epoch of a run.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
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
