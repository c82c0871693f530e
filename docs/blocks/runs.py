"""Finished runs, as docs/runs.md and docs/batches.md show them."""

from __future__ import annotations

from functools import partial

from revgnn import ModelConfig
from revgnn.paper.recipes import all_recipes, find_recipe, recipe_summaries
from revgnn.paper.results import read_rows
from revgnn.report.row import duration, memory

from .rows import RESULTS, Row, score, table

_IN_WORDS = {
    "dataset.chain.length": "chains of {} nodes",
    "dataset.name=prepared": "",
    "dataset.path=graph512": "",
    "dataset.path=graph512s": "self loops",
    "dataset.split": "",
    "dataset.undirected=False": "",
    "loader.kind=ondisk": "parts from disk",
    "loader.num_parts=None": "",
    "model.backprop=store": "",
    "model.coupling=residual": "residual, stored",
    "model.dropout": "dropout {}",
    "model.hidden_channels": "",
    "model.initial": "initial residual {}",
    "model.input_dropout": "input dropout {}",
    "model.num_layers": "",
    "model.sage.init": "{} init",
    "model.sage.root_weight=False": "one matrix",
    "train.ema_decay": "EMA {}",
    "train.epochs": "{} epochs",
    "train.eval_every": "evaluated every {} epochs",
    "train.labels.reuse=True": "labels as input",
    "train.patience": "patience {}",
    "train.schedule": "{} schedule",
    "train.select=loss": "selected by loss",
    "train.weight_decay": "weight decay {}",
    "train.weight_decays=[['stack', 0.01]]": "weight decay 0.01 in the stack",
    "model.norm": "{} norm",
    "train.lr": "lr {}",
    "train.teacher.alpha": "",
    "train.teacher.path=teacher/logits.safetensors": "one teacher",
    "train.teacher.path=teacher3/logits.safetensors": "three teachers",
    "train.teacher.temperature": "",
    "train.warmup_epochs": "warm-up {}",
}
"""A changed field, or one with its value -> how the page of runs says it; "" where another field or column says it."""


_RUNS = {
    "runs-depth": (("revgcn_7", ""), ("revgcn_28", ""), ("revgcn_112", ""), ("revgcn", "")),
    "runs-deep-settings": (
        ("revgcn_112", "dropout 0.3, lr 0.01, warm-up 2"),
        ("revgcn_112", "dropout 0.3"),
        ("revgcn_112", ""),
    ),
    "runs-coupling": tuple((f"{kind}{conv}", "") for conv in ("gcn", "sage", "gen", "gat") for kind in ("res", "rev")),
    "runs-sharing": (("revgcn_28", ""), ("wt_revgcn", ""), ("wt_resgcn", ""), ("deq_gcn", "")),
    "runs-labels": (
        ("revgcn", "50 epochs"),
        ("revgcn", "50 epochs, labels as input"),
        ("revgat_plain", "60 epochs"),
        ("revgat_labels", "60 epochs"),
        ("revgat_selfkd", "60 epochs"),
    ),
    "runs-parts": (
        ("revgcn", ""),
        ("revgcn_full_batch", ""),
        ("revgcn", "50 epochs, labels as input"),
        ("revgcn", "parts from disk, 50 epochs, labels as input"),
    ),
    "runs-sage": (
        ("revsage_56", "parts from disk"),
        ("revsage_56", "parts from disk, glorot init"),
        ("revsage_56", "parts from disk, dropout 0.2, glorot init, EMA 0.99"),
        ("revsage_56", "self loops, parts from disk, glorot init, one matrix, EMA 0.99, 48 epochs, warm-up 5"),
        (
            "revsage_56",
            "self loops, parts from disk, glorot init, one matrix, EMA 0.99, 48 epochs, evaluated every 16 epochs, "
            "warm-up 5",
        ),
        (
            "revsage_56",
            "self loops, parts from disk, dropout 0.15, glorot init, one matrix, EMA 0.99, evaluated every 8 epochs",
        ),
    ),
    "runs-norm": (("ogbg-molhiv/revgen_batchnorm", "6 epochs"), ("ogbg-molhiv/revgen_graphnorm", "6 epochs")),
}
"""Block of the page of runs -> recipes (of arxiv-text where none is named), each with its changes in words."""


def changes(row: Row) -> str:
    """Return what a run changed of its recipe, its width apart, in words."""
    said = []
    for name, (_, got) in row["changed"].items():
        words = _IN_WORDS.get(f"{name}={got}", _IN_WORDS.get(name, f"{name}={{}}"))
        said.append(words.format(got))
    return ", ".join(filter(None, said))


def with_width(row: Row) -> str:
    """Return what a run changed of its recipe, its width included, in words."""
    width = f"{size(row)[1]} channels" if "model.hidden_channels" in row["changed"] else ""
    return ", ".join(filter(None, [changes(row), width]))


def size(row: Row) -> tuple[str, str]:
    """Return the layers and channels of a run's network; of a baseline neither is shown."""
    model = all_recipes()[row["recipe"]]().model
    if not isinstance(model, ModelConfig):
        return "–", "–"
    _, channels = row["changed"].get("model.hidden_channels", (None, model.hidden_channels))
    _, num_layers = row["changed"].get("model.num_layers", (None, model.num_layers))
    depth = str(num_layers)
    if model.backprop == "implicit":
        options = model.equilibrium
        is_solved = options.pretrain_epochs < all_recipes()[row["recipe"]]().train.epochs
        depth = "fixed point" if is_solved else f"unrolled {options.pretrain_steps} times"
    return depth, str(channels)


def _runs_of(block: str) -> str:
    """The newest run of each seed that answers one question of the page of runs."""
    head = ["recipe", "layers", "channels", "changes", "parameters", "valid", "test", "memory", "training"]
    found = {}
    for row in read_rows(RESULTS):
        found[row["recipe"], changes(row), row["seed"]] = row
    rows = []
    for name, words in _RUNS[block]:
        recipe = name if "/" in name else f"arxiv-text/{name}"
        seeds = {seed: row for (*key, seed), row in found.items() if key == [recipe, words]}
        if not seeds:
            raise ValueError(f"docs/runs.md shows {recipe} with {words!r} and runs.jsonl has no such run; change _RUNS")
        for seed, row in seeds.items():
            said = ", ".join(filter(None, [words, f"seed {seed}" if seed else ""]))
            scores = [f"{score(row, split):.2f}" for split in ("valid", "test")]
            cells = [f"`{name}`", *size(row), said, f"{row['parameters']:,}", *scores]
            rows.append([*cells, memory(row["peak_bytes"]), duration(row["training_seconds"])])
    shown = [k for k in range(len(head)) if any(row[k] for row in rows)]
    return table([head[k] for k in shown], ([row[k] for k in shown] for row in rows), left=("recipe", "changes"))


def _runs() -> str:
    """Every finished run with what it changed of its recipe, recipe by recipe, newest last."""
    head = ["recipe", "changes", "seed", "parameters", "valid", "test", "best epoch", "peak", "process", "step"]
    head += ["training", "measured"]
    rows = []
    order = {name: position for position, name in enumerate(all_recipes())}
    for row in sorted(read_rows(RESULTS), key=lambda row: order[row["recipe"]]):
        cells = [
            f"`{row['recipe']}`",
            with_width(row),
            str(row["seed"]),
            f"{row['parameters']:,}",
            *(f"{score(row, split):.2f}" for split in ("valid", "test")),
            f"{row['best_epoch']} of {row['epochs']}",
            memory(row["peak_bytes"]),
            memory(row.get("resident_bytes")),
            duration(row["seconds_per_step"]),
            duration(row["training_seconds"]),
            f"{row['hardware']}, {row['date'][:10]}, {(row['commit'] or 'unknown commit')[:8]}",
        ]
        rows.append(cells)
    return table(head, rows, left=("recipe", "changes", "measured"))


def _batches_runs(*, equal_time: bool) -> str:
    """The newest run of each way to make batches, in the order of the recipes.

    Args:
        equal_time: whether to show the runs whose epochs were changed, so that all take about as long; or those with
            the epochs of the recipes.
    """
    found = {}
    for row in read_rows(RESULTS):
        changed, is_one = row["changed"].keys(), row["recipe"].startswith("arxiv-text/batches_")
        trains_alike = all(name.startswith("train.") for name in changed)
        if is_one and trains_alike and ("train.epochs" in changed) == equal_time:
            found[row["recipe"]] = row
    head = ["`loader`", "epochs", "valid", "test", "memory", "process", "a step", "training"]
    rows = []
    for name in filter(found.__contains__, recipe_summaries()):
        row, loader = found[name], find_recipe(name)().loader
        said = [f"kind={loader.kind}"]
        said += [] if loader.diagonal is None else [f"diagonal={loader.diagonal:g}"]
        said += [f"saint.sampler={loader.saint.sampler}"] if loader.kind == "saint" else []
        cells = [
            f"`{', '.join(said)}`",
            str(row["epochs"]),
            *(f"{score(row, split):.2f}" for split in ("valid", "test")),
            memory(row["peak_bytes"]),
            memory(row["resident_bytes"]),
            duration(row["seconds_per_step"]),
            duration(row["training_seconds"]),
        ]
        rows.append(cells)
    return table(head, rows, left=("`loader`",)) if found else "Not run yet."


BLOCKS = {
    "runs": _runs,
    "batches-runs": partial(_batches_runs, equal_time=False),
    "batches-time": partial(_batches_runs, equal_time=True),
    **{block: partial(_runs_of, block) for block in _RUNS},
}
