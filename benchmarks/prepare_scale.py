"""What `revgnn prepare` takes by the size of a graph: seconds, memory of the whole process tree, and disk.

python -m benchmarks.prepare_scale --edges 1000000          seeded tables in a folder that goes away, and one line
python -m benchmarks.prepare_scale --edges 100000000 --out benchmarks/results/prepare.jsonl
python -m benchmarks.prepare_scale --table                  the table of docs/prepare.md, from the newest results

Tables have string ids, a tenth as many nodes as edges, and edges between nodes drawn uniformly, so that no part is
friendlier than another. The preparation runs in a process of its own; it is killed where it exceeds the limit.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .machine import ROOT, facts

RESULTS = ROOT / "benchmarks" / "results" / "prepare.jsonl"
_BLOCK = 1_000_000


def write_tables(folder: Path, *, nodes: int, edges: int, features: int) -> None:
    """Write nodes.parquet, edges.parquet and graph.yaml.

    Args:
        folder: receives them.
        nodes: N.
        edges: E.
        features: float32 columns of nodes, in one list.
    """
    rng = np.random.default_rng(0)
    kind = pa.list_(pa.float32(), features)
    with pq.ParquetWriter(
        folder / "nodes.parquet", pa.schema([("id", pa.string()), ("x", kind), ("label", pa.int64())])
    ) as file:
        for start in range(0, nodes, _BLOCK):
            number = np.arange(start, min(start + _BLOCK, nodes))
            x = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(len(number) * features, np.float32)), features)
            file.write_table(
                pa.table({"id": _ids(number), "x": x, "label": rng.integers(0, 40, len(number))}),
                row_group_size=1 << 18,
            )
    with pq.ParquetWriter(folder / "edges.parquet", pa.schema([("src", pa.string()), ("dst", pa.string())])) as file:
        for start in range(0, edges, _BLOCK):
            ends = rng.integers(0, nodes, (2, min(_BLOCK, edges - start)))
            file.write_table(pa.table({"src": _ids(ends[0]), "dst": _ids(ends[1])}))
    (folder / "graph.yaml").write_text(
        "nodes: {files: nodes.parquet, features: x, label: label}\n"
        "edges: {files: edges.parquet}\n"
        "split: {fractions: [0.8, 0.1, 0.1]}\n"
        f"parts: {{count: {max(4, edges // 1_000_000)}}}\n",
        encoding="utf-8",
    )


def measure(folder: Path, limit_bytes: float) -> dict[str, Any]:
    """Prepare the tables of a folder in a process of its own.

    Returns: seconds, the largest sum of resident sizes of the process and its children, the largest size of what lay
        on the disk between tables and graph, and the size of the graph.
    Raises: RuntimeError: it failed, or took more memory than the limit, and was killed.
    """
    out = folder / "graph"
    log = folder / "log"
    command = [sys.executable, "-m", "revgnn", "prepare", str(folder / "graph.yaml"), "--out", str(out)]
    started = time.perf_counter()
    peak = disk = 0
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL) as process:
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            memory = _memory(seen)
            peak = max(peak, memory)
            if memory > limit_bytes:
                process.kill()
                raise RuntimeError(
                    f"killed at {memory / 1e9:.1f} GB of memory, past the limit of {limit_bytes / 1e9:.1f} GB"
                )
            if int(time.perf_counter()) % 5 == 0:
                disk = max(disk, sum(_size(path) for path in folder.glob(".*")))
            time.sleep(0.2)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"it failed:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return {"seconds": seconds, "peak_bytes": peak, "between_bytes": disk, "graph_bytes": _size(out)}


def table() -> str:
    """Give the newest result of each size as Markdown."""
    newest: dict[int, dict[str, Any]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        newest[row["num_edges"]] = row
    lines = [
        "| edges | nodes | features | parts | tables | time | peak memory | between, on disk | graph | measured |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for edges, row in sorted(newest.items()):
        cells = [
            f"{edges:,}",
            f"{row['num_nodes']:,}",
            str(row["features"]),
            str(row["num_parts"]),
            f"{row['table_bytes'] / 1e9:.2f} GB",
            f"{row['seconds']:.0f} s",
            f"{row['peak_bytes'] / 1e9:.2f} GB",
            f"{row['between_bytes'] / 1e9:.2f} GB",
            f"{row['graph_bytes'] / 1e9:.2f} GB",
            f"{row['machine']['cores']} cores of {row['machine']['cpu']}, {row['date'][:10]}, {row['commit'][:8]}"
            f"{'-dirty' if row['dirty'] else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ids(numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise("item-", pa.array(numbers).cast(pa.string()), "")


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def main() -> None:
    """Measure, print, and append the row where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1_000_000, help="E; a tenth as many nodes")
    parser.add_argument("--features", type=int, default=16, help="of nodes (default: 16)")
    parser.add_argument("--limit-gb", type=float, default=14.0, help="of memory: more, and it is killed")
    parser.add_argument("--out", type=Path, help="append the result to this file as one JSON line")
    parser.add_argument("--table", action="store_true", help="print the table of results, and measure nothing")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    nodes = max(100, options.edges // 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < options.edges * 100:
            sys.exit(f"{folder} has {free / 1e9:.0f} GB free; {options.edges * 100 / 1e9:.0f} GB are needed")
        write_tables(folder, nodes=nodes, edges=options.edges, features=options.features)
        size = _size(folder)
        where = {"kind": "prepare", **facts("cpu")}
        where["versions"] |= {name: importlib.metadata.version(name) for name in ("daft", "pyarrow", "numpy")}
        found = measure(folder, options.limit_gb * 1e9)
        parts = json.loads((folder / "graph" / "manifest.json").read_text(encoding="utf-8"))["content"]["num_parts"]
    row = {
        **where,
        "num_nodes": nodes,
        "num_edges": options.edges,
        "features": options.features,
        "num_parts": parts,
        "table_bytes": size,
        "pid_niceness": os.getpriority(os.PRIO_PROCESS, 0),
        **found,
    }
    memory, between, size = (found[name] / 1e9 for name in ("peak_bytes", "between_bytes", "graph_bytes"))
    print(
        f"{nodes:,} nodes, {options.edges:,} edges: {found['seconds']:.1f} s, at most {memory:.2f} GB of memory and "
        f"{between:.2f} GB of disk between; the graph has {size:.2f} GB"
    )
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
