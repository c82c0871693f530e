"""Print tables and progress: on a terminal fitted to its width, in a pipe one row per line"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 240
_SECONDS_BETWEEN_LINES = 10.0
_WIDER_THAN_ANY = 100_000


def results_console() -> Console:
    """Return the console of standard output, for results."""
    return Console(width=_width(sys.stdout), highlight=False)


def progress_console() -> Console:
    """Return the console of standard error, for progress and messages."""
    return Console(stderr=True, width=_width(sys.stderr), highlight=False)


def _width(stream: TextIO) -> int | None:
    """Return a fixed width for a file, where every row must fit on one line; None: the terminal's width."""
    return None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_PIPE


def print_table(
    console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None, text: int = 1
) -> None:
    """Print a table; on a narrow terminal one block of lines per row, without its empty cells.

    Args:
        console: the console to print to.
        head: names of the columns.
        rows: one text per column; the first is the row's name.
        title: title above the table.
        text: number of text columns from the left; the others are right-aligned figures.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(head):
        table.add_column(Text(name), justify="left" if position < text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if title is not None:
        console.print(Text(title, style="bold"))
    # Measured on a very wide console, because a table's width never exceeds the console's.
    natural = Measurement.get(console, console.options.update(width=_WIDER_THAN_ANY), table).maximum
    if natural <= console.width:
        console.print(table)
        return
    width = max(map(len, head))
    # Programs need unbroken lines; only a terminal wraps them.
    for_programs = console.width >= _WIDTH_OF_A_PIPE
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=for_programs)
        for name, cell in zip(head[1:], row[1:], strict=True):
            if cell:
                console.print(Text(f"  {name:<{width}}  {cell}"), soft_wrap=for_programs)


@contextmanager
def stages(label: str, console: Console) -> Iterator[Callable[[str], None]]:
    """Show what some seconds of work are at: a line that changes on a terminal, else a line for each stage.

    Args:
        label: what stands at the left.
        console: where to.
    Yields: what to call with the name of a stage that begins.
    """
    if console.is_terminal:
        with console.status(Text(label)) as status:
            yield lambda stage: status.update(Text(f"{label}: {stage}"))
        return
    begun = ""

    def line(stage: str) -> None:
        nonlocal begun
        if stage != begun:
            begun = stage
            console.print(f"{label}: {stage}", markup=False, highlight=False, soft_wrap=True)

    yield line


@contextmanager
def counted(label: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a long task: a bar on a terminal, else a line every few seconds.

    Args:
        label: name of the task.
        console: the console to print to.
    Yields: the function to call as ``(rows done, rows in total)``.
    """
    if console.is_terminal:
        columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TimeRemainingColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            console.print(f"{label}: {done} of {total} rows", markup=False, highlight=False, soft_wrap=True)

    yield line
