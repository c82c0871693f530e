"""Measure the memory of the paper's rows without data, by a training step on a synthetic graph of equal size.

Memory depends only on sizes. A row that trains on random parts is measured on one part of the expected size. A row that
is too large or too slow is estimated by the planner and marked. Rows are written to ``memory.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, cast

from ..data import LoaderConfig
from ..experiment import Experiment
from ..ops import implementation
from ..planner import estimate, rates_of, shape_of_config
from ..planner.dry_run import measured_peak
from ..planner.isolated import resident_in_isolation
from ..planner.roofline import step_work
from ..planner.step_size import step_size
from ..planner.synthetic import GraphShape
from ..report import circumstances
from ..run_lock import appending
from .recipes import find_recipe
from .results import read_lines
from .targets import TARGETS

MEMORY_FILE = "memory.jsonl"
MEASURED, ESTIMATE = "measured", "estimate"
SLOWER = 3.0
"""Factor by which a step may be slower than its roofline: the planner's own error."""


class MemoryRow(TypedDict):
    """The memory of a recipe's training step without its data."""

    format: int
    kind: str
    recipe: str
    peak_bytes: int
    resident_bytes: int | None
    how: str
    because: list[str]
    """Why it is an estimate: "memory", "time", "nodes"; empty: it was measured."""
    of: str
    """What the step is on."""
    predicted_bytes: int
    step_nodes: int
    step_edges: int
    parameters: int
    device: str
    hardware: str
    implementation: str
    versions: dict[str, str | None]
    commit: str | None
    date: str


class MemoryFigures(TypedDict):
    """The memory of a recipe that did not run, for a table; in GiB."""

    memory_gb: float
    resident_gb: float | None
    how: str
    said: str
    """Where and when it was measured or estimated."""


def rows_of_tables(table: int | None, recipes: Sequence[str] | None = None) -> list[str]:
    """Return the recipes of a table of the paper, of all tables (``None``), or the given ones.

    Raises: ValueError: an unknown recipe.
    """
    if recipes:
        for name in recipes:
            find_recipe(name)
        return list(recipes)
    return [name for name, target in TARGETS.items() if any(table in (None, place.table) for place in target.places)]


def memory_row(name: str, *, limit: int, seconds: float, max_nodes: int | None = None) -> MemoryRow:
    """Measure the memory of a row's training step on the CPU, or estimate it.

    Args:
        name: name of the recipe.
        limit: bytes; a row is estimated if its process is predicted to take more.
        seconds: a row is estimated if its two steps are predicted to take more.
        max_nodes: a row is estimated if its step has more nodes; ``None``: no bound.
    """
    run, shape, prefetched, of = step_of(find_recipe(name)())
    nodes, edges = step_size(run, shape)
    prediction = estimate(run, shape)
    predicted = prediction.peak + prefetched
    expected = 2 * SLOWER * step_work(run, shape, nodes, edges).seconds(rates_of("cpu"))
    reasons = []
    if prediction.process + prefetched > limit:
        reasons.append("memory")
    if expected > seconds:
        reasons.append("time")
    if max_nodes is not None and nodes > max_nodes:
        reasons.append("nodes")
    peak = predicted if reasons else measured_peak(run, shape) + prefetched
    resident = None if reasons else resident_in_isolation(run, shape)
    where = circumstances()
    return {
        "format": 1,
        "kind": "memory",
        "recipe": name,
        "peak_bytes": peak,
        "resident_bytes": None if resident is None else resident.growth,
        "how": ESTIMATE if reasons else MEASURED,
        "because": reasons,
        "of": of,
        "predicted_bytes": predicted,
        "step_nodes": nodes,
        "step_edges": edges,
        "parameters": prediction.parameters,
        "device": "cpu",
        "hardware": str(where["machine"]["cpu"]),
        "implementation": implementation("cpu"),
        "versions": where["versions"],
        "commit": where["git_commit"],
        "date": where["date"],
    }


def step_of(run: Experiment) -> tuple[Experiment, GraphShape, int, str]:
    """Replace a run by one whose full batch is a step of it.

    Making a part is no part of a step, so its memory is not counted.

    Returns: the run, the shape of its graph, the bytes of prefetched batches, and a description.
    """
    shape = shape_of_config(run.dataset)
    if run.loader.kind == "full" or shape.info.task_spec.has_many_graphs:
        return run, shape, 0, "a batch of graphs" if shape.info.task_spec.has_many_graphs else "the whole graph"
    nodes, edges = step_size(run, shape)
    part = shape.counted(nodes=nodes, edges=edges, train=min(shape.train * nodes // shape.nodes, nodes - 4))
    channels = shape.info.edge_channels or 0
    batch = 4 * (nodes * (shape.info.in_channels + shape.info.num_outputs + 1) + edges * (1 + channels))
    of = "one part of the expected size, and batches ahead"
    return replace(run, loader=LoaderConfig()), part, run.loader.prefetch * batch, of


def append_memory(row: MemoryRow, results: Path) -> None:
    """Append a row to ``memory.jsonl`` in a folder of results."""
    with appending(results / MEMORY_FILE) as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_memory(results: Path) -> list[MemoryRow]:
    """Read the rows of ``memory.jsonl``; empty if the file is missing.

    Raises: ValueError: a line that is no JSON, with file and line.
    """
    path = results / MEMORY_FILE
    return [cast(MemoryRow, row) for row in read_lines(path)] if path.is_file() else []


def newest_memory(recipe: str, rows: Sequence[MemoryRow]) -> MemoryFigures | None:
    """Return the newest row of a recipe for a table, preferring a measured one to an estimate; ``None``: no row."""
    found = [row for row in rows if row["recipe"] == recipe]
    if not found:
        return None
    row = max(found, key=lambda row: (row["how"] == MEASURED, str(row["date"])))
    commit = row["commit"] or "unknown commit"
    lacking = f" (for lack of {' and '.join(row['because'])})" if row["because"] else ""
    how = f"{row['how']}{lacking} of a step on {row['of']}"
    return {
        "memory_gb": row["peak_bytes"] / 2**30,
        "resident_gb": None if (grown := row.get("resident_bytes")) is None else grown / 2**30,
        "how": row["how"],
        "said": f"{how}, {row['hardware']}, {str(row['date'])[:10]}, {commit[:8]}",
    }
