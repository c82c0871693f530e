"""Training and prediction on a graph four times as large as the memory that the process is given.

python -m benchmarks.out_of_core --gb 6          writes a graph of 6 GB, trains and predicts under 1.5 GB, appends a row

The limit is on anonymous memory (``RLIMIT_DATA``): what a process allocates for itself. Files that are mapped do not
count; the system may drop their pages whenever it likes. That reading the same graph into memory fails under the same
limit is part of the measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from revgnn.data import GraphInfo, Store, StoredParts
from revgnn.data.ondisk.folder import new_store
from revgnn.data.ondisk.manifest import Feature, Manifest, write_manifest
from revgnn.data.ondisk.part import PartArrays, write_part

from .machine import ROOT, facts

RESULTS = ROOT / "benchmarks" / "results" / "out_of_core.jsonl"
FEATURES, DEGREE, CLASSES = 128, 10, 16
TIMES_LARGER = 4
"""The graph on disk, in units of the limit."""
_NODE_BYTES = FEATURES * 4 + 8 + 1 + DEGREE * 8
_OWN_PART = 0.6
"""Share of edges that stay within a part, as a partition by METIS would have."""


def write_graph(out: Path, *, nodes: int, num_parts: int, seed: int = 0) -> Path:
    """Write a prepared graph of random features and edges, whose classes are a linear map of the features.

    Args:
        out: the folder to make.
        nodes: N; every node has `DEGREE` incoming edges.
        num_parts: P.
        seed: of everything.
    Cost: the memory of one part.
    """
    sizes = np.full(num_parts, nodes // num_parts)
    sizes[: nodes % num_parts] += 1
    starts = np.cumsum([0, *sizes])
    teacher = np.random.default_rng(seed).standard_normal((FEATURES, CLASSES)).astype(np.float32)
    counts = np.zeros(3, np.int64)
    with new_store(out) as folder:
        parts = []
        for number, size in enumerate(sizes.tolist()):
            rng = np.random.default_rng((seed, 1 + number))
            x = rng.standard_normal((size, FEATURES), dtype=np.float32)
            split = rng.choice(np.array([0, 1, 2], np.int8), size, p=[0.6, 0.1, 0.3])
            counts += np.bincount(split, minlength=3)
            edges = size * DEGREE
            src_part = np.where(rng.random(edges) < _OWN_PART, number, rng.integers(0, num_parts, edges))
            parts.append(
                write_part(
                    folder,
                    number,
                    PartArrays(
                        ids=pa.array(np.arange(starts[number], starts[number + 1])),
                        x=x,
                        y=(x @ teacher).argmax(1),
                        split=split,
                        src_part=src_part,
                        src=(rng.random(edges) * sizes[src_part]).astype(np.int32),
                        dst=np.repeat(np.arange(size, dtype=np.int32), DEGREE),
                    ),
                    num_parts=num_parts,
                )
            )
        manifest = Manifest(
            info=GraphInfo(name=out.name, num_outputs=CLASSES, features=(Feature(name="x", width=FEATURES),)),
            splits=dict(zip(("train", "valid", "test"), counts.tolist(), strict=True)),
            partition={"method": "random", "seed": seed},
            parts=tuple(parts),
        )
        write_manifest(folder, manifest)
    return out


def limited(words: list[str], limit: int) -> dict[str, Any]:
    """Run the command line under a limit of anonymous memory.

    Args:
        words: of ``revgnn``.
        limit: bytes.
    Returns: exit code, seconds, largest anonymous resident bytes, standard output and error.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "revgnn", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),  # noqa: PLW1509 - one thread
    )
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], _anonymous(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, err = process.communicate()
    over.set()
    watcher.join()
    return {
        "rc": process.returncode,
        "seconds": time.perf_counter() - started,
        "peak_anonymous_bytes": peak[0],
        "out": out,
        "err": err,
    }


def imports_bytes() -> int:
    """Anonymous memory that is mapped once everything is imported, before there is any data."""
    # Of every command, for what one of them does not import at the top it may import later.
    commands = ("train", "predict", "prepare", "paper", "demo", "convert")
    # The baselines of a report load a linear model, whose first fit makes the threads of its libraries.
    others = ("torchmetrics.functional.classification", "sklearn.linear_model")
    modules = (*(f"revgnn.commands.{name}" for name in commands), *others)
    # The picture of a report loads matplotlib, where it is installed, and what that needs.
    scores = {"train": {"metric": 0.5, "loss": 1.0}, "valid": {"metric": 0.5, "loss": 1.0}}
    rows = [{"epoch": epoch, "loss": 1.0, "scores": scores} for epoch in (1, 2)]
    result = {"metric": "accuracy", "best_epoch": 1}
    draw = f"from revgnn.report.picture import draw_curves\ndraw_curves({result}, {rows})"
    fit = "sklearn.linear_model.LogisticRegression().fit([[0.0], [1.0]] * 4096, [0, 1] * 4096)"
    code = f"import {', '.join(modules)}\n{draw}\n{fit}\nprint(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return next(int(line.split()[1]) * 1024 for line in done.stdout.splitlines() if line.startswith("VmData"))


def measure(
    folder: Path, work: Path, *, limit: int, together: int, layers: int = 7, hidden: int = 64
) -> dict[str, Any]:
    """Train an epoch and predict under a limit; see that the graph in memory is refused under the same.

    Args:
        folder: a prepared graph.
        work: receives the run and the predictions.
        limit: bytes of anonymous memory.
        together: parts of a step.
        layers, hidden: of the RevSAGE that is trained.
    """
    store = Store.open(folder)
    pieces = -(-store.num_parts // together)
    model = ["--model", "revsage", "--set", f"model.num_layers={layers}", "--set", f"model.hidden_channels={hidden}"]
    common = ["train", str(folder), *model, "--set", "train.epochs=1", "--device", "cpu", "--json"]
    stored = ["kind=ondisk", f"parts_per_batch={together}", f"eval_parts={pieces}"]
    train = limited([*common, "--out", str(work / "run"), *(f"--set=loader.{each}" for each in stored)], limit)
    if train["rc"]:
        raise RuntimeError(f"training ended with {train['rc']}: {train['err'][-2000:]}")
    report = json.loads(train["out"])
    table = work / "predictions.parquet"
    predict = limited(["predict", str(work / "run"), "--out", str(table), "--device", "cpu", "--json"], limit)
    if predict["rc"]:
        raise RuntimeError(f"prediction ended with {predict['rc']}: {predict['err'][-2000:]}")
    whole = limited([*common, "--out", str(work / "whole"), "--set", "loader.kind=full", *_ONE_PIECE], limit)
    return {
        "num_nodes": store.num_nodes,
        "num_edges": store.num_edges,
        "num_parts": store.num_parts,
        "parts_per_batch": together,
        "features": FEATURES,
        "layers": layers,
        "hidden": hidden,
        "parameters": report["parameters"],
        "disk_bytes": store.manifest.num_bytes,
        "limit_bytes": limit,
        "train_s": train["seconds"],
        "train_peak_bytes": train["peak_anonymous_bytes"],
        "step_s": report["time"]["seconds_per_step_median"],
        "step_peak_bytes": report["memory"]["peak_bytes"],
        "steps": report["time"]["steps"],
        "read_s": _read_seconds(store, together),
        "batch_nodes": store.num_nodes * together // store.num_parts,
        "predict_s": predict["seconds"],
        "predict_peak_bytes": predict["peak_anonymous_bytes"],
        "predicted_rows": json.loads(predict["out"])["rows"],
        "test_accuracy": report["result"]["scores"]["test"]["metric"],
        "whole_rc": whole["rc"],
        "whole_said": whole["err"].strip().splitlines()[-1:] if whole["rc"] else [],
    }


_ONE_PIECE = ["--set", "loader.parts_per_batch=none", "--set", "loader.eval_parts=1"]


def _read_seconds(store: Store, together: int) -> float:
    """Median seconds to put a batch together, once the hashes of its parts were compared."""
    batches = StoredParts(store, together, 0)
    for number in range(store.num_parts):
        store.array(number, "split.npy")
    seconds, started = [], time.perf_counter()
    for _ in batches.train(1):
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 10:
            break
        started = time.perf_counter()
    return statistics.median(seconds)


def _anonymous(pid: int) -> int:
    """Anonymous resident bytes of a process, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    """Write, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=6.0, help="of the graph on disk")
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--together", type=int, default=2, help="parts of a step")
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--hidden", type=int, default=64)
    arguments = parser.parse_args()
    limit = int(arguments.gb * 1e9 / TIMES_LARGER)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        started = time.perf_counter()
        graph = write_graph(work / "synthetic", nodes=int(arguments.gb * 1e9 / _NODE_BYTES), num_parts=arguments.parts)
        wrote = time.perf_counter() - started
        row = {
            "kind": "out_of_core",
            **facts("cpu"),
            "write_s": wrote,
            **measure(
                graph,
                work,
                limit=limit,
                together=arguments.together,
                layers=arguments.layers,
                hidden=arguments.hidden,
            ),
        }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
