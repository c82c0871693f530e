"""Equilibria: how their solves end, and what they reach beside stacked networks, as docs/equilibrium.md shows it."""

from __future__ import annotations

from functools import partial

from revgnn.paper.recipes import all_recipes
from revgnn.paper.results import read_rows
from revgnn.report.row import duration, memory

from .rows import RESULTS, Row, score, table
from .runs import size

EQUILIBRIA = {
    "arxiv-text/deq": ("deq", "deq_unrolled", "deq_gcn", "wt_resgcn", "wt_revgcn", "revgcn_7", "revgcn_28"),
    "minesweeper/deq": ("deq", "deq_unrolled", "revsage_4", "ressage", "revsage"),
    "cora/deq": ("deq", "revgcn_2", "revgcn_64", "gcnii_64"),
}
"""A contractive equilibrium -> the recipes of its data set that stand beside it."""


def _newest_runs(dataset: str) -> dict[str, Row]:
    """The newest run of each recipe of a data set as it stands, with seed 0."""
    # The first runs knew one kind of initial weights, which is the default now.
    same = {"dataset.split", "model.equilibrium.contraction_init"}
    return {
        row["recipe"]: row
        for row in read_rows(RESULTS)
        if row["recipe"].startswith(f"{dataset}/") and row["seed"] == 0 and row["changed"].keys() <= same
    }


def _equilibrium_rows() -> dict[str, Row]:
    return {name: _newest_runs(name.partition("/")[0])[name] for name in EQUILIBRIA}


def _equilibrium_solves() -> str:
    """How many solves of contractive equilibria reached their tolerance, in the last epoch and in all epochs."""
    head = ["recipe", "contraction", "direction", "tolerance", "solves", "within it, last epoch"]
    head += ["within it, all epochs", "median residual, last epoch", "largest", "iterations"]
    rows = []
    for name, row in _equilibrium_rows().items():
        options = all_recipes()[name]().model.equilibrium
        for direction, tol in (("forward", options.tol), ("backward", options.backward_tol)):
            each = {key: row["observed"][f"{direction} {key}"] for key in ("solves", "failures", "iterations")}
            last, total = 1 - each["failures"][-1] / each["solves"][-1], sum(each["solves"])
            cells = [f"`{name}`", f"{options.contraction}", direction, f"{tol:g}", f"{total:,.0f}", f"{last:.1%}"]
            cells += [f"{1 - sum(each['failures']) / total:.1%}"]
            cells += [f"{row['observed'][f'{direction} {key}'][-1]:.2g}" for key in ("residual", "residual max")]
            rows.append([*cells, f"{each['iterations'][-1]:.1f}"])
    return table(head, rows, left=("recipe", "direction"))


def _equilibrium_epochs() -> str:
    """Median residuals and mean iterations over the epochs."""
    head = [
        "recipe",
        "epoch",
        *(f"{way} {what}" for way in ("forward", "backward") for what in ("residual", "iterations")),
    ]
    rows = []
    for name, row in _equilibrium_rows().items():
        observed = row["observed"]
        epochs = len(observed["forward residual"])
        for epoch in sorted({1, *(round(epochs * share / 8) for share in range(1, 9))}):
            cells = []
            for direction in ("forward", "backward"):
                cells.append(f"{observed[f'{direction} residual'][epoch - 1]:.2g}")
                cells.append(f"{observed[f'{direction} iterations'][epoch - 1]:.1f}")
            rows.append([f"`{name}`", str(epoch), *cells])
    return table(head, rows, left=("recipe",))


def _equilibrium_scores(dataset: str) -> str:
    """An equilibrium beside its own block unrolled, and beside stacked networks."""
    head = ["recipe", "depth", "channels", "parameters", "valid", "test", "memory", "process", "training"]
    rows = []
    found = _newest_runs(dataset)
    for recipe in EQUILIBRIA[f"{dataset}/deq"]:
        row = found.get(f"{dataset}/{recipe}")
        if row is None:
            continue
        cells = [f"`{recipe}`", *size(row), f"{row['parameters']:,}"]
        cells += [f"{score(row, split):.2f}" for split in ("valid", "test")]
        cells += [memory(row["peak_bytes"]), memory(row.get("resident_bytes")), duration(row["training_seconds"])]
        rows.append(cells)
    return table(head, rows, left=("recipe",))


def _equilibrium_chain() -> str:
    """Test accuracy over the length of the chains, for each network."""
    found: dict[str, dict[int, Row]] = {}
    for row in read_rows(RESULTS):
        if row["recipe"].startswith("chain/") and row["changed"].keys() <= {"dataset.chain.length"}:
            length = row["changed"].get("dataset.chain.length", (0, 100))[1]
            found.setdefault(row["recipe"].partition("/")[2], {})[length] = row
    lengths = sorted({length for rows in found.values() for length in rows})
    lines = []
    for recipe, rows in sorted(found.items(), key=lambda item: sum(score(row, "test") for row in item[1].values())):
        depth, parameters = size(next(iter(rows.values())))[0], next(iter(rows.values()))["parameters"]
        cells = [f"{score(rows[length], 'test'):.1f}" if length in rows else "" for length in lengths]
        lines.append([f"`{recipe}`", depth, f"{parameters:,}", *cells])
    head = ["recipe", "depth", "parameters", *(f"{length} nodes" for length in lengths)]
    return table(head, lines, left=("recipe",))


BLOCKS = {
    "equilibrium-solves": _equilibrium_solves,
    "equilibrium-epochs": _equilibrium_epochs,
    "equilibrium-arxiv": partial(_equilibrium_scores, "arxiv-text"),
    "equilibrium-minesweeper": partial(_equilibrium_scores, "minesweeper"),
    "equilibrium-cora": partial(_equilibrium_scores, "cora"),
    "equilibrium-chain": _equilibrium_chain,
}
