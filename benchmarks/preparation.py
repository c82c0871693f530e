"""What it takes to prepare ogbn-proteins: raw folder to graph with node features, in seconds and peak memory.

python -m benchmarks.preparation                      a hundredth of its size, made up, in a folder that goes away
python -m benchmarks.preparation --edges 39561252     its size: 79 million directed edges; writes 1.5 GB first
python -m benchmarks.preparation --data-root data     the real one, where it lies

The official preparation walks every edge in a Python dictionary. Here the reading happens in a process of its own,
whose largest resident size is what counts: it includes the interpreter and every copy that is made on the way.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from revgnn.data import FullBatch
from revgnn.data.readers.ogb import read_ogb

from .machine import facts

NODES, EDGES = 132_534, 39_561_252
"""Of ogbn-proteins; each undirected edge stands once in its raw folder."""
LIMIT_GB = 24.0
"""What the preparation may take."""
_BLOCK = 1_000_000


def write_raw(root: Path, *, nodes: int, edges: int) -> None:
    """Write a folder as OGB lays ogbn-proteins, with random edges.

    Args:
        root: receives ``ogbn_proteins``.
        nodes: N, at least 3.
        edges: undirected edges.
    """
    rng = np.random.default_rng(0)
    raw = root / "ogbn_proteins" / "raw"
    split = root / "ogbn_proteins" / "split" / "species"
    for folder in (raw, split):
        folder.mkdir(parents=True)
    with gzip.open(raw / "edge.csv.gz", "wb", 1) as ends, gzip.open(raw / "edge-feat.csv.gz", "wb", 1) as feats:
        for start in range(0, edges, _BLOCK):
            count = min(_BLOCK, edges - start)
            _append(ends, rng.integers(0, nodes, (count, 2)))
            _append(feats, rng.integers(0, 1000, (count, 8)) / 1000)
    tables = {
        "num-node-list": np.array([[nodes]]),
        "num-edge-list": np.array([[edges]]),
        "node_species": np.arange(nodes).reshape(-1, 1) % 8 + 3702,
        "node-label": rng.integers(0, 2, (nodes, 112)),
    }
    for name, values in tables.items():
        with gzip.open(raw / f"{name}.csv.gz", "wb", 1) as file:
            _append(file, values)
    parts = np.array_split(np.arange(nodes), [int(0.65 * nodes), int(0.81 * nodes)])
    for name, ids in zip(("train", "valid", "test"), parts, strict=True):
        with gzip.open(split / f"{name}.csv.gz", "wb", 1) as file:
            _append(file, ids.reshape(-1, 1))


def measure(root: Path) -> dict[str, Any]:
    """Prepare ``root/ogbn_proteins`` in a fresh process.

    Returns: nodes, directed edges, seconds of reading (with the node features) and of building the graph and its batch,
        and the largest resident size after each in bytes.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_prepare, args=(root, theirs))
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the preparation ended with exit code {process.exitcode}") from None
    process.join()
    return found


def _prepare(root: Path, answer: Connection) -> None:
    started = time.perf_counter()
    data = read_ogb("ogbn-proteins", root)
    read = time.perf_counter()
    after_reading = _peak()
    batch = FullBatch(data).batch
    built = time.perf_counter()
    assert batch.edge_attr is not None, "proteins have edge features"
    answer.send(
        {
            "num_nodes": data.num_nodes,
            "num_edges": batch.graph.num_edges,
            "read_s": read - started,
            "build_s": built - read,
            "read_peak_bytes": after_reading,
            "peak_bytes": _peak(),
        }
    )


def _peak() -> int:
    """Bytes of the largest resident size so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _append(file: Any, values: np.ndarray) -> None:
    table = pa.table({str(column): values[:, column] for column in range(values.shape[1])})
    csv.write_csv(table, file, csv.WriteOptions(include_header=False))


def main() -> None:
    """Measure, print, and append the row where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=EDGES // 100, help="undirected edges of the made-up folder")
    parser.add_argument("--nodes", type=int, default=None, help="default: as many per edge as ogbn-proteins has")
    parser.add_argument("--data-root", type=Path, help="measure the real folder below this one instead")
    parser.add_argument("--out", type=Path, help="append the result to this file as one JSON line")
    options = parser.parse_args()
    if options.data_root is not None:
        found = measure(options.data_root)
    else:
        nodes = options.nodes or max(100, NODES * options.edges // EDGES)
        with tempfile.TemporaryDirectory() as folder:
            write_raw(Path(folder), nodes=nodes, edges=options.edges)
            found = measure(Path(folder))
    row = {"kind": "preparation", "made_up": options.data_root is None, **facts("cpu"), **found}
    print(
        f"{found['num_nodes']:,} nodes, {found['num_edges']:,} directed edges: read in {found['read_s']:.1f} s, graph "
        f"in {found['build_s']:.1f} s, at most {found['peak_bytes'] / 1e9:.2f} GB (limit {LIMIT_GB:g} GB)"
    )
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    if found["peak_bytes"] > LIMIT_GB * 1e9:
        sys.exit(f"the preparation took more than {LIMIT_GB:g} GB")


if __name__ == "__main__":
    main()
