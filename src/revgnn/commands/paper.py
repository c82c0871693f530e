"""``revgnn paper``: record runs of recipes, measure the memory of rows, and show the paper's tables"""

from __future__ import annotations

import sys
from argparse import Namespace

from ..console import print_table, progress_console, results_console
from ..paper.memory import append_memory, memory_row, read_memory, rows_of_tables
from ..paper.results import DEFAULT_FOLDER, ROWS_FILE, append_rows, find_results, read_rows, rows_of
from ..paper.tables import HEAD, build_table, markdown_table, notes, table_lines
from ..report.row import memory
from ..stack.budget import parse_bytes
from .output import log_to, print_json


def run(arguments: Namespace) -> None:
    """Run the action: record, table or bench."""
    {"record": _record, "table": _table, "bench": _bench}[arguments.action](arguments)


def _bench(arguments: Namespace) -> None:
    """Measure or estimate the memory of the paper's rows on synthetic graphs of their sizes."""
    names = rows_of_tables(arguments.rows, arguments.recipe)
    limit = parse_bytes(arguments.memory, "--memory")
    console = progress_console()
    log_to(console)
    results = arguments.results or find_results(None)
    found = []
    for name in names:
        row = memory_row(name, limit=limit, seconds=arguments.seconds, max_nodes=arguments.max_nodes)
        found.append(row)
        if results is not None:
            append_memory(row, results)
        console.print(f"{name}: {memory(row['peak_bytes'])}, {row['how']}", markup=False, soft_wrap=True)
    if arguments.json:
        print_json(found)


def _record(arguments: Namespace) -> None:
    """Append a finished run to the results."""
    # A named folder is created if missing; the default one is not, because the current folder may be any.
    results = arguments.results or find_results(None)
    if results is None:
        raise FileNotFoundError(
            f"there is no {DEFAULT_FOLDER} in the current folder; name a folder of results with --results"
        )
    rows = rows_of(arguments.run)
    appended = append_rows(rows, results)
    if arguments.json:
        print_json({"file": str(results / ROWS_FILE), "appended": appended, "rows": rows})
        return
    console = results_console()
    for row in rows:
        changed = "".join(f"; {name}={got} instead of {wanted}" for name, (wanted, got) in row["changed"].items())
        console.print(f"{row['recipe']}, seed {row['seed']}{changed}", markup=False, soft_wrap=True)
    known = "" if appended == len(rows) else f", {len(rows) - appended} recorded already"
    console.print(f"{appended} appended to {results / ROWS_FILE}{known}", markup=False, soft_wrap=True)


def _table(arguments: Namespace) -> None:
    """Show a table of the paper with measured results."""
    results = find_results(arguments.results)
    built = build_table(
        arguments.number,
        [] if results is None else read_rows(results),
        [] if results is None else read_memory(results),
    )
    where = (
        f"results: none; there is no {DEFAULT_FOLDER} in the current folder, name a folder with --results"
        if results is None
        else f"results: {results}"
    )
    if arguments.json:
        print_json({**built, "results": None if results is None else str(results)})
        return
    if arguments.markdown:
        sys.stdout.write(f"{markdown_table(built)}\n")
        return
    console = results_console()
    print_table(console, HEAD, table_lines(built), title=f"Table {built['table']}: {built['title']}")
    for line in (built["summary"], where, *(f"* {note}" for note in notes(built))):
        console.print(line, markup=False, soft_wrap=True)
