"""The sizes of OGB's data sets that stand in the package: as its pages print them, and counted where the data lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from revgnn.data.readers.csv_gz import read_csv_gz
from revgnn.data.readers.ogb import OGB, SIZES

PRINTED = {
    "ogbn-arxiv": (169_343, 1_166_243),
    "ogbn-products": (2_449_029, 2 * 61_859_140),
    "ogbn-proteins": (132_534, 2 * 39_561_252),
}
"""Nodes and directed edges by OGB's table of data sets, which counts each undirected edge of the last two once."""


def test_nodes_and_edges_are_those_of_ogbs_table() -> None:
    assert {name: (SIZES[name].nodes, SIZES[name].edges) for name in PRINTED} == PRINTED
    assert all(SIZES[name].nodes == OGB[name].size for name in PRINTED)
    # Printed as averages over 41,127 molecules: 25.5 atoms and 27.5 bonds.
    molhiv = SIZES["ogbg-molhiv"]
    assert round(molhiv.nodes / OGB["ogbg-molhiv"].size, 1) == 25.5
    assert round(molhiv.edges / 2 / OGB["ogbg-molhiv"].size, 1) == 27.5


def test_products_repeats_its_self_loops() -> None:
    """As was reported to OGB: without repeats 123,718,152 edges are left, and 126,167,053 with a loop at every node."""
    size = SIZES["ogbn-products"]
    assert size.both_ways == 123_718_152
    assert size.both_ways - size.loops + size.nodes == 126_167_053


def test_molhiv_is_counted(real_data: Path) -> None:
    folder, size = real_data / "ogbg_molhiv", SIZES["ogbg-molhiv"]
    nodes, edges = (read_csv_gz(folder / "raw" / f"num-{what}-list.csv.gz", np.int64) for what in ("node", "edge"))
    train = read_csv_gz(folder / "split" / "scaffold" / "train.csv.gz", np.int64)
    assert (len(nodes), nodes.sum(), 2 * edges.sum()) == (OGB["ogbg-molhiv"].size, size.nodes, size.edges)
    assert (len(train), size.both_ways) == (size.train, size.edges)


def test_arxiv_is_counted(real_data: Path) -> None:
    """The graph and the split are the real ones, the features others."""
    folder, size = real_data / "arxiv_text", SIZES["ogbn-arxiv"]
    src, dst = (pq.read_table(folder / "edges.parquet")[name].to_numpy() for name in ("src", "dst"))
    both = np.unique(np.concatenate([src * size.nodes + dst, dst * size.nodes + src]))
    split = pq.read_table(folder / "nodes.parquet", columns=["split"])["split"].to_numpy(zero_copy_only=False)
    assert (len(split), (split == "train").sum()) == (size.nodes, size.train)
    assert (len(src), len(both), int((src == dst).sum())) == (size.edges, size.both_ways, size.loops)
