"""Assign nodes to parts with METIS, in the memory of one machine."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...node_order import metis_clusters
from .engine import Engine
from .finish import NodeParts, RowCounts, read_edges
from .resolve import Plan


def metis_parts(engine: Engine, plan: Plan, work: Path, count: int) -> Path:
    """Partition a graph with METIS.

    Args:
        engine: reads the tables.
        plan: the scans of the tables.
        work: a folder for intermediate files, which are removed, and for the result.
        count: the number of parts.
    Returns: a Parquet file of (id, part).
    Raises: ModuleNotFoundError: pymetis is not installed.
    """
    rows, out = plan.node_rows, work / "assigned.parquet"
    nodes = NodeParts(engine, work / "metis-nodes", 1, rows.key.column, RowCounts(plan.node_checks), False, Counter())
    scan = replace(plan.nodes, rows=replace(rows, part=None, num_parts=1))
    # Faulty rows are reported when they are read again.
    engine.split_nodes(scan, nodes.folder, None, nodes.add_faulty)
    places = work / "metis-places"
    nodes.place(places)
    if not nodes.num_nodes:
        pq.write_table(pa.table({"id": pa.array([], rows.key.kind), "part": pa.array([], pa.int32())}), out)
        return out
    ids = pq.read_table(places, columns=["id"]).column("id")
    engine.split_edges(plan.edges, places, work / "metis-edges", lambda table: None)
    edges = read_edges(engine, [work / "metis-edges"], 0, 0)
    part = metis_clusters(np.stack([edges.src, edges.dst]).astype(np.int64), len(ids), count).astype(np.int32)
    pq.write_table(pa.table({"id": ids, "part": part}), out)
    for folder in (nodes.folder, places, work / "metis-edges"):
        shutil.rmtree(folder, ignore_errors=True)
    return out
