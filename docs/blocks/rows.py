"""What every block is made of: rows of results, Markdown tables, and figures as the documents print them."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from revgnn.paper.results import read_lines

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

Row = dict[str, Any]


def newest(results: str, *names: str) -> dict[tuple[Any, ...], Row]:
    """Return the newest row of each value of some fields, in the order in which those first came."""
    return {tuple(row[name] for name in names): row for row in read_lines(RESULTS / f"{results}.jsonl")}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[str] = (), empty: str = "–") -> str:
    """Return a Markdown table.

    Args:
        head: title of each column.
        rows: cells of each row.
        left: titles of the columns that are aligned to the left; the others are numbers.
        empty: what an empty cell shows.
    """
    rule = "|" + "".join("---|" if title in left else "---:|" for title in head)
    return "\n".join([_line(head), rule, *(_line([cell or empty for cell in row]) for row in rows)])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def commit(row: Row) -> str:
    """Return the commit that a row was measured with, and whether files were changed."""
    return f"{row['commit'][:8]}{'-dirty' if row['dirty'] else ''}"


def score(row: Row, split: str) -> float:
    """Return the score of a run on a split, in percent."""
    return 100.0 * float(row["scores"][split]["metric"])


def mean_and_std(values: list[float]) -> str:
    """Return the mean, and the sample standard deviation if there are several values."""
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
