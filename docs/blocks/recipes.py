"""Recipes, data sets and the paper's tables, as the documents list them."""

from __future__ import annotations

from revgnn.data import DATASETS, GraphInfo
from revgnn.paper.memory import read_memory
from revgnn.paper.recipes import recipe_summaries
from revgnn.paper.results import read_rows
from revgnn.paper.tables import TABLES, build_table, markdown_table
from revgnn.paper.targets import TARGETS, Target, find_target

from .rows import RESULTS, table


def _recipes() -> str:
    """One line per data set: which of the paper's tables its recipes are rows of, and their names."""
    head, rows = ["data set", "in the paper", "recipes"], []
    for dataset, recipes in _by_dataset().items():
        targets = [target for name in recipes if (target := find_target(f"{dataset}/{name}")) is not None]
        tables = sorted({place.table for target in targets for place in target.places})
        where = ", ".join(f"Table {number}" for number in tables) or ("text" if targets else "")
        rows.append([f"`{dataset}`", where, " ".join(f"`{name}`" for name in recipes)])
    return table(head, rows, left=head)


def _all_recipes() -> str:
    """Every recipe with what the paper prints for it, and the parameters of its network."""
    head = ["recipe", "network", "in the paper", "metric", "memory [GiB]", "printed", "parameters", "assumed"]
    rows = []
    for name, text in recipe_summaries().items():
        paper = find_target(name) or Target()
        where = ", ".join(f"Table {place.table}, row {place.row}" for place in paper.places)
        metric = "" if paper.metric is None else f"{paper.metric:.2f}"
        metric += "" if paper.std is None else f" ± {paper.std:.2f}"
        count = "" if paper.parameters is None else f"{paper.parameters:,}"
        memory_gb = "" if paper.memory_gb is None else f"{paper.memory_gb:.2f}"
        assumed = " ".join(f"`{field}`" for field in paper.assumed)
        rows.append([f"`{name}`", text, where, metric, memory_gb, paper.printed or "", count, assumed])
    return table(head, rows, left=("recipe", "network", "in the paper", "assumed"))


def _by_dataset() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in recipe_summaries():
        dataset, _, short = name.partition("/")
        found.setdefault(dataset, []).append(short)
    return found


def _datasets() -> str:
    """Every data set by name: what is predicted, its sizes as published, its metric, its splits, who fetches it."""
    head = ["name", "a node, and what is predicted", "nodes", "edges", "features", "metric", "splits", "fetched by"]
    rows = []
    for name, known in DATASETS.items():
        info = known.info or GraphInfo(metric="–")
        counts = [info.counts.nodes, info.counts.edges, info.in_channels]
        splits = ", ".join(map(str, known.splits))
        splits = f"{known.splits[0]} to {known.splits[-1]}" if len(known.splits) > 2 else splits
        sizes = [f"{count:,}" if count else "" for count in counts]
        rows.append([f"`{name}`", known.asks, *sizes, info.metric, splits or "one", known.download])
    return table(head, rows, left=("name", head[1], "metric", "splits", "fetched by"))


def _notes() -> str:
    """What a reader of a row has to know, each thing once with the recipes that it is of."""
    of: dict[str, list[str]] = {}
    for name, target in TARGETS.items():
        for note in target.notes:
            of.setdefault(note, []).append(f"`{name}`")
    return "\n".join(f"- {note} ({', '.join(names)})" for note, names in of.items())


def _tables() -> str:
    rows, alone = read_rows(RESULTS), read_memory(RESULTS)
    return "\n\n".join(markdown_table(build_table(number, rows, alone)) for number in TABLES)


BLOCKS = {
    "recipes": _recipes,
    "all-recipes": _all_recipes,
    "datasets": _datasets,
    "notes": _notes,
    "tables": _tables,
}
