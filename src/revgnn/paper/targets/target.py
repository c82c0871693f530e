"""`Target`: the figures that the paper prints for a row, and its place in the tables"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a table of the paper."""

    table: int
    """The table's number."""
    row: int
    """The row's number, from 1."""
    name: str
    """The row's name in the table, made unique, such as "RevGCN 28 x 128"."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The figures that the paper prints for a row of its tables; ``None``: it prints none.

    Examples:
        >>> import revgnn
        >>> target = revgnn.Target(metric=88.24, std=0.15, memory_gb=10.86, printed="17.47M", runs=10)
        >>> f"{target.metric} +- {target.std}"
        '88.24 +- 0.15'
    """

    places: tuple[TableRow, ...] = ()
    """Its rows in the tables; a network may be in two tables."""
    metric: float | None = None
    """Mean of the test metric; in percent for accuracy and ROC-AUC."""
    std: float | None = None
    """Standard deviation over runs, in the same unit."""
    memory_gb: float | None = None
    """Peak memory of training in GiB."""
    parameters: int | None = None
    """Exact number of parameters of the row's network."""
    printed: str | None = None
    """The number of parameters as the paper prints it, such as "20.03M"."""
    runs: int | None = None
    """Number of runs of the mean."""
    notes: tuple[str, ...] = ()
    """Notes for readers, a sentence or two each: figures that do not reproduce, or that are second-hand."""
    assumed: tuple[str, ...] = ()
    """Dotted fields of the experiment that no source gives; their values are those of the nearest published recipe."""
