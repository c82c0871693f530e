"""Tables on any screen: side by side where they fit, one block per row where they do not, whole lines in a pipe."""

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
    """Give the console of standard output, where results go."""
    return Console(width=_width(sys.stdout), highlight=False)


def progress_console() -> Console:
    """Give the console of standard error, where progress and messages go."""
    return Console(stderr=True, width=_width(sys.stderr), highlight=False)


def _width(stream: TextIO) -> int | None:
    """None asks the terminal; a file has no width to fit into, and whoever reads it wants each row on one line."""
    return None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_PIPE


def print_table(
    console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None, text: int = 1
) -> None:
    """Print rows of text.

    Args:
        console: where to.
        head: the name of each column.
        rows: one text per column; the first names the row.
        title: stands above.
        text: how many columns, from the left, are words; the others are figures, to the right.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(head):
        table.add_column(Text(name), justify="left" if position < text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if title is not None:
        console.print(Text(title, style="bold"))
    # A table measured by the console never asks for more than there is: measure it on a wide one.
    natural = Measurement.get(console, console.options.update(width=_WIDER_THAN_ANY), table).maximum
    if natural <= console.width:
        console.print(table)
        return
    width = max(map(len, head))
    # A program reads whole lines; only a screen has an edge to break them at.
    for_programs = console.width >= _WIDTH_OF_A_PIPE
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=for_programs)
        for name, cell in zip(head[1:], row[1:], strict=True):
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
    """Show how far a long piece of work is: a bar on a terminal, else a line now and then.

    Args:
        label: what stands at the left.
        console: where to.
    Yields: what to call with how much is done and how much there is.
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
