"""The same graph from a Ray cluster of two nodes as from one process: every file of every part has the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from revgnn.data.ondisk.manifest import read_manifest
from revgnn.data.prepare import prepare, read_config

PROGRAM = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster

cluster = Cluster()
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
cluster.wait_for_nodes()
from revgnn.data.prepare import prepare, read_config
config = Path(sys.argv[1])
prepare(read_config(config), config.parent, config.parent / "on-ray", ray=cluster.address)
import ray
print(json.dumps(sum(node["Alive"] for node in ray.nodes())))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("daft", reason="a cluster computes with Daft, which is not installed")
    pytest.importorskip("ray", reason="a cluster needs Ray, which is not installed")
    rng = np.random.default_rng(0)
    ids = pa.array([f"näme-{k}" for k in range(3_000)])
    for number in range(3):
        rows = slice(number * 1_000, (number + 1) * 1_000)
        nodes = {"id": ids[rows], "x": rng.random(1_000), "label": rng.integers(0, 5, 1_000)}
        pq.write_table(pa.table(nodes), tmp_path / f"nodes-{number}.parquet")
        ends = {name: ids.take(pa.array(rng.integers(0, 3_000, 8_000))) for name in ("src", "dst")}
        pq.write_table(pa.table({**ends, "w": rng.random(8_000)}), tmp_path / f"edges-{number}.parquet")
    config = tmp_path / "graph.yaml"
    config.write_text(
        "nodes: {files: nodes-*.parquet, features: x, label: label}\n"
        "edges: {files: edges-*.parquet, features: w}\n"
        "split: {fractions: [0.6, 0.2, 0.2]}\nname: both\ndirection: undirected\nparts: {count: 5}\n"
    )
    here = prepare(read_config(config), tmp_path, tmp_path / "here").manifest
    quiet = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config)],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == 2
    there = read_manifest(tmp_path / "on-ray")
    assert there.parts == here.parts
    assert (there.splits, there.dropped, there.inputs) == (here.splits, here.dropped, here.inputs)
    assert here.num_nodes == 3_000
