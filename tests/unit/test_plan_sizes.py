"""The sizes of OGB's data sets that stand in the package: as its pages print them, and counted where the data lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from revgnn.data import LoaderConfig
from revgnn.data.readers.csv_gz import read_csv_gz
from revgnn.data.readers.ogb import OGB
from revgnn.planner.step_size import kept_share, steps_by_parts
from revgnn.planner.synthetic import GraphShape

PRINTED = {
    "ogbn-arxiv": (169_343, 1_166_243),
    "ogbn-products": (2_449_029, 2 * 61_859_140),
    "ogbn-proteins": (132_534, 2 * 39_561_252),
}
"""Nodes and directed edges by OGB's table of data sets, which counts each undirected edge of the last two once."""


def test_nodes_and_edges_are_those_of_ogbs_table() -> None:
    assert {name: (OGB[name].info.counts.nodes, OGB[name].info.counts.edges) for name in PRINTED} == PRINTED
    assert all(OGB[name].info.num_rows == PRINTED[name][0] for name in PRINTED)
    # Printed as averages over 41,127 molecules: 25.5 atoms and 27.5 bonds.
    molhiv = OGB["ogbg-molhiv"].info
    assert round(molhiv.counts.nodes / molhiv.num_rows, 1) == 25.5
    assert round(molhiv.counts.edges / 2 / molhiv.num_rows, 1) == 27.5


def test_products_repeats_its_self_loops() -> None:
    """As was reported to OGB: without repeats 123,718,152 edges are left, and 126,167,053 with a loop at every node."""
    size = OGB["ogbn-products"]
    assert size.both_ways == 123_718_152
    assert size.both_ways - size.loops + size.info.counts.nodes == 126_167_053


def test_molhiv_is_counted(real_data: Path) -> None:
    folder, size = real_data / "ogbg_molhiv", OGB["ogbg-molhiv"]
    info = size.info
    nodes, edges = (read_csv_gz(folder / "raw" / f"num-{what}-list.csv.gz", np.int64) for what in ("node", "edge"))
    train = read_csv_gz(folder / "split" / "scaffold" / "train.csv.gz", np.int64)
    assert (len(nodes), nodes.sum(), 2 * edges.sum()) == (info.num_rows, info.counts.nodes, info.counts.edges)
    assert (len(train), size.both_ways) == (info.split_sizes["train"], info.counts.edges)


def test_arxiv_is_counted(real_data: Path) -> None:
    """The graph and the split are the real ones, the features others."""
    folder, size = real_data / "arxiv_text", OGB["ogbn-arxiv"]
    counts = size.info.counts
    src, dst = (pq.read_table(folder / "edges.parquet")[name].to_numpy() for name in ("src", "dst"))
    both = np.unique(np.concatenate([src * counts.nodes + dst, dst * counts.nodes + src]))
    split = pq.read_table(folder / "nodes.parquet", columns=["split"])["split"].to_numpy(zero_copy_only=False)
    assert (len(split), (split == "train").sum()) == (counts.nodes, size.info.split_sizes["train"])
    assert (len(src), len(both), int((src == dst).sum())) == (counts.edges, size.both_ways, size.loops)


@pytest.mark.parametrize("size", [steps_by_parts, kept_share])
def test_steps_of_an_unknown_kind_are_not_guessed(
    size: Callable[[LoaderConfig, GraphShape], float],
) -> None:
    shape = GraphShape(info=OGB["ogbn-arxiv"].info)
    with pytest.raises(ValueError, match="full, neighbor, saint, random, clusters, ondisk, got neighbor"):
        size(LoaderConfig(kind="neighbor", batch_size=9, fanouts=(3,)), shape)
    assert 0 < size(LoaderConfig(kind="random", num_parts=4), shape) <= 4
