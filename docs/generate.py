"""Write what the documents show and the project knows: figures, tables, lists and trees between markers.

    python docs/generate.py             fill the blocks of the documents, and draw docs/batch.svg
    python docs/generate.py --measure   measure memory over depth first (minutes), then fill them

A block stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what is in it is written here alone. The suite
fails where a block is not what this file would write.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from revgnn import ModelConfig, build_model
from revgnn.data import DATASETS, GraphInfo
from revgnn.demo import run_demo
from revgnn.demo.over_depth import Curve, memory_over_depth, resident_over_depth
from revgnn.demo.picture import DARK, LIGHT, draw_memory
from revgnn.paper.memory import read_memory
from revgnn.paper.recipes import all_recipes, digits, find_recipe, recipe_summaries
from revgnn.paper.results import read_lines, read_rows
from revgnn.paper.tables import TABLES, build_table, markdown_table
from revgnn.paper.targets import TARGETS, Target, find_target
from revgnn.report.row import duration, memory
from revgnn.train import METRICS

ROOT = Path(__file__).resolve().parent.parent
# The benchmarks are no part of the package: they are found from the root of the checkout, whatever started this.
sys.path.insert(0, str(ROOT))

from benchmarks.defaults import CANDIDATES, COMMON  # noqa: E402
from benchmarks.scale import BILLION, measured_scale, network_bytes, prepared_scale, streams  # noqa: E402

PACKAGE = ROOT / "src" / "revgnn"
FIGURES = ROOT / "docs" / "memory_over_depth.json"
PICTURES = {name: ROOT / "docs" / f"memory_over_depth{name}.svg" for name in ("", "-dark")}
DEPTH = ROOT / "docs" / "depth.json"
DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "index",
            "architecture",
            "recipes",
            "datasets",
            "paper",
            "runs",
            "depth",
            "equilibrium",
            "scale",
            "planner",
            "defaults",
            "distributed",
            "batches",
        )
    ),
    ROOT / "docs" / "batch.svg",
)
RESULTS = ROOT / "benchmarks" / "results"
DEPTHS = (7, 28, 112, 448, 1001)
BYTES_PER_PARAMETER = 16
"""Weight, gradient and Adam's two moments in float32."""

_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(document: str) -> str:
    """Give the text of a document with every block as it should be.

    Raises: KeyError: a block that nothing here writes.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", document)


def read_figures(what: str = "tensors") -> Curve:
    """Read the memory that was measured, of "tensors" or "resident": model -> depth -> bytes."""
    saved = json.loads(FIGURES.read_text(encoding="utf-8"))[what]
    return {name: {int(depth): count for depth, count in points.items()} for name, points in saved.items()}


def measure() -> None:
    """Measure memory over depth, and draw it."""
    runs = {"ResGNN": digits.resgnn(), "RevGNN": digits.revgnn()}
    console = Console(stderr=True)
    torch.set_num_threads(1)
    curve = memory_over_depth(runs, DEPTHS, console)
    resident = resident_over_depth(runs, DEPTHS, console)
    FIGURES.write_text(json.dumps({"tensors": curve, "resident": resident}, indent=1) + "\n", encoding="utf-8")
    for theme, path in zip((LIGHT, DARK), PICTURES.values(), strict=True):
        draw_memory(curve, path, resident, theme=theme)
    with tempfile.TemporaryDirectory() as folder:
        keep_demo(Path(folder) / "demo", console)


def keep_demo(out: Path, console: Console) -> None:
    """Run the demonstration and keep its pictures and figures beside the documents."""
    run_demo(out, results=None, progress=console)
    found = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    del found["files"]
    DEPTH.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name in ("depth.svg", "depth-dark.svg"):
        shutil.copyfile(out / name, ROOT / "docs" / name)


def _ten_lines() -> str:
    """The example of the README, which the suite runs."""
    example = re.search(r"```python\n.*?```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None, "README.md has no example"
    return example[0]


def _depth_claim() -> str:
    """What the demonstration found when its pictures were made."""
    found = json.loads(DEPTH.read_text(encoding="utf-8"))
    return (
        f"**{found['headline']}**, on a generated field of Minesweeper; `make demo` measures and draws it again in "
        "minutes."
    )


def _claim() -> str:
    curve, resident = read_figures(), read_figures("resident")
    res, rev = curve["ResGNN"], curve["RevGNN"]
    return (
        "Measured on one graph (1,797 nodes, SAGE, 64 channels): the tensors of a training step of 112 layers peak at "
        f"**{memory(res[112])}** with every activation stored and at **{memory(rev[112])}** with reversible layers; "
        f"with 1001 layers they peak at {memory(res[1001])} and {memory(rev[1001])}, and the process grows by "
        f"{memory(resident['ResGNN'][1001])} and {memory(resident['RevGNN'][1001])}. Only the weights, their gradients "
        f"and Adam's moments still grow with depth: {BYTES_PER_PARAMETER} bytes per parameter."
    )


def _memory_table() -> str:
    curve, resident = read_figures(), read_figures("resident")
    head = [f"{name}, {what}" for what in ("tensors", "process") for name in curve]
    lines = ["| layers | " + " | ".join(head) + " |", "|---:|" + "---:|" * len(head)]
    for depth in DEPTHS:
        cells = [memory(points[depth]) for found in (curve, resident) for points in found.values()]
        lines.append(f"| {depth} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _speed() -> str:
    """The newest measurement of one case of docs/performance.md."""
    lines = (RESULTS / "cpu.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if (row["case"], row["graph"]) == ("revgcn", "arxiv8")]
    row = max(rows, key=lambda row: row["date"])
    own, ratios = row["runs"]["revgnn"], row["ratios"]
    return (
        f"It is fast too: a training step of RevGCN ({row['layers']} layers, {row['hidden']} channels, "
        f"{row['num_nodes']:,} nodes, {row['num_edges']:,} edges; {row['threads']} threads of an "
        f"{row['machine']['cpu']}) takes {own['median_s']:.2f} s. PyG's "
        f"`GroupAddRev` takes {ratios['pyg']:.1f} times as long, {ratios['pyg-csr']:.1f} times on its fastest sparse "
        f"form, and PyG's plain residual net, which stores every activation, {ratios['pyg-residual-csr']:.1f} times. "
        "[docs/performance.md](docs/performance.md) shows every comparison, and what is missed."
    )


def _recipes() -> str:
    """One line per data set: which of the paper's tables its recipes are rows of, and their names."""
    lines = ["| data set | in the paper | recipes |", "|---|---|---|"]
    for dataset, recipes in _by_dataset().items():
        targets = [target for name in recipes if (target := find_target(f"{dataset}/{name}")) is not None]
        tables = sorted({place.table for target in targets for place in target.places})
        where = ", ".join(f"Table {table}" for table in tables) or ("text" if targets else "–")
        lines.append(f"| `{dataset}` | {where} | {' '.join(f'`{name}`' for name in recipes)} |")
    return "\n".join(lines)


def _all_recipes() -> str:
    """Every recipe with what the paper prints for it, and the parameters of its network."""
    head = ["recipe", "network", "in the paper", "metric", "memory [GiB]", "printed", "parameters", "assumed"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---:|---:|---:|---:|---|"]
    for name, text in recipe_summaries().items():
        paper = find_target(name) or Target()
        where = ", ".join(f"Table {place.table}, row {place.row}" for place in paper.places)
        metric = "" if paper.metric is None else f"{paper.metric:.2f}"
        metric += "" if paper.std is None else f" ± {paper.std:.2f}"
        count = "" if paper.parameters is None else f"{paper.parameters:,}"
        memory_gb = "" if paper.memory_gb is None else f"{paper.memory_gb:.2f}"
        assumed = " ".join(f"`{field}`" for field in paper.assumed)
        cells = [f"`{name}`", text, where, metric, memory_gb, paper.printed or "", count, assumed]
        lines.append("| " + " | ".join(cell or "–" for cell in cells) + " |")
    return "\n".join(lines)


def _datasets() -> str:
    """Every data set by name: what is predicted, its sizes as published, its metric, its splits, who fetches it."""
    head = ["name", "a node, and what is predicted", "nodes", "edges", "features", "metric", "splits", "fetched by"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---:|---:|---:|---|---|---|"]
    for name, known in DATASETS.items():
        info = known.info or GraphInfo(metric="–")
        counts = [info.counts.nodes, info.counts.edges, info.in_channels]
        splits = ", ".join(map(str, known.splits))
        splits = f"{known.splits[0]} to {known.splits[-1]}" if len(known.splits) > 2 else splits
        sizes = [f"{count:,}" if count else "–" for count in counts]
        cells = [f"`{name}`", known.asks, *sizes, info.metric, splits or "one", known.download or "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def _newest(results: str, *names: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The newest row of each value of some fields, in the order in which those first came."""
    return {tuple(row[name] for name in names): row for row in read_lines(RESULTS / f"{results}.jsonl")}


def _planned() -> str:
    """Predicted and measured peaks and steps, the newest of each recipe."""
    lines = [
        "| recipe | nodes | layers | predicted | measured | ratio | step, predicted | measured | ratio | measured at "
        "| predicted at |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for row in _newest("plan", "recipe").values():
        cells = [
            f"`{row['recipe']}`",
            f"{row['num_nodes']:,}",
            str(row["layers"]),
            memory(row["predicted_bytes"]),
            memory(row["measured_bytes"]),
            f"{row['ratio']:.3f}",
            duration(row["predicted_step_s"]),
            duration(row["measured_step_s"]),
            f"{row['predicted_step_s'] / row['measured_step_s']:.2f}",
            f"{row.get('measured_commit', row['commit'])[:8]}",
            f"{row['commit'][:8]}{'-dirty' if row['dirty'] else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _planned_process() -> str:
    """Predicted and measured peaks of processes, the newest of each recipe and size."""
    lines = [
        "| recipe | nodes | edges | layers | tensors, predicted | growth, measured | process, predicted | measured "
        "| ratio | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in _newest("plan_process", "recipe", "num_nodes").values():
        cells = [
            f"`{row['recipe']}`",
            f"{row['num_nodes']:,}",
            f"{row['num_edges']:,}",
            str(row["layers"]),
            memory(row["predicted_bytes"]),
            memory(row["growth_bytes"]),
            memory(row["predicted_process_bytes"]),
            memory(row["process_bytes"]),
            f"{row['ratio']:.2f}",
            f"{row['commit'][:8]}{'-dirty' if row['dirty'] else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _planned_real() -> str:
    """Predicted peaks beside those of steps on the data themselves, the newest of each run."""
    lines = [
        "| run | measured | predicted, with the data | ratio | predicted, without | ratio | commit |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    newest = {(row["recipe"], *row["changes"]): row for row in read_lines(RESULTS / "plan_real.jsonl")}
    for row in newest.values():
        cells = [
            "; ".join([f"`{row['recipe']}`", *row["changes"]]),
            memory(row["measured_bytes"]),
            memory(row["predicted_bytes"]),
            f"{row['ratio']:.3f}",
            memory(row["predicted_without_data_bytes"]),
            f"{row['ratio_without_data']:.3f}",
            f"{row['commit'][:8]}{'-dirty' if row['dirty'] else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _planned_full() -> str:
    """Predicted peaks beside those of a step of the data set's whole size, of the memory column."""
    lines = [
        "| recipe | nodes in the step | edges | parameters | measured | predicted | ratio | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    # A later estimate does not take a measured row away.
    newest = {row["recipe"]: row for row in read_lines(RESULTS / "memory.jsonl") if row["how"] == "measured"}
    for row in newest.values():
        cells = [
            f"`{row['recipe']}`",
            f"{row['step_nodes']:,}",
            f"{row['step_edges']:,}",
            f"{row['parameters']:,}",
            memory(row["peak_bytes"]),
            memory(row["predicted_bytes"]),
            f"{row['predicted_bytes'] / row['peak_bytes']:.3f}",
            row["commit"][:8],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _planned_summary() -> str:
    """How far predictions are from measurements, over all recipes."""
    rows = list(_newest("plan", "recipe").values())
    off = sorted(abs(row["ratio"] - 1) for row in rows)
    worst = max(rows, key=lambda row: abs(row["ratio"] - 1))
    steps = sorted(row["predicted_step_s"] / row["measured_step_s"] for row in rows)
    within = sum(0.5 <= step <= 2.0 for step in steps)
    middle = len(rows) // 2
    measured = {row["recipe"] for row in rows}
    missing = [f"`{name}`" for name in all_recipes() if name not in measured]
    return (
        f"Memory: {len(rows)} of {len(all_recipes())} recipes are measured. The prediction is off by {off[middle]:.2%} "
        f"in the median and by {off[-1]:.1%} at most (`{worst['recipe']}`). Time: {within} predictions are within a "
        f"factor of two; predicted over measured is {steps[middle]:.2f} in the median, {steps[0]:.2f} at least and "
        f"{steps[-1]:.2f} at most." + (f"\n\nNot measured with this version: {', '.join(missing)}." if missing else "")
    )


def _preparation() -> str:
    """What preparing ogbn-proteins took, newest measurement of each size."""
    lines = ["| data | directed edges | reading | graph | peak memory | measured |", "|---|---:|---:|---:|---:|---|"]
    for row in _newest("preparation", "made_up", "num_edges").values():
        cells = [
            "made up" if row["made_up"] else "ogbn-proteins",
            f"{row['num_edges']:,}",
            duration(row["read_s"]),
            duration(row["build_s"]),
            memory(row["peak_bytes"]),
            f"{row['machine']['cpu']}, {row['date'][:10]}, {row['commit'][:8]}{'-dirty' if row['dirty'] else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _prepare_scale() -> str:
    """What `revgnn prepare` and DuckDB took in turn, newest measurement of each size."""
    lines = [
        "| edges | nodes | parts | tables | with | time | work | processor | peak memory | temporary files | written "
        "| measured |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for _, row in sorted(_newest("prepare", "num_edges").items()):
        theirs = row["duckdb"]
        what = [f"{row['num_edges']:,}", f"{row['num_nodes']:,}", str(row["num_parts"])]
        what.append(f"{row['table_bytes'] / 1e9:.2f} GB")
        measured = (
            f"{_cores(row['machine']['cores'])} of {row['machine']['cpu']}, load {row['machine']['load']:.1f}, "
            f"medians of {row['repeats']}, {row['date'][:10]}, {row['commit'][:8]}{'-dirty' if row['dirty'] else ''}"
        )
        lines.append("| " + " | ".join([*what, "`revgnn prepare`", *_prepare_cells(row), measured]) + " |")
        duckdb = f"DuckDB {row['versions']['duckdb']}"
        lines.append("| " + " | ".join([*[""] * len(what), duckdb, *_prepare_cells(theirs), ""]) + " |")
        ratios = [f"{row[name] / theirs[name]:.2f}" for name in ("seconds", "own_seconds", "cpu_seconds", "peak_bytes")]
        lines.append("| " + " | ".join([*[""] * len(what), "ratio", *ratios, "", "", ""]) + " |")
    return "\n".join(lines)


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def _prepare_cells(found: dict[str, Any]) -> list[str]:
    seconds = [f"{found[name]:.1f} s" for name in ("seconds", "own_seconds", "cpu_seconds")]
    return [*seconds, *(f"{found[name] / 1e9:.2f} GB" for name in ("peak_bytes", "between_bytes", "graph_bytes"))]


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


EQUILIBRIA = {
    "arxiv-text/deq": ("deq", "deq_unrolled", "deq_gcn", "wt_resgcn", "wt_revgcn", "revgcn_7", "revgcn_28"),
    "minesweeper/deq": ("deq", "deq_unrolled", "revsage_4", "ressage", "revsage"),
    "cora/deq": ("deq", "revgcn_2", "revgcn_64", "gcnii_64"),
}
"""A contractive equilibrium -> the recipes of its data set that stand beside it."""


def _changes(row: dict[str, Any]) -> str:
    """What a run changed of its recipe, in words."""
    said = []
    for name, (_, got) in row["changed"].items():
        words = _IN_WORDS.get(f"{name}={got}", _IN_WORDS.get(name, f"{name}={{}}"))
        said.append(words.format(got))
    return ", ".join(filter(None, said))


def _depth_runs(dataset: str) -> str:
    """Every network that ran on a data set, with its mean and standard deviation over seeds, the best last."""
    found: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in read_rows(RESULTS):
        if row["recipe"].startswith(f"{dataset}/"):
            layers, channels = _size(row)
            width = f"{channels} channels" if "model.hidden_channels" in row["changed"] else ""
            key = row["recipe"].partition("/")[2], layers, ", ".join(filter(None, [_changes(row), width]))
            found.setdefault(key, {})[row["seed"]] = row
    head = ["recipe", "layers", "changes", "parameters", "seeds", "valid", "test", "memory", "process", "training"]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|---|" + "---:|" * (len(head) - 3)]
    means = {key: statistics.fmean(_score(row, "test") for row in rows.values()) for key, rows in found.items()}
    for key in sorted(means, key=means.__getitem__):
        rows = list(found[key].values())
        cells = [
            f"`{key[0]}`",
            key[1],
            key[2] or "–",
            f"{rows[0]['parameters']:,}",
            ", ".join(str(seed) for seed in sorted(found[key])),
            *(_mean_and_std([_score(row, split) for row in rows]) for split in ("valid", "test")),
            memory(max(row["peak_bytes"] for row in rows)),
            memory(max(row["resident_bytes"] for row in rows)),
            duration(statistics.median(row["training_seconds"] for row in rows)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if found else "Not run yet."


def _depth_layers(dataset: str) -> str:
    """Test scores on the first split over depth, of the networks of one width and one set of settings."""
    kept = {"model.num_layers", "model.coupling", "model.backprop"}
    scores: dict[str, dict[int, float]] = {}
    for row in read_rows(RESULTS):
        layers = _size(row)[0]
        if not row["recipe"].startswith(f"{dataset}/") or not layers.isdigit():
            continue
        model = all_recipes()[row["recipe"]]().model
        if row["seed"] == 0 and row["changed"].keys() <= kept and isinstance(model, ModelConfig):
            _, coupling = row["changed"].get("model.coupling", (None, model.coupling))
            name = {"grouped": "Rev", "residual": "Res"}[coupling] + model.conv.upper()
            scores.setdefault(name, {})[int(layers)] = _score(row, "test")
    depths = sorted({layers for of_one in scores.values() for layers in of_one})
    lines = ["| network | " + " | ".join(f"{depth} layers" for depth in depths) + " |"]
    lines.append("|---|" + "---:|" * len(depths))
    for name in sorted(scores, key=lambda name: -max(scores[name].values())):
        cells = [f"{scores[name][depth]:.1f}" if depth in scores[name] else "–" for depth in depths]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if scores else "Not run yet."


def _batches_runs(*, equal_time: bool) -> str:
    """The newest run of each way to make batches, in the order of the recipes.

    Args:
        equal_time: whether to show the runs whose epochs were changed, so that all take about as long; or those with
            the epochs of the recipes.
    """
    newest = {}
    for row in read_rows(RESULTS):
        changed, is_one = row["changed"].keys(), row["recipe"].startswith("arxiv-text/batches_")
        trains_alike = all(name.startswith("train.") for name in changed)
        if is_one and trains_alike and ("train.epochs" in changed) == equal_time:
            newest[row["recipe"]] = row
    head = ["`loader`", "epochs", "valid", "test", "memory", "process", "a step", "training"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name in filter(newest.__contains__, recipe_summaries()):
        row, loader = newest[name], find_recipe(name)().loader
        said = [f"kind={loader.kind}"]
        said += [] if loader.diagonal is None else [f"diagonal={loader.diagonal:g}"]
        said += [f"saint.sampler={loader.saint.sampler}"] if loader.kind == "saint" else []
        cells = [
            f"`{', '.join(said)}`",
            str(row["epochs"]),
            *(f"{_score(row, split):.2f}" for split in ("valid", "test")),
            memory(row["peak_bytes"]),
            memory(row["resident_bytes"]),
            duration(row["seconds_per_step"]),
            duration(row["training_seconds"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if newest else "Not run yet."


def _depth_real() -> str:
    """What depth brings on the published minesweeper graph."""
    rows = read_rows(RESULTS)
    deep = {
        row["seed"]: row
        for row in rows
        if row["recipe"] == "minesweeper/revsage" and row["changed"].keys() <= {"dataset.split"}
    }
    of_four = [row for row in rows if row["recipe"] == "minesweeper/revsage_4" and row["seed"] == 0]
    tried = [row for row in of_four if "model.num_layers" not in row["changed"]]
    shallow = max(tried, key=lambda row: _score(row, "valid"))
    over = "its ten splits" if len(deep) == 10 else f"{len(deep)} of its ten splits"
    scores = f"{_score(shallow, 'test'):.2f} and 32 layers {_score(deep[0], 'test'):.2f}"
    return (
        "On the published minesweeper graph 32 layers of RevSAGE reach a ROC-AUC of "
        f"**{_mean_and_std([_score(row, 'test') for row in deep.values()])}** over {over}; the "
        "best published mean that we know is 97.86 ± 0.24 (a tuned GCN of 12 layers, Luo et al. 2024). On "
        f"the first split 4 layers, the best of {len(tried)} settings, reach {scores}, in "
        f"{memory(shallow['peak_bytes'])} and {memory(deep[0]['peak_bytes'])} of tensors."
    )


def _score(row: dict[str, Any], split: str) -> float:
    return 100.0 * float(row["scores"][split]["metric"])


def _mean_and_std(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _size(row: dict[str, Any]) -> tuple[str, str]:
    """Layers and channels of a run's network; of a baseline neither is shown."""
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
        found[row["recipe"], _changes(row), row["seed"]] = row
    rows = []
    for name, words in _RUNS[block]:
        recipe = name if "/" in name else f"arxiv-text/{name}"
        seeds = {seed: row for (*key, seed), row in found.items() if key == [recipe, words]}
        if not seeds:
            raise ValueError(f"docs/runs.md shows {recipe} with {words!r} and runs.jsonl has no such run; change _RUNS")
        for seed, row in seeds.items():
            changes = ", ".join(filter(None, [words, f"seed {seed}" if seed else ""]))
            scores = [f"{100 * row['scores'][split]['metric']:.2f}" for split in ("valid", "test")]
            cells = [f"`{name}`", *_size(row), changes, f"{row['parameters']:,}", *scores]
            rows.append([*cells, memory(row["peak_bytes"]), duration(row["training_seconds"])])
    shown = [k for k in range(len(head)) if any(row[k] for row in rows)]
    lines = ["| " + " | ".join(head[k] for k in shown) + " |"]
    lines.append("|" + "".join("---|" if head[k] in ("recipe", "changes") else "---:|" for k in shown))
    return "\n".join([*lines, *("| " + " | ".join(row[k] or "–" for k in shown) + " |" for row in rows)])


def _newest_runs(dataset: str) -> dict[str, dict[str, Any]]:
    """The newest run of each recipe of a data set as it stands, with seed 0."""
    # The first runs knew one kind of initial weights, which is the default now.
    same = {"dataset.split", "model.equilibrium.contraction_init"}
    return {
        row["recipe"]: row
        for row in read_rows(RESULTS)
        if row["recipe"].startswith(f"{dataset}/") and row["seed"] == 0 and row["changed"].keys() <= same
    }


def _equilibrium_rows() -> dict[str, dict[str, Any]]:
    return {name: _newest_runs(name.partition("/")[0])[name] for name in EQUILIBRIA}


def _equilibrium_solves() -> str:
    """How many solves of contractive equilibria reached their tolerance, in the last epoch and in all epochs."""
    head = [
        "recipe",
        "contraction",
        "direction",
        "tolerance",
        "solves",
        "within it, last epoch",
        "within it, all epochs",
    ]
    head += ["median residual, last epoch", "largest", "iterations"]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|---|" + "---:|" * (len(head) - 3)]
    for name, row in _equilibrium_rows().items():
        options = all_recipes()[name]().model.equilibrium
        for direction, tol in (("forward", options.tol), ("backward", options.backward_tol)):
            each = {key: row["observed"][f"{direction} {key}"] for key in ("solves", "failures", "iterations")}
            last, total = 1 - each["failures"][-1] / each["solves"][-1], sum(each["solves"])
            cells = [f"`{name}`", f"{options.contraction}", direction, f"{tol:g}", f"{total:,.0f}", f"{last:.1%}"]
            cells += [f"{1 - sum(each['failures']) / total:.1%}"]
            cells += [f"{row['observed'][f'{direction} {key}'][-1]:.2g}" for key in ("residual", "residual max")]
            lines.append("| " + " | ".join([*cells, f"{each['iterations'][-1]:.1f}"]) + " |")
    return "\n".join(lines)


def _equilibrium_epochs() -> str:
    """Median residuals and mean iterations over the epochs."""
    lines = ["| recipe | epoch | forward residual | forward iterations | backward residual | backward iterations |"]
    lines.append("|---|" + "---:|" * 5)
    for name, row in _equilibrium_rows().items():
        observed = row["observed"]
        epochs = len(observed["forward residual"])
        for epoch in sorted({1, *(round(epochs * share / 8) for share in range(1, 9))}):
            cells = []
            for direction in ("forward", "backward"):
                cells.append(f"{observed[f'{direction} residual'][epoch - 1]:.2g}")
                cells.append(f"{observed[f'{direction} iterations'][epoch - 1]:.1f}")
            lines.append(f"| `{name}` | {epoch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _equilibrium_scores(dataset: str) -> str:
    """An equilibrium beside its own block unrolled, and beside stacked networks."""
    head = ["recipe", "depth", "channels", "parameters", "valid", "test", "memory", "process", "training"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    found = _newest_runs(dataset)
    for recipe in EQUILIBRIA[f"{dataset}/deq"]:
        row = found.get(f"{dataset}/{recipe}")
        if row is None:
            continue
        cells = [f"`{recipe}`", *_size(row), f"{row['parameters']:,}"]
        cells += [f"{_score(row, split):.2f}" for split in ("valid", "test")]
        cells += [memory(row["peak_bytes"]), memory(row.get("resident_bytes")), duration(row["training_seconds"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _equilibrium_chain() -> str:
    """Test accuracy over the length of the chains, for each network."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in read_rows(RESULTS):
        if row["recipe"].startswith("chain/") and row["changed"].keys() <= {"dataset.chain.length"}:
            length = row["changed"].get("dataset.chain.length", (0, 100))[1]
            found.setdefault(row["recipe"].partition("/")[2], {})[length] = row
    lengths = sorted({length for rows in found.values() for length in rows})
    lines = ["| recipe | depth | parameters | " + " | ".join(f"{length} nodes" for length in lengths) + " |"]
    lines.append("|---|" + "---:|" * (2 + len(lengths)))
    for recipe, rows in sorted(found.items(), key=lambda item: sum(_score(row, "test") for row in item[1].values())):
        depth, parameters = _size(next(iter(rows.values())))[0], next(iter(rows.values()))["parameters"]
        cells = [f"{_score(rows[length], 'test'):.1f}" if length in rows else "–" for length in lengths]
        lines.append(f"| `{recipe}` | {depth} | {parameters:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _runs() -> str:
    """Every finished run with what it changed of its recipe, recipe by recipe, newest last."""
    lines = [
        "| recipe | changes | seed | parameters | valid | test | best epoch | peak | process | step | training "
        "| measured |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    order = {name: position for position, name in enumerate(all_recipes())}
    for row in sorted(read_rows(RESULTS), key=lambda row: order[row["recipe"]]):
        width = f"{_size(row)[1]} channels" if "model.hidden_channels" in row["changed"] else ""
        cells = [
            f"`{row['recipe']}`",
            ", ".join(filter(None, [_changes(row), width])) or "–",
            str(row["seed"]),
            f"{row['parameters']:,}",
            *(f"{100 * row['scores'][split]['metric']:.2f}" for split in ("valid", "test")),
            f"{row['best_epoch']} of {row['epochs']}",
            memory(row["peak_bytes"]),
            memory(row.get("resident_bytes")),
            duration(row["seconds_per_step"]),
            duration(row["training_seconds"]),
            f"{row['hardware']}, {row['date'][:10]}, {(row['commit'] or 'unknown commit')[:8]}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _default_settings() -> str:
    """The settings that all candidates share, each with its value."""
    names = ((name.partition(".")[2].replace("_", " "), value) for name, value in COMMON.items())
    return ", ".join(f"{name} {value}" for name, value in names) + "."


def _default_scores() -> str:
    """Test scores of each candidate on each table, means over seeds, and the mean rank of the valid scores."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _newest("defaults", "table", "candidate", "seed").values():
        rows.setdefault((row["candidate"], row["table"]), []).append(row)
    first = {table: found[0] for (_, table), found in rows.items()}
    lines = ["| settings | " + " | ".join(f"{table}, {METRICS[row['metric']].title}" for table, row in first.items())]
    lines[0] += " | mean rank on valid |"
    lines.append("|---|" + "---:|" * (len(first) + 1))
    for title, key in (("majority or mean", "constant"), ("linear model", "linear")):
        cells = [_default_score(row["metric"], row["baselines"][key]) for row in first.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " | – |")
    ranks = _default_ranks(rows)
    for candidate in CANDIDATES:
        found = [rows.get((candidate, table), []) for table in first]
        if not any(found):
            continue
        cells = [
            _default_score(each[0]["metric"], statistics.mean(row["scores"]["test"] for row in each)) if each else "–"
            for each in found
        ]
        rank = f"{ranks[candidate]:.1f}" if candidate in ranks else "–"
        lines.append(f"| {candidate} | " + " | ".join(cells) + f" | {rank} |")
    return "\n".join(lines)


def _default_ranks(rows: dict[tuple[str, str], list[dict[str, Any]]]) -> dict[str, float]:
    """Mean rank of each candidate, 1 the best, over the tables that all candidates were trained on."""
    tables = {table for _, table in rows}
    candidates = [name for name in CANDIDATES if any(candidate == name for candidate, _ in rows)]
    ranks: dict[str, list[int]] = {name: [] for name in candidates}
    for table in tables:
        if not all((name, table) in rows for name in candidates):
            continue
        values = {name: statistics.mean(row["scores"]["valid"] for row in rows[name, table]) for name in candidates}
        larger = METRICS[rows[candidates[0], table][0]["metric"]].larger_is_better
        for name, value in values.items():
            better = (other > value if larger else other < value for other in values.values())
            ranks[name].append(1 + sum(better))
    return {name: statistics.mean(found) for name, found in ranks.items() if found}


def _default_score(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if METRICS[metric].in_percent else f"{value:.4g}"


def _out_of_core_rows() -> list[dict[str, Any]]:
    """The newest measurement of each size."""
    if not (RESULTS / "out_of_core.jsonl").is_file():
        return []
    return [row for _, row in sorted(_newest("out_of_core", "num_nodes", "num_parts").items())]


def _out_of_core() -> str:
    if not _out_of_core_rows():
        return "Not measured yet."
    head = [
        "nodes",
        "edges",
        "on disk",
        "memory limit",
        "parts",
        "parts per step",
        "training",
        "peak",
        "step",
        "read",
        "prediction",
    ]
    head += ["peak", "test accuracy", "measured", "all in memory"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * (len(head) - 2) + "---|---|"]
    for row in _out_of_core_rows():
        where = f"{row['machine']['cpu']}, load {row['machine']['load']:.1f}, {row['date'][:10]}, {row['commit'][:8]}"
        cells = [
            f"{row['num_nodes']:,}",
            f"{row['num_edges']:,}",
            memory(row["disk_bytes"]),
            memory(row["limit_bytes"]),
            str(row["num_parts"]),
            str(row["parts_per_batch"]),
            duration(row["train_s"]),
            memory(row["train_peak_bytes"]),
            duration(row["step_s"]),
            duration(row["read_s"]),
            duration(row["predict_s"]),
            memory(row["predict_peak_bytes"]),
            f"{100 * row['test_accuracy']:.1f} %",
            where + ("-dirty" if row["dirty"] else ""),
            "fits" if row["whole_rc"] == 0 else f"fails: `{_in_short(row['whole_said'])}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ranks() -> str:
    """Two ranks beside one process that takes the same steps: the newest row of each way."""
    head = [
        "ranks",
        "mode",
        "segments",
        "step",
        "sent in a step",
        "weights",
        "gradients",
        "optimizer",
        "peak",
        "measured",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---:|---|" + "---:|" * (len(head) - 3) + "---|"]
    for row in _newest("ranks", "ranks", "parallel", "segments").values():
        how = row["parallel"] if row["ranks"] > 1 else "one process, accumulate=2"
        where = f"{row['machine']['cpu']}, load {row['machine']['load']:.1f}, {row['date'][:10]}, {row['commit'][:8]}"
        cells = [
            str(row["ranks"]),
            how,
            str(row["segments"]),
            duration(row["step_s"]),
            memory(row["sent_bytes"]) if row["ranks"] > 1 else "nothing",
            *(memory(row["held_bytes"][what]) for what in ("weights", "gradients", "optimizer")),
            memory(row["peak_bytes"]),
            where + ("-dirty" if row["dirty"] else ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _in_short(said: list[str]) -> str:
    return (said[-1] if said else "killed").replace("|", "/").replace("`", "'")[:80]


def _billion() -> str:
    """What a billion nodes cost, with the streams of a step as they were measured."""
    network = build_model(
        ModelConfig(conv="sage", num_layers=56, hidden_channels=256, coupling="grouped", num_groups=2),
        GraphInfo(in_channels=BILLION.features, num_outputs=128),
    )
    scale = replace(BILLION, parameters=sum(parameter.numel() for parameter in network.parameters()))
    held = max((streams(row) for row in _out_of_core_rows()), default=None)
    step = "not measured yet"
    if held is not None:
        step = (
            f"{memory(scale.step_bytes(held, ahead=0))}, with {held:.1f} tensors of n x D floats as measured; depth "
            "adds only weights"
        )
    rows = [
        ("graph", f"10^9 nodes with {scale.features} features, 10^10 edges, half of them within a part"),
        ("parts", f"{scale.parts:,}, of {scale.nodes // scale.parts:,} nodes; {scale.together} in a step"),
        ("disk", memory(scale.disk_bytes)),
        ("steps of an epoch", f"{scale.steps:,} in all, shared by the ranks"),
        ("nodes and edges of a step", f"{scale.batch_nodes:,.0f} and {scale.batch_edges:,.0f}"),
        ("read from disk for a step", memory(scale.read_bytes)),
        ("memory of a batch", f"{memory(scale.batch_bytes)}; with two made ahead {memory(3 * scale.batch_bytes)}"),
        ("network", f"RevSAGE, 56 layers, {scale.hidden} channels: {scale.parameters:,} parameters"),
        ("weights, gradients, Adam", memory(scale.weights_bytes)),
        ("memory of a step on the device", step),
        ("one rank sends in a step", f"{memory(network_bytes(scale.parameters, 8))} with 8 ranks (ring, float32)"),
        ("logits of two views, in a temporary file", memory(scale.nodes * 128 * 4.0)),
    ]
    return "\n".join(["| what | how much |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _scale_check() -> str:
    """The formulas beside everything that was measured of what they say."""
    lines = ["| what | of | formula | measured | ratio |", "|---|---|---:|---:|---:|"]
    for what, of, formula, measured in _scale_points():
        lines.append(f"| {what} | {of} | {memory(formula)} | {memory(measured)} | {formula / measured:.3f} |")
    return "\n".join(lines)


def _scale_points() -> Iterator[tuple[str, str, float, float]]:
    for _, row in sorted(_newest("prepare", "num_edges").items()):
        of = f"{row['num_nodes']:,} nodes, {row['num_edges']:,} edges, prepared"
        yield "disk", of, prepared_scale(row).disk_bytes, row["graph_bytes"]
    rows = _out_of_core_rows()
    for row in rows:
        of = f"{row['num_nodes']:,} nodes, {row['num_edges']:,} edges, written part by part"
        yield "disk", of, measured_scale(row).disk_bytes, row["disk_bytes"]
    for row in rows:
        # What the other points gave for the tensors of a step foretells this one.
        held = statistics.median(streams(other) for other in rows if other is not row)
        net = f"{row['layers']} layers, {row['hidden']} channels"
        of = f"{row['batch_nodes']:,} nodes, {net}, {held:.1f} tensors of n x D floats"
        yield "memory of a step", of, measured_scale(row).step_bytes(held), row["step_peak_bytes"]
    for row in _newest("ranks", "ranks", "parallel", "segments").values():
        if row["parallel"] == "ddp" and row["ranks"] > 1:
            of = f"{row['ranks']} ranks, {row['parameters']:,} parameters, {row['segments']} segment(s)"
            yield "one rank sends", of, network_bytes(row["parameters"], row["ranks"]), row["sent_bytes"] / row["ranks"]


def _by_dataset() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in recipe_summaries():
        dataset, _, short = name.partition("/")
        found.setdefault(dataset, []).append(short)
    return found


_ROOMS = {
    "commands/": "one file for each command; parser.py describes the words, cli.py runs the command",
    "experiment.py": "Experiment and run_experiment: data -> model -> training -> report, on one page",
    "predict.py": "writes the predictions of a finished run as a table with the user's ids",
    "graph.py": "one immutable graph: CSR by destination, and by source for the backward",
    "ops/": "message passing and a block's head as pure functions: plain torch, C++, Triton",
    "stack/": "depth: couplings; stored, checkpointed and reversible backpropagation",
    "implicit/": "equilibria: fixed-point solvers and their gradient",
    "nn/": "convolutions, norms, encoders, heads, and the model (ModelConfig, build_model)",
    "data/": "readers, samplers, graphs on disk, and the preparation of tables",
    "train/": "the training loop, losses, metrics, optimizers, checkpoints, several processes",
    "planner/": "predicts peak memory and step time before a run, and suggests what fits",
    "report/": "report.json, the HTML page and the Markdown row of a finished run",
    "interop/": "a drop-in for PyG's GroupAddRev, and checkpoints of the official code",
    "paper/": "the paper's recipes, baselines and printed figures, and the recorded runs",
    "demo/": "what depth brings and costs, in minutes, on a generated field of Minesweeper",
}
"""Every folder of the package, and the modules to know first -> what is in it, in few words."""
_COLUMNS = 100


def _map() -> str:
    """One short line for each room of the package."""
    for name in _ROOMS:
        if not (PACKAGE / name).exists():
            raise ValueError(f"src/revgnn/{name} does not exist; change _ROOMS")
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    if missing := sorted(folders - _ROOMS.keys()):
        raise ValueError(f"_ROOMS lacks {', '.join(missing)}; add a short line for each")
    text = _fenced(list(_ROOMS.items()))
    if long := [line for line in text.splitlines() if len(line) > _COLUMNS]:
        raise ValueError(f"a line of the map has more than {_COLUMNS} columns; shorten {long[0]!r}")
    return text


def _tree() -> str:
    return _fenced(_rows(PACKAGE))


def _rows(folder: Path, *, indent: str = "") -> list[tuple[str, str]]:
    rows = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            rows.append((f"{indent}{path.name}/", _first_sentence(path / "__init__.py")))
            rows += _rows(path, indent=f"{indent}  ")
        elif path.suffix == ".py" and not (indent and path.name == "__init__.py"):
            rows.append((f"{indent}{path.name}", _first_sentence(path)))
    return rows


def _first_sentence(path: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    # A sentence ends in a full stop before a capital, or with the text; "sha256.py" and "e.g. this" do not end one.
    return re.split(r"(?<=[a-z0-9)`])\.(?= [A-Z`]|$)", text, maxsplit=1)[0]


def _fenced(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    lines = (f"{name:<{width}}  {text}" for name, text in rows)
    return "\n".join(["```", "src/revgnn/", *(f"  {line}" for line in lines), "```"])


# ---------------------------------------------------------------------- a batch's way, as a picture
_BOX_WIDTH, _BOX_HEIGHT = 150, 46
_BOXES = {
    "tables": (20, 84, "tables, data sets", "Parquet, CSV, OGB", "file"),
    "readers": (216, 50, "readers", "data/readers/", "step"),
    "prepare": (216, 118, "prepare", "data/prepare/", "step"),
    "dataset": (412, 50, "Dataset, in memory", "data/dataset.py", "value"),
    "store": (412, 118, "Store, on disk", "data/ondisk/", "value"),
    "batches": (608, 84, "batches", "data/sampling/", "value"),
    "forward": (20, 292, "Forward", "train/forward.py", "step"),
    "loss": (264, 224, "loss, gradients", "train/step.py", "step"),
    "optimizer": (450, 224, "optimizer step", "train/optim.py", "step"),
    "checkpoint": (636, 224, "checkpoint", "train/callbacks/", "file"),
    "metrics": (264, 292, "metrics", "train/", "step"),
    "report": (636, 292, "report", "report/", "file"),
    "rows": (264, 360, "rows with ids", "predict.py", "step"),
    "predictions": (636, 360, "prediction table", "Parquet", "file"),
}
"""Name -> left, top, title, where it is in the code, and its kind, which gives its color."""
_ARROWS = (
    ("tables", "readers", ""), ("tables", "prepare", ""), ("readers", "dataset", ""), ("prepare", "store", ""),
    ("dataset", "batches", ""), ("store", "batches", ""), ("forward", "loss", "train"), ("loss", "optimizer", ""),
    ("optimizer", "checkpoint", ""), ("forward", "metrics", "evaluate"), ("metrics", "report", ""),
    ("forward", "rows", "predict"), ("rows", "predictions", ""),
)  # fmt: skip
_PICTURE_STYLE = """<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .code { font: 11px ui-monospace, monospace; fill: #59636e }
  .page { fill: #ffffff; stroke: #d1d9e0 }
  .file { fill: #fff1d6; stroke: #9a6700 }
  .step { fill: #ddf4ff; stroke: #0969da }
  .value { fill: #dafbe1; stroke: #1a7f37 }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.5 }
  .head { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .code { fill: #9198a1 }
    .page { fill: #0d1117; stroke: #3d444d }
    .file { fill: #3a2d0b; stroke: #d29922 }
    .step { fill: #0c2d4d; stroke: #4493f8 }
    .value { fill: #12361d; stroke: #3fb950 }
    .arrow { stroke: #9198a1 }
    .head { fill: #9198a1 }
  }
</style>"""


def _batch_picture() -> str:
    """The elements of docs/batch.svg: boxes from tables to predictions, and arrows between them."""
    lines = [_PICTURE_STYLE, '<rect class="page" x="0.5" y="0.5" width="805" height="447" rx="8"/>']
    lines += [
        _text(20, 30, "From tables to batches"),
        _text(264, 206, "The same forward trains, evaluates and predicts"),
    ]
    for start, end, label in _ARROWS:
        (left, top, *_), (right, bottom, *_) = _BOXES[start], _BOXES[end]
        x, y, to, down = left + _BOX_WIDTH, top + _BOX_HEIGHT // 2, right, bottom + _BOX_HEIGHT // 2
        bend = x + 20 if label else (x + to) // 2
        lines += _arrow(f"M{x} {y} H{bend} V{down} H{to - 6}", to, down)
        if label:
            lines.append(_text(bend + 4, down - 6, label, "code"))
    # From the end of the upper row to the beginning of the lower one.
    x, top, into = 608 + _BOX_WIDTH // 2, 84 + _BOX_HEIGHT, 20 + _BOX_WIDTH // 2
    lines.append(f'<path class="arrow" d="M{x} {top} V180 H{into} V286"/>')
    lines.append(f'<path class="head" d="M{into} 292 l-4 -8 h8 z"/>')
    for left, top, title, code, kind in _BOXES.values():
        size = f'width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6"'
        lines.append(f'<rect class="{kind}" x="{left}" y="{top}" {size}/>')
        lines += [_text(left + 10, top + 19, title), _text(left + 10, top + 36, code, "code")]
    lines.append(_text(20, 434, "blue: a step of the program · green: a value · yellow: files", "code"))
    return "\n".join(lines)


def _arrow(path: str, x: int, y: int) -> list[str]:
    return [f'<path class="arrow" d="{path}"/>', f'<path class="head" d="M{x} {y} l-8 -4 v8 z"/>']


def _text(x: int, y: int, text: str, kind: str = "title") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{text}</text>'


BLOCKS = {
    "ten-lines": _ten_lines,
    "batch-picture": _batch_picture,
    "claim": _claim,
    "memory": _memory_table,
    "speed": _speed,
    "recipes": _recipes,
    "all-recipes": _all_recipes,
    "datasets": _datasets,
    "notes": _notes,
    "preparation": _preparation,
    "prepare-scale": _prepare_scale,
    "runs": _runs,
    "batches-runs": partial(_batches_runs, equal_time=False),
    "batches-time": partial(_batches_runs, equal_time=True),
    "depth-claim": _depth_claim,
    "depth-real": _depth_real,
    "depth-minesweeper-layers": partial(_depth_layers, "minesweeper"),
    "depth-minesweeper": partial(_depth_runs, "minesweeper"),
    "depth-roads": partial(_depth_runs, "roads"),
    "depth-cora": partial(_depth_runs, "cora"),
    "equilibrium-solves": _equilibrium_solves,
    "equilibrium-epochs": _equilibrium_epochs,
    "equilibrium-arxiv": partial(_equilibrium_scores, "arxiv-text"),
    "equilibrium-minesweeper": partial(_equilibrium_scores, "minesweeper"),
    "equilibrium-cora": partial(_equilibrium_scores, "cora"),
    "equilibrium-chain": _equilibrium_chain,
    **{block: partial(_runs_of, block) for block in _RUNS},
    "default-settings": _default_settings,
    "default-scores": _default_scores,
    "out-of-core": _out_of_core,
    "billion": _billion,
    "scale-check": _scale_check,
    "planned": _planned,
    "planned-full": _planned_full,
    "planned-process": _planned_process,
    "planned-real": _planned_real,
    "ranks": _ranks,
    "planned-summary": _planned_summary,
    "tables": _tables,
    "map": _map,
    "tree": _tree,
}


def main() -> None:
    """Fill the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure memory over depth first")
    if parser.parse_args().measure:
        measure()
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"filled {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
