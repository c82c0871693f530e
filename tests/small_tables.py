"""Two small tables and their graph.yaml, for tests that prepare them and read what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from revgnn.data.prepare import Prepared, prepare, read_config

Table = dict[str, Any]


def write(folder: Path, node_table: Table, edge_table: Table, /, **changes: Any) -> Path:
    """Write two tables and a graph.yaml, whose top-level fields ``changes`` replaces."""
    pq.write_table(pa.table(node_table), folder / "nodes.parquet")
    pq.write_table(pa.table(edge_table), folder / "edges.parquet")
    config = {
        "nodes": {"files": "nodes.parquet", "features": "x", "label": "label"},
        "edges": {"files": "edges.parquet"},
        "split": "split",
        "scale": "none",
        "parts": {"count": 3},
    }
    (folder / "graph.yaml").write_text(yaml.safe_dump(config | changes), encoding="utf-8")
    return folder / "graph.yaml"


def make(config: Path, out: str = "graph", **settings: Any) -> Prepared:
    return prepare(read_config(config), config.parent, config.parent / out, **settings)


def good_nodes(ids: list[Any] | None = None) -> Table:
    ids = ["a", "b", "c", "d"] if ids is None else ids
    count = len(ids)
    return {
        "id": ids,
        "x": pa.array([[float(k), -float(k)] for k in range(count)], pa.list_(pa.float32())),
        "label": [("ale", "wine")[k % 2] for k in range(count)],
        "split": [("train", "valid", "test", None)[k % 4] for k in range(count)],
    }


def good_edges() -> Table:
    return {"src": ["a", "d", "a", "a"], "dst": ["b", "c", "b", "a"]}


def report(config: Path, **settings: Any) -> list[str]:
    """Prepare what must not be prepared; return the lines of the complaint, and see that nothing is left."""
    before = sorted(config.parent.iterdir())
    with pytest.raises(ValueError, match=r"the tables in .* have \d+ faults?:") as caught:
        make(config, **settings)
    assert sorted(config.parent.iterdir()) == before
    head, *lines = str(caught.value).split("\n")
    assert f" {len(lines)} fault" in head
    return [line.strip() for line in lines]
