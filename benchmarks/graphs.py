"""Synthetic graphs of the declared shapes, with features and labels: the same bits on every machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from revgnn import Graph

from .registry import GRAPHS, Form, GraphShape


@dataclass(frozen=True)
class Task:
    """A graph with something to learn on it."""

    x: Tensor
    """[N, F] float32."""
    y: Tensor
    """[N] int64."""
    edge_index: Tensor
    """[2, E] int64, ordered by (destination, source), as PyG's fastest paths like it."""
    edge_attr: Tensor | None
    """[E, K] float32."""
    num_classes: int

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.size(0)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.size(1)

    @cached_property
    def graph(self) -> Graph:
        """What this project takes."""
        return Graph.from_edge_index(self.edge_index, self.num_nodes)

    def form(self, form: Form, *, loops: bool = True) -> Tensor:
        """What PyG takes, with its caches filled; ``loops=False`` leaves self loops out."""
        edge_index = self.edge_index if loops else self.edge_index[:, self.edge_index[0] != self.edge_index[1]]
        size = (self.num_nodes, self.num_nodes)
        if form == "edge_index":
            return edge_index
        if form == "EdgeIndex":
            cached: Tensor = EdgeIndex(edge_index, sparse_size=size, sort_order="col", is_undirected=True).fill_cache_()
            return cached
        if form == "SparseTensor":
            # Imported by name: it has builds for few versions of torch, and none for the tested one.
            rows: Tensor = import_module("torch_sparse").SparseTensor(
                row=edge_index[1], col=edge_index[0], sparse_sizes=size, is_sorted=True
            )
            return rows
        counts = torch.bincount(edge_index[1], minlength=self.num_nodes)
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        ones = torch.ones(edge_index.size(1), device=edge_index.device)
        return torch.sparse_csr_tensor(indptr, edge_index[0], ones, size=size)


def make_task(name: str, *, device: str = "cpu", edges: float = 1.0) -> Task:
    """Make a declared graph.

    Args:
        name: of `GRAPHS`.
        device: where its tensors shall lie.
        edges: part of its edges to have instead, above 0; self loops apart.
    Returns: equal for equal arguments.
    """
    shape = GRAPHS[name]
    shape = replace(shape, num_pairs=round(shape.num_pairs * edges))
    rng = np.random.default_rng(0)
    edge_index = torch.from_numpy(_edges(shape, rng)).to(device)
    num_edges = edge_index.size(1)
    edge_attr = rng.random((num_edges, shape.edge_channels), np.float32) if shape.edge_channels else None
    return Task(
        x=torch.from_numpy(rng.standard_normal((shape.num_nodes, shape.features), np.float32)).to(device),
        y=torch.from_numpy(rng.integers(0, shape.classes, shape.num_nodes)).to(device),
        edge_index=edge_index,
        edge_attr=None if edge_attr is None else torch.from_numpy(edge_attr).to(device),
        num_classes=shape.classes,
    )


def _edges(shape: GraphShape, rng: np.random.Generator) -> np.ndarray:
    """[2, E] edges of a Chung-Lu graph: both ends of a pair are drawn by their nodes' weights."""
    n = shape.num_nodes
    weights = (np.arange(n) + shape.shift) ** -shape.power
    rng.shuffle(weights)
    cumulative = np.cumsum(weights / weights.sum())
    pairs = np.empty(0, np.int64)
    while len(pairs) < shape.num_pairs:
        count = int((shape.num_pairs - len(pairs)) * 1.3) + 100
        a, b = (np.minimum(np.searchsorted(cumulative, rng.random(count)), n - 1) for _ in range(2))
        fresh = (np.minimum(a, b) * n + np.maximum(a, b))[a != b]
        pairs = np.unique(np.concatenate([pairs, fresh]))
    pairs = rng.permutation(pairs)[: shape.num_pairs]
    a, b = pairs // n, pairs % n
    loops = np.arange(n) if shape.self_loops else np.empty(0, np.int64)
    src, dst = np.concatenate([a, b, loops]), np.concatenate([b, a, loops])
    order = np.lexsort((src, dst))
    return np.stack([src[order], dst[order]])
