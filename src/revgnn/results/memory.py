"""The memory column without the data: one training step of each row on a made-up graph of the data set's exact counts.

Memory depends on sizes alone. A row that trains by random parts is measured on one part of the expected size. What is
too large or too slow is estimated by the planner, and marked so. Rows stand in ``memory.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import LoaderConfig
from ..experiment import Experiment
from ..ops import implementation
from ..planner import estimate, rates_of, shape_of_config
from ..planner.dry_run import measured_peak, step_size
from ..planner.isolated import resident_in_isolation
from ..planner.roofline import step_work
from ..planner.synthetic import GraphShape
from ..recipes import all_recipes, find_recipe
from ..report import circumstances
from ..run_lock import appending
from .rows import read_lines

MEMORY_FILE = "memory.jsonl"
MEASURED, ESTIMATE = "measured", "estimate"
SLOWER = 3.0
"""By which steps may take longer than their necessary work: the planner's own error."""


def rows_of_tables(table: int | None, recipes: Sequence[str] | None = None) -> list[str]:
    """Name the recipes that are rows of a table of the paper, of all tables, or those given.

    Raises: ValueError: an unknown recipe.
    """
    if recipes:
        for name in recipes:
            find_recipe(name)
        return list(recipes)
    found = []
    for name, recipe in all_recipes().items():
        target = recipe().paper
        places = () if target is None else target.places
        if any(table in (None, place.table) for place in places):
            found.append(name)
    return found


def memory_row(name: str, *, limit: int, seconds: float, max_nodes: int | None = None) -> dict[str, Any]:
    """Measure the memory of a row's training step on the CPU, or estimate it.

    Args:
        name: of the recipe.
        limit: bytes; a row whose process is predicted to take more is not run.
        seconds: a row whose two steps are predicted to take more is not run.
        max_nodes: a row whose step sees more is not run; ``None``: no bound.
    Returns: one JSON value.
    """
    run, shape, waiting, of = step_of(replace(find_recipe(name)(), paper=None))
    nodes, edges = step_size(run, shape)
    prediction = estimate(run, shape)
    predicted = prediction.peak + waiting
    expected = 2 * SLOWER * step_work(run, shape, nodes, edges).seconds(rates_of("cpu"))
    reasons = []
    if prediction.process + waiting > limit:
        reasons.append("memory")
    if expected > seconds:
        reasons.append("time")
    if max_nodes is not None and nodes > max_nodes:
        reasons.append("nodes")
    peak = predicted if reasons else measured_peak(run, shape) + waiting
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
        "hardware": where["machine"]["cpu"],
        "implementation": implementation("cpu"),
        "versions": where["versions"],
        "commit": where["git_commit"],
        "date": where["date"],
    }


def step_of(run: Experiment) -> tuple[Experiment, GraphShape, int, str]:
    """Give a run whose whole graph is what a step of a run sees, its shape, the bytes of batches made ahead, and words.

    What making a part takes is left out: it is no part of a step.
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


def append_memory(row: Mapping[str, Any], results: Path) -> None:
    """Append a row to ``memory.jsonl`` in the folder of results."""
    with appending(results / MEMORY_FILE) as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_memory(results: Path) -> list[dict[str, Any]]:
    """Read the rows of ``memory.jsonl``; no file is no rows.

    Raises: ValueError: a line that is no JSON, with file and line.
    """
    path = results / MEMORY_FILE
    return list(read_lines(path)) if path.is_file() else []


def newest_memory(recipe: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Give the newest row of a recipe for a table, one that was measured before one that was estimated."""
    found = [row for row in rows if row["recipe"] == recipe]
    if not found:
        return None
    row = max(found, key=lambda row: (row["how"] == MEASURED, str(row["date"])))
    commit = row["commit"] or "unknown commit"
    how = f"{row['how']} of a step on {row['of']}"
    return {
        "memory_gb": row["peak_bytes"] / 2**30,
        "resident_gb": None if (grown := row.get("resident_bytes")) is None else grown / 2**30,
        "how": row["how"],
        "said": f"{how}, {row['hardware']}, {str(row['date'])[:10]}, {commit[:8]}",
    }
