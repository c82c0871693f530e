"""Write what the documents show and the project knows: figures, tables, lists and trees between markers.

    python docs/generate.py             fill the blocks of README.md and docs/architecture.md
    python docs/generate.py --measure   measure memory over depth first (minutes), then fill them

A block stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what is in it is written here alone. The suite
fails where a block is not what this file would write.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from revgnn import ModelConfig, build_model
from revgnn.demo import Curve, draw, memory_over_depth, resident_over_depth
from revgnn.experiment import Experiment
from revgnn.recipes import all_recipes, digits, summary
from revgnn.report.row import duration, memory
from revgnn.results import TABLES, build_table, markdown_table, read_rows
from revgnn.results.memory import read_memory
from revgnn.results.rows import read_lines
from revgnn.target import Target

ROOT = Path(__file__).resolve().parent.parent
# The benchmarks are no part of the package: they are found from the root of the checkout, whatever started this.
sys.path.insert(0, str(ROOT))

from benchmarks.scale import BILLION, measured_scale, network_bytes, prepared_scale, streams  # noqa: E402

PACKAGE = ROOT / "src" / "revgnn"
FIGURES = ROOT / "docs" / "memory_over_depth.json"
PICTURE = ROOT / "docs" / "memory_over_depth.svg"
DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("architecture", "recipes", "paper", "runs", "scale", "planner", "distributed")
    ),
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
    draw(curve, PICTURE, resident)


def _claim() -> str:
    curve, resident = read_figures(), read_figures("resident")
    res, rev = curve["ResGNN"], curve["RevGNN"]
    return (
        "Measured on one graph (1,797 nodes, SAGE, 64 channels): the tensors of a training step of 112 layers peak at "
        f"**{memory(res[112])}** with every activation stored and at **{memory(rev[112])}** reversibly; of 1001 "
        f"layers, at {memory(res[1001])} and {memory(rev[1001])}. The process grows by "
        f"{memory(resident['ResGNN'][1001])} and {memory(resident['RevGNN'][1001])}. What still grows is the weights, "
        f"their gradients and Adam's moments: {BYTES_PER_PARAMETER} bytes for each parameter."
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
        f"And it is fast: a training step of RevGCN ({row['layers']} layers, {row['hidden']} channels, "
        f"{row['num_nodes']:,} nodes, {row['num_edges']:,} edges; {row['threads']} threads of an "
        f"{row['machine']['cpu']}) takes {own['median_s']:.2f} s and {own['peak_nd']:.1f} N D floats. PyG's "
        f"`GroupAddRev` takes {ratios['pyg']:.1f} times as long, {ratios['pyg-csr']:.1f} times on its fastest sparse "
        f"form, and PyG's plain residual net, which stores every activation, {ratios['pyg-residual-csr']:.1f} times. "
        "[docs/performance.md](docs/performance.md) has every case, those that miss their mark too."
    )


def _recipes() -> str:
    """One line per data set: which of the paper's tables its recipes are rows of, and their names."""
    lines = ["| data set | in the paper | recipes |", "|---|---|---|"]
    for dataset, recipes in _by_dataset().items():
        tables = sorted({place.table for run in recipes.values() if run.paper for place in run.paper.places})
        where = ", ".join(f"Table {table}" for table in tables) or ("text" if _has_target(recipes) else "–")
        lines.append(f"| `{dataset}` | {where} | {' '.join(f'`{name}`' for name in recipes)} |")
    return "\n".join(lines)


def _all_recipes() -> str:
    """Every recipe with what the paper prints for it, and the parameters of its network."""
    head = ["recipe", "what it is", "in the paper", "metric", "memory [GiB]", "printed", "parameters", "assumed"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---:|---:|---:|---:|---|"]
    for name, recipe in all_recipes().items():
        paper = recipe().paper or Target()
        where = ", ".join(f"Table {place.table}, row {place.row}" for place in paper.places)
        metric = "" if paper.metric is None else f"{paper.metric:.2f}"
        metric += "" if paper.std is None else f" ± {paper.std:.2f}"
        count = "" if paper.parameters is None else f"{paper.parameters:,}"
        memory_gb = "" if paper.memory_gb is None else f"{paper.memory_gb:.2f}"
        assumed = " ".join(f"`{field}`" for field in paper.assumed)
        cells = [f"`{name}`", summary(recipe), where, metric, memory_gb, paper.printed or "", count, assumed]
        lines.append("| " + " | ".join(cell or "–" for cell in cells) + " |")
    return "\n".join(lines)


def _notes() -> str:
    """What a reader of a row has to know, each thing once with the recipes that it is of."""
    of: dict[str, list[str]] = {}
    for name, recipe in all_recipes().items():
        for note in (recipe().paper or Target()).notes:
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
        f"Memory: {len(rows)} of {len(all_recipes())} recipes; the median is off by {off[middle]:.2%}, the worst, "
        f"`{worst['recipe']}`, by {off[-1]:.1%}. Time: {within} within a factor of two; predicted over measured is "
        f"{steps[middle]:.2f} in the median, {steps[0]:.2f} at the least and {steps[-1]:.2f} at the most."
        + (f"\n\nNot measured with this version: {', '.join(missing)}." if missing else "")
    )


def _preparation() -> str:
    """What preparing ogbn-proteins took, newest measurement of each size."""
    lines = ["| data | directed edges | reading | graph | at most | measured |", "|---|---:|---:|---:|---:|---|"]
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
    """What `revgnn prepare` took, newest measurement of each size."""
    lines = [
        "| edges | nodes | features | parts | tables | time | peak memory | between, on disk | graph | measured |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for _, row in sorted(_newest("prepare", "num_edges").items()):
        cells = [
            f"{row['num_edges']:,}",
            f"{row['num_nodes']:,}",
            str(row["features"]),
            str(row["num_parts"]),
            f"{row['table_bytes'] / 1e9:.2f} GB",
            f"{row['seconds']:.0f} s",
            f"{row['peak_bytes'] / 1e9:.2f} GB",
            f"{row['between_bytes'] / 1e9:.2f} GB",
            f"{row['graph_bytes'] / 1e9:.2f} GB",
            f"{row['machine']['cores']} cores of {row['machine']['cpu']}, load {row['machine']['load']:.1f}, "
            f"{row['date'][:10]}, {row['commit'][:8]}"
            f"{'-dirty' if row['dirty'] else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _runs() -> str:
    """Every finished run that is no row of the paper, and what the rows of the paper's text came to; newest last."""
    lines = [
        "| recipe | seed | parameters | valid | test | best epoch | peak | process | step | training | measured |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    order = {name: position for position, name in enumerate(all_recipes())}
    for row in sorted(read_rows(RESULTS), key=lambda row: order[row["recipe"]]):
        peak = "–" if row["peak_bytes"] is None else memory(row["peak_bytes"])
        changed = "".join(f"; {name}={got} instead of {wanted}" for name, (wanted, got) in row["changed"].items())
        cells = [
            f"`{row['recipe']}`{changed}",
            str(row["seed"]),
            f"{row['parameters']:,}",
            *(f"{100 * row['scores'][split]['metric']:.2f}" for split in ("valid", "test")),
            f"{row['best_epoch']} of {row['epochs']}",
            peak,
            memory(row.get("resident_bytes")),
            duration(row["seconds_per_step"]),
            duration(row["training_seconds"]),
            f"{row['hardware']}, {row['date'][:10]}, {(row['commit'] or 'unknown commit')[:8]}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
        "limit",
        "parts",
        "of a step",
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
        "how",
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
        in_channels=BILLION.features,
        out_channels=128,
    )
    scale = replace(BILLION, parameters=sum(parameter.numel() for parameter in network.parameters()))
    held = max((streams(row) for row in _out_of_core_rows()), default=None)
    step = "not measured yet"
    if held is not None:
        step = (
            f"{memory(scale.step_bytes(held, ahead=0))}, with {held:.1f} tensors of n x D floats as measured; depth "
            "adds weights alone"
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


def _by_dataset() -> dict[str, dict[str, Experiment]]:
    found: dict[str, dict[str, Experiment]] = {}
    for name, recipe in all_recipes().items():
        dataset, _, short = name.partition("/")
        found.setdefault(dataset, {})[short] = recipe()
    return found


def _has_target(recipes: dict[str, Experiment]) -> bool:
    return any(run.paper is not None for run in recipes.values())


def _map() -> str:
    """The pieces of the package: its modules, and its folders without what is in them."""
    return _fenced(_rows(PACKAGE, deep=False))


def _tree() -> str:
    return _fenced(_rows(PACKAGE, deep=True))


def _rows(folder: Path, *, deep: bool, indent: str = "") -> list[tuple[str, str]]:
    rows = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            rows.append((f"{indent}{path.name}/", _first_sentence(path / "__init__.py")))
            rows += _rows(path, deep=True, indent=f"{indent}  ") if deep else []
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


BLOCKS = {
    "claim": _claim,
    "memory": _memory_table,
    "speed": _speed,
    "recipes": _recipes,
    "all-recipes": _all_recipes,
    "notes": _notes,
    "preparation": _preparation,
    "prepare-scale": _prepare_scale,
    "runs": _runs,
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
