"""Edge lists, and what the tests of graphs and of edge_index compare them by."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from revgnn import ModelConfig
from revgnn.graph import Graph

EDGES = torch.tensor([[2, 0, 1, 0, 3], [1, 1, 0, 3, 3]])


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Any small edge list: isolated nodes, repeated edges and self loops come by themselves."""
    num_nodes = draw(st.integers(1, 8))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=20))
    return torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous(), num_nodes


def pairs_of(edge_index: Tensor) -> list[tuple[int, int]]:
    return sorted(map(tuple, edge_index.t().tolist()))


def small_config(conv: str, **changes: Any) -> ModelConfig:
    return ModelConfig(conv=conv, num_layers=3, hidden_channels=6, dropout=0.0, **changes)


def pickled(value: Graph) -> Graph:
    """Return a copy of a graph, as another process receives it."""
    copied: Graph = pickle.loads(pickle.dumps(value))
    return copied
