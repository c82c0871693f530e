"""A graph larger than the memory that a process is given trains and predicts; the formulas of its cost hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The benchmarks are no part of the package: they are found from the root of the checkout, whatever started the suite.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.out_of_core import imports_bytes, measure, write_graph
from benchmarks.scale import measured_scale

from revgnn.data import Store


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and counted as Linux does it")
@pytest.mark.slow
def test_a_graph_twice_the_memory_beyond_the_imports(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", nodes=600_000, num_parts=64)
    disk = Store.open(graph).manifest.num_bytes
    row = measure(graph, tmp_path, limit=imports_bytes() + disk // 2, together=1)
    assert row["predicted_rows"] == row["num_nodes"] == 600_000
    assert row["steps"] == 64
    assert 0 < row["train_peak_bytes"] < row["limit_bytes"]
    # Chance is 1 in 16: what was learnt part by part counts everywhere.
    assert row["test_accuracy"] > 0.2
    assert row["whole_rc"] != 0


def test_the_formula_of_the_disk_is_that_of_what_is_written(tmp_path: Path) -> None:
    store = Store.open(write_graph(tmp_path / "graph", nodes=3001, num_parts=7))
    row = {
        "num_nodes": store.num_nodes,
        "num_edges": store.num_edges,
        "num_parts": 7,
        "parts_per_batch": 3,
        "features": 128,
        "hidden": 8,
        "parameters": 10,
    }
    scale = measured_scale(row)
    without_ids = sum(
        file.bytes for part in store.manifest.parts for name, file in part.files.items() if name != "ids.parquet"
    )
    assert scale.disk_bytes - scale.nodes * scale.id_bytes == without_ids
    batch = store.batch([1, 3, 4])
    assert batch.x.size(0) == pytest.approx(scale.batch_nodes, rel=0.01)
    assert batch.graph.num_edges == pytest.approx(scale.batch_edges, rel=0.05)
    counted = sum(tensor.nbytes for tensor in batch.tensors())
    assert counted == pytest.approx(scale.batch_bytes, rel=0.02)
