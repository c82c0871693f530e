"""What the paper prints for a row of its tables, and where it stands; the target of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a table of the paper."""

    table: int
    """The table's number."""
    row: int
    """Counted from 1."""
    name: str
    """What the table calls the row, with what tells it from its neighbours, such as "RevGCN 28 x 128"."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the paper prints for a row of its tables; ``None`` where it prints nothing."""

    places: tuple[TableRow, ...] = ()
    """Where it stands; a row may stand in two tables."""
    metric: float | None = None
    """Mean of the test metric; in percent for accuracy and ROC-AUC."""
    std: float | None = None
    """Its standard deviation over runs, in the same unit."""
    memory_gb: float | None = None
    """Peak memory of training in GiB."""
    parameters: int | None = None
    """Trained numbers of the row's network, to the unit."""
    printed: str | None = None
    """How the paper prints that number, such as "20.03M"."""
    runs: int | None = None
    """Runs that the mean is over."""
    notes: tuple[str, ...] = ()
    """What a reader of the row has to know, a sentence or two each: what does not reproduce, what is second-hand."""
    assumed: tuple[str, ...] = ()
    """Dotted fields of the run that no source gives, and that the nearest published recipe stands in for."""
