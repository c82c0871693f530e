"""What `revgnn prepare` and DuckDB take by the size of a graph: seconds, memory of the whole process tree, and disk.

python -m benchmarks.prepare_scale --edges 1000000          seeded tables in a folder that goes away, and one line
python -m benchmarks.prepare_scale --edges 100000000 --out benchmarks/results/prepare.jsonl

Tables have string ids, a tenth as many nodes as edges, and edges between nodes drawn uniformly, so that no part is
friendlier than another. The preparation runs in a process of its own; it is killed where it exceeds the limit. So does
``benchmarks.prepare_duckdb`` (``pip install -c constraints.txt duckdb``), in turn with it; figures are medians.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .machine import facts

_BLOCK = 1_000_000


def write_tables(folder: Path, *, nodes: int, edges: int, features: int, parts: int) -> None:
    """Write nodes.parquet, edges.parquet and graph.yaml.

    Args:
        folder: receives them.
        nodes: N.
        edges: E.
        features: float32 columns of nodes, in one list.
        parts: P.
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
        f"parts: {{count: {parts}}}\n",
        encoding="utf-8",
    )


def measure(command: list[str], folder: Path, out: Path, limit_bytes: float) -> dict[str, float]:
    """Run a command in a process of its own, which prints JSON with its ``seconds`` without imports.

    Args:
        command: the command; intermediate files are hidden folders of ``folder``.
        folder: the folder of the tables.
        out: what it writes, removed afterwards.
        limit_bytes: of memory.
    Returns: seconds of the whole process; its own seconds; seconds of processors; the largest sum of resident sizes of
        the process and its children; the largest size of intermediate files; the size of what it wrote.
    Raises: RuntimeError: it failed, or took more memory than the limit, and was killed.
    """
    peak = between = 0
    used = _cpu_seconds()
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log, stdout=subprocess.PIPE) as process:
        seen = psutil.Process(process.pid)
        looked = started
        while process.poll() is None:
            memory = _memory(seen)
            peak = max(peak, memory)
            if memory > limit_bytes:
                process.kill()
                raise RuntimeError(
                    f"killed at {memory / 1e9:.1f} GB of memory, past the limit of {limit_bytes / 1e9:.1f} GB"
                )
            if time.perf_counter() - looked > 1:
                looked = time.perf_counter()
                between = max(between, sum(_size(path) for path in folder.glob(".*")))
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"it failed:\n{log.read()[-2000:].decode()}")
        assert process.stdout is not None
        own = float(json.loads(process.stdout.read())["seconds"])
    found = {
        "seconds": seconds,
        "own_seconds": own,
        "cpu_seconds": _cpu_seconds() - used,
        "peak_bytes": peak,
        "between_bytes": between,
        "graph_bytes": _size(out),
    }
    shutil.rmtree(out)
    return found


def compare(folder: Path, parts: int, repeats: int, limit_bytes: float) -> tuple[dict[str, float], dict[str, float]]:
    """Prepare the tables of a folder and run DuckDB on them, in turn; return the medians of both."""
    prepare = [sys.executable, "-m", "revgnn", "prepare", str(folder / "graph.yaml"), "--out", str(folder / "graph")]
    duckdb = [sys.executable, "-m", "benchmarks.prepare_duckdb", str(folder), str(parts)]
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = [], []
    for _ in range(repeats):
        found[0].append(measure([*prepare, "--json"], folder, folder / "graph", limit_bytes))
        found[1].append(measure(duckdb, folder, folder / "duckdb", limit_bytes))
    ours, theirs = ({name: statistics.median(one[name] for one in runs) for name in runs[0]} for runs in found)
    return ours, theirs


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    """Bytes of the files in a folder, some of which may vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(place, name))
    return total


def main() -> None:
    """Measure, print, and append the row where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1_000_000, help="E; a tenth as many nodes")
    parser.add_argument("--repeats", type=int, default=3, help="of both, in turn (default: 3)")
    parser.add_argument("--features", type=int, default=16, help="of nodes (default: 16)")
    parser.add_argument("--limit-gb", type=float, default=14.0, help="of memory: more, and it is killed")
    parser.add_argument("--out", type=Path, help="append the result to this file as one JSON line")
    options = parser.parse_args()
    nodes, parts = max(100, options.edges // 10), max(4, options.edges // 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < options.edges * 100:
            sys.exit(f"{folder} has {free / 1e9:.0f} GB free; {options.edges * 100 / 1e9:.0f} GB are needed")
        write_tables(folder, nodes=nodes, edges=options.edges, features=options.features, parts=parts)
        size = _size(folder)
        where = {"kind": "prepare", **facts("cpu")}
        where["versions"] |= {name: importlib.metadata.version(name) for name in ("pyarrow", "numpy", "duckdb")}
        ours, theirs = compare(folder, parts, options.repeats, options.limit_gb * 1e9)
    row = {
        **where,
        "num_nodes": nodes,
        "num_edges": options.edges,
        "features": options.features,
        "num_parts": parts,
        "table_bytes": size,
        "pid_niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "repeats": options.repeats,
        **ours,
        "duckdb": theirs,
    }
    print(f"{nodes:,} nodes, {options.edges:,} edges, {parts} parts, medians of {options.repeats}:")
    for what, found in (("revgnn prepare", ours), ("DuckDB", theirs)):
        memory, between, wrote = (found[f"{name}_bytes"] / 1e9 for name in ("peak", "between", "graph"))
        print(
            f"{what}: {found['seconds']:.1f} s, {found['own_seconds']:.1f} s without imports, "
            f"{found['cpu_seconds']:.1f} s of processors, at most {memory:.2f} GB of memory and {between:.2f} GB of "
            f"disk between; wrote {wrote:.2f} GB"
        )
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
