"""Compare the paper's tables with measured results: as JSON, as rows for a terminal, as Markdown.

Runs of a row that differ only in the seed form one group: same changes of the recipe, hardware, precision and
implementation. Full runs come before shortened ones; a row without runs is marked "not run".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TypedDict

from ..repeat import Spread, spread
from ..report.row import integer
from .memory import ESTIMATE, MemoryFigures, MemoryRow, newest_memory
from .results import Changed, RunRow
from .targets import TARGETS, TableRow, Target

TABLES = {
    1: "ogbn-proteins, test ROC-AUC [%]",
    2: "ogbn-arxiv, test accuracy [%]",
    3: "ogbn-arxiv by convolution, test accuracy [%]",
    6: "ogbn-proteins, 112 layers, test ROC-AUC [%]",
}
"""Number of the table -> data set and metric."""

HEAD = (
    "row",
    "paper",
    "ours",
    "paper [GiB]",
    "ours [GiB]",
    "resident [GiB]",
    "paper params",
    "our params",
    "measured",
)
NOT_RUN = "not run"


class Figures(TypedDict):
    """The figures that the paper prints for a row."""

    metric: float | None
    std: float | None
    runs: int | None
    memory_gb: float | None
    parameters: str | None


class Group(TypedDict):
    """Runs of a row that differ only in the seed."""

    changed: Changed
    runs: int
    runs_of_the_paper: int | None
    seeds: list[int]
    metric: Spread
    valid: Spread
    memory_gb: float | None
    resident_gb: float | None
    parameters: int
    seconds_per_step: float
    training_seconds: float
    hardware: str
    device: str
    precision: str
    implementation: str
    commits: list[str]
    dates: list[str]


class Entry(TypedDict):
    """A row of a table."""

    row: int
    name: str
    recipe: str
    paper: Figures
    parameters: int | None
    """Of the recipe's network."""
    assumed: list[str]
    notes: list[str]
    memory: MemoryFigures | None
    """For a recipe that did not run."""
    measured: list[Group]
    """Full runs first; empty without runs."""


class TableReport(TypedDict):
    """A table of the paper beside measured results."""

    table: int
    title: str
    rows: list[Entry]
    summary: str


def build_table(number: int, rows: Sequence[RunRow], memory: Sequence[MemoryRow] = ()) -> TableReport:
    """Combine a table of the paper with the rows of finished runs.

    Args:
        number: a key of `TABLES`.
        rows: rows of `read_rows`.
        memory: rows of `read_memory`, for recipes that did not run.
    Raises: ValueError: an unknown table.
    """
    if number not in TABLES:
        raise ValueError(f"table {number} is not here; choose one of {', '.join(map(str, TABLES))}")
    found: list[Entry] = [
        {
            "row": place.row,
            "name": place.name,
            "recipe": recipe,
            "paper": {
                "metric": target.metric,
                "std": target.std,
                "runs": target.runs,
                "memory_gb": target.memory_gb,
                "parameters": target.printed,
            },
            "parameters": target.parameters,
            "assumed": list(target.assumed),
            "notes": list(target.notes),
            "memory": newest_memory(recipe, memory),
            "measured": _groups([row for row in rows if row["recipe"] == recipe], target),
        }
        for recipe, target, place in _places(number)
    ]
    found.sort(key=lambda row: row["row"])
    return {"table": number, "title": TABLES[number], "rows": found, "summary": _summary(found)}


def table_lines(table: TableReport) -> list[list[str]]:
    """Format a table as cells under `HEAD`: one line per row, and one more for each further group of its runs."""
    lines = []
    for row in table["rows"]:
        paper = row["paper"]
        mark = "*" if row["assumed"] or row["notes"] else ""
        cells = [
            f"{row['name']}{mark}",
            _figure(paper["metric"], paper["std"]),
            _gigabytes(paper["memory_gb"]),
            paper["parameters"] or "–",
        ]
        for position, group in enumerate(row["measured"] or [None]):
            name, metric, memory, parameters = cells if position == 0 else ["", "", "", ""]
            if group is None:
                step = row["memory"]
                tensors = (
                    "–" if step is None else ("~" if step["how"] == ESTIMATE else "") + _gigabytes(step["memory_gb"])
                )
                process = "–" if step is None else _gigabytes(step["resident_gb"])
                measured = NOT_RUN if step is None else f"{NOT_RUN}; memory: {step['said']}"
                lines.append(
                    [name, metric, "–", memory, tensors, process, parameters, integer(row["parameters"]), measured]
                )
                continue
            score = group["metric"]
            ours = [_gigabytes(group["memory_gb"]), _gigabytes(group["resident_gb"])]
            figure, count = _figure(score["mean"], score["std"]), integer(group["parameters"])
            lines.append([name, metric, figure, memory, *ours, parameters, count, _circumstances(group)])
    return lines


def markdown_table(table: TableReport) -> str:
    """Format a table as Markdown, with its notes below."""
    lines = [f"**Table {table['table']}**: {table['title']}", "", "| " + " | ".join(HEAD) + " |"]
    lines.append("|---|" + "---:|" * (len(HEAD) - 2) + "---|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table_lines(table)]
    return "\n".join([*lines, "", table["summary"], *(f"\n- {note}" for note in notes(table))])


def notes(table: TableReport) -> list[str]:
    """Return the notes of the marked rows, each once with the names of its rows."""
    rows_by_note: dict[str, list[str]] = {}
    for row in table["rows"]:
        assumed = [f"Assumed, because no source says it: {', '.join(row['assumed'])}."] if row["assumed"] else []
        for note in [*row["notes"], *assumed]:
            rows_by_note.setdefault(note, []).append(row["name"])
    count = len(table["rows"])
    return [
        f"{'All rows' if len(names) == count else ', '.join(names)}: {note}" for note, names in rows_by_note.items()
    ]


def _places(number: int) -> Iterator[tuple[str, Target, TableRow]]:
    for name, target in TARGETS.items():
        for place in target.places:
            if place.table == number:
                yield name, target, place


def _groups(rows: list[RunRow], target: Target) -> list[Group]:
    by_key: dict[str, list[RunRow]] = {}
    for row in rows:
        key = (row["changed"], row["hardware"], row["device"], row["precision"], row["implementation"])
        by_key.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    groups = [_group(list(_newest(group)), target) for group in by_key.values()]
    groups.sort(key=lambda group: (len(group["changed"]), -group["runs"]))
    return groups


def _newest(rows: list[RunRow]) -> Iterator[RunRow]:
    """Yield the newest row of each seed."""
    yield from {row["seed"]: row for row in sorted(rows, key=lambda row: str(row["date"]))}.values()


def _group(rows: list[RunRow], target: Target) -> Group:
    first = rows[0]
    peaks = [peak for row in rows if (peak := row["peak_bytes"]) is not None]
    grown = [growth for row in rows if (growth := row.get("resident_bytes")) is not None]
    return {
        "changed": first["changed"],
        "runs": len(rows),
        "runs_of_the_paper": target.runs,
        "seeds": sorted(row["seed"] for row in rows),
        "metric": spread([_score(row, "test") for row in rows]),
        "valid": spread([_score(row, "valid") for row in rows]),
        "memory_gb": max(peaks) / 2**30 if len(peaks) == len(rows) else None,
        "resident_gb": max(grown) / 2**30 if grown else None,
        "parameters": first["parameters"],
        "seconds_per_step": max(row["seconds_per_step"] for row in rows),
        "training_seconds": sum(row["training_seconds"] for row in rows),
        "hardware": first["hardware"],
        "device": first["device"],
        "precision": first["precision"],
        "implementation": first["implementation"],
        "commits": sorted({row["commit"] or "unknown commit" for row in rows}),
        "dates": sorted({str(row["date"])[:10] for row in rows}),
    }


def _score(row: RunRow, split: str) -> float | None:
    score = row["scores"].get(split)
    value = None if score is None else score["metric"]
    return None if value is None else 100.0 * value


def _circumstances(group: Group) -> str:
    """Describe hardware, dates, commits and number of runs of a group, and its differences from the recipe."""
    of_paper = f" of {group['runs_of_the_paper']}" if group["runs_of_the_paper"] else ""
    runs = f"{group['runs']}{of_paper} run{'s' if group['runs'] != 1 or of_paper else ''}"
    commits = ", ".join(_short(commit) for commit in group["commits"])
    text = f"{group['hardware']}, {' to '.join(_ends(group['dates']))}, {commits}, {runs}"
    return text + "".join(f"; {change}" for change in _changes(group["changed"]))


def _changes(changed: Changed) -> list[str]:
    changes = []
    for name, (wanted, got) in changed.items():
        if isinstance(wanted, int) and isinstance(got, int):
            if name == "train.epochs" and got < wanted:
                changes.append(f"SHORT: {got} of {wanted} epochs")
                continue
            if name.startswith("data."):
                changes.append(f"OTHER DATA: {integer(got)} {name.partition('.')[2]} instead of {integer(wanted)}")
                continue
        changes.append(f"{name}={got} instead of {wanted}")
    return changes


def _short(commit: str) -> str:
    """Return the first eight digits of a commit's hash with its "-dirty" mark; words are unchanged."""
    if " " in commit:
        return commit
    return commit[:8] + ("-dirty" if commit.endswith("-dirty") else "")


def _ends(dates: Sequence[str]) -> list[str]:
    return [dates[0]] if len(dates) == 1 else [dates[0], dates[-1]]


def _summary(rows: Sequence[Entry]) -> str:
    """Count the rows with an unchanged run, with changed runs only, and without runs."""
    unchanged = sum(any(not group["changed"] for group in row["measured"]) for row in rows)
    some = sum(bool(row["measured"]) for row in rows)
    return (
        f"Of {len(rows)} rows {unchanged} ran as the recipe says, {some - unchanged} only shortened or changed, "
        f"{len(rows) - some} not at all."
    )


def _figure(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _gigabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
