"""Graphs and data sets of one graph, drawn at random with everything that is legal, to compare with loops over them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from revgnn.data import Dataset, GraphInfo
from revgnn.graph import Graph

EDGE_SIZES = (3, 2)


@st.composite
def graphs(draw: st.DrawFn, least: int = 0, most: int = 12) -> Graph:
    """Draw graphs with repeated edges, self loops, isolated nodes, no edges, no nodes; edges in any order."""
    n = draw(st.integers(least, most))
    node = st.integers(0, max(n - 1, 0))
    pairs = draw(st.lists(st.tuples(node, node), max_size=40)) if n else []
    return Graph.from_edge_index(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous(), n)


def one_graph(n: int, edges: int, *, seed: int = 0, coded: bool = False, plain: bool = False) -> Dataset:
    """Draw a node-level data set whose features tell nodes apart, and whose edge features tell edges apart.

    Args:
        n: nodes, of which half are train, a quarter valid, and some in no split.
        edges: directed edges, repeated ones and self loops among them, in no order.
        seed: of everything.
        coded: categories instead of numbers, for nodes and edges.
        plain: edges carry nothing.
    """
    rng = np.random.default_rng(seed)
    x = torch.arange(n)[:, None]
    codes = torch.from_numpy(np.stack([rng.integers(0, size, edges) for size in EDGE_SIZES], 1).astype(np.uint8))
    order = torch.from_numpy(rng.permutation(n))
    half, quarter = max(n // 2, 1), n // 4
    return Dataset(
        info=GraphInfo(
            name="one",
            categories=(256,) if coded else None,
            edge_categories=EDGE_SIZES if coded and not plain else None,
            num_outputs=3,
        ),
        x=x.to(torch.uint8) if coded else x.float(),
        edge_index=torch.from_numpy(rng.integers(0, n, (2, edges))),
        edge_attr=None if plain else codes if coded else torch.arange(float(edges))[:, None],
        y=torch.from_numpy(rng.integers(0, 3, n)),
        splits={"train": order[:half], "valid": order[half : half + quarter], "test": order[half + quarter : -1]},
    )
