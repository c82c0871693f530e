"""What graphs larger than memory and several ranks cost, as docs/scale.md and docs/distributed.md show it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.scale import BILLION, measured_scale, network_bytes, prepared_scale, streams

from revgnn import ModelConfig, build_model
from revgnn.data import GraphInfo
from revgnn.report.row import duration, memory

from .rows import RESULTS, Row, commit, newest, table


def _preparation() -> str:
    """What preparing ogbn-proteins took, newest measurement of each size."""
    head, rows = ["data", "directed edges", "reading", "graph", "peak memory", "measured"], []
    for row in newest("preparation", "made_up", "num_edges").values():
        cells = [
            "made up" if row["made_up"] else "ogbn-proteins",
            f"{row['num_edges']:,}",
            duration(row["read_s"]),
            duration(row["build_s"]),
            memory(row["peak_bytes"]),
            f"{row['machine']['cpu']}, {row['date'][:10]}, {commit(row)}",
        ]
        rows.append(cells)
    return table(head, rows, left=("data", "measured"))


def _prepare_scale() -> str:
    """What `revgnn prepare` and DuckDB took in turn, newest measurement of each size."""
    head = ["edges", "nodes", "parts", "tables", "with", "time", "work", "processor", "peak memory", "temporary files"]
    head += ["written", "measured"]
    rows = []
    for _, row in sorted(newest("prepare", "num_edges").items()):
        theirs = row["duckdb"]
        what = [f"{row['num_edges']:,}", f"{row['num_nodes']:,}", str(row["num_parts"])]
        what.append(f"{row['table_bytes'] / 1e9:.2f} GB")
        measured = (
            f"{_cores(row['machine']['cores'])} of {row['machine']['cpu']}, load {row['machine']['load']:.1f}, "
            f"medians of {row['repeats']}, {row['date'][:10]}, {commit(row)}"
        )
        rows.append([*what, "`revgnn prepare`", *_prepare_cells(row), measured])
        duckdb = f"DuckDB {row['versions']['duckdb']}"
        rows.append([*[""] * len(what), duckdb, *_prepare_cells(theirs), ""])
        ratios = [f"{row[name] / theirs[name]:.2f}" for name in ("seconds", "own_seconds", "cpu_seconds", "peak_bytes")]
        rows.append([*[""] * len(what), "ratio", *ratios, "", "", ""])
    return table(head, rows, left=("with", "measured"), empty="")


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def _prepare_cells(found: Row) -> list[str]:
    seconds = [f"{found[name]:.1f} s" for name in ("seconds", "own_seconds", "cpu_seconds")]
    return [*seconds, *(f"{found[name] / 1e9:.2f} GB" for name in ("peak_bytes", "between_bytes", "graph_bytes"))]


def _out_of_core_rows() -> list[Row]:
    """The newest measurement of each size."""
    if not (RESULTS / "out_of_core.jsonl").is_file():
        return []
    return [row for _, row in sorted(newest("out_of_core", "num_nodes", "num_parts").items())]


def _out_of_core() -> str:
    if not _out_of_core_rows():
        return "Not measured yet."
    head = ["nodes", "edges", "on disk", "memory limit", "parts", "parts per step", "training", "peak", "step", "read"]
    head += ["prediction", "peak", "test accuracy", "measured", "all in memory"]
    rows = []
    for row in _out_of_core_rows():
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
            _measured(row),
            "fits" if row["whole_rc"] == 0 else f"fails: `{_in_short(row['whole_said'])}`",
        ]
        rows.append(cells)
    return table(head, rows, left=("measured", "all in memory"))


def _ranks() -> str:
    """Two ranks beside one process that takes the same steps: the newest row of each way."""
    head = ["ranks", "mode", "segments", "step", "sent in a step", "weights", "gradients", "optimizer", "peak"]
    head += ["measured"]
    rows = []
    for row in newest("ranks", "ranks", "parallel", "segments").values():
        how = row["parallel"] if row["ranks"] > 1 else "one process, accumulate=2"
        cells = [
            str(row["ranks"]),
            how,
            str(row["segments"]),
            duration(row["step_s"]),
            memory(row["sent_bytes"]) if row["ranks"] > 1 else "nothing",
            *(memory(row["held_bytes"][what]) for what in ("weights", "gradients", "optimizer")),
            memory(row["peak_bytes"]),
            _measured(row),
        ]
        rows.append(cells)
    return table(head, rows, left=("mode", "measured"))


def _measured(row: Row) -> str:
    return f"{row['machine']['cpu']}, load {row['machine']['load']:.1f}, {row['date'][:10]}, {commit(row)}"


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
    return table(["what", "how much"], rows, left=("what", "how much"))


def _scale_check() -> str:
    """The formulas beside everything that was measured of what they say."""
    rows = [
        [what, of, memory(formula), memory(measured), f"{formula / measured:.3f}"]
        for what, of, formula, measured in _scale_points()
    ]
    return table(["what", "of", "formula", "measured", "ratio"], rows, left=("what", "of"))


def _scale_points() -> Iterator[tuple[str, str, float, float]]:
    for _, row in sorted(newest("prepare", "num_edges").items()):
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
    for row in newest("ranks", "ranks", "parallel", "segments").values():
        if row["parallel"] == "ddp" and row["ranks"] > 1:
            of = f"{row['ranks']} ranks, {row['parameters']:,} parameters, {row['segments']} segment(s)"
            yield "one rank sends", of, network_bytes(row["parameters"], row["ranks"]), row["sent_bytes"] / row["ranks"]


BLOCKS = {
    "preparation": _preparation,
    "prepare-scale": _prepare_scale,
    "out-of-core": _out_of_core,
    "ranks": _ranks,
    "billion": _billion,
    "scale-check": _scale_check,
}
