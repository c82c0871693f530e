"""Adds reverse edges and self loops to a data set, and removes duplicate edges.

All operations are vectorised over the edges and permute edge features accordingly. Of duplicate edges the first one is
kept.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .dataset import Dataset


def prepare_edges(dataset: Dataset, *, undirected: bool, self_loops: bool) -> Dataset:
    """Add the reverse of every edge and one self loop per node, as requested.

    Args:
        dataset: the data set with its original edges.
        undirected: see `make_undirected`.
        self_loops: see `add_self_loops`.
    Returns: the same data set if neither is requested; otherwise one with its edges sorted by (source, destination).
    Raises: ValueError: if self loops are requested and the edges have features.
    Cost: one sort of the edges for each.
    """
    if not undirected and not self_loops:
        return dataset
    if self_loops and dataset.edge_attr is not None:
        raise ValueError(
            f"self_loops=True gives every node an edge without features, but the edges of {dataset.name} carry "
            f"{dataset.info.edge_channels}; choose self_loops=False, or leave the edge features out"
        )
    edge_index, edge_attr = dataset.edge_index, dataset.edge_attr
    if undirected:
        edge_index, edge_attr = make_undirected(edge_index, edge_attr, dataset.num_nodes)
    if self_loops:
        edge_index = add_self_loops(edge_index, dataset.num_nodes)
    # The nodes of a graph are contiguous, so edges sorted by source remain grouped by graph.
    edge_ptr = None if dataset.node_ptr is None else torch.searchsorted(edge_index[0].contiguous(), dataset.node_ptr)
    return replace(
        dataset,
        edge_index=edge_index,
        edge_attr=edge_attr,
        edge_ptr=edge_ptr,
        info=replace(dataset.info, undirected=undirected, self_loops=self_loops),
    )


def interleave_inverse(edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Insert after every edge its inverse with the same features; no edge is dropped.

    Args:
        edge_index: [2, E] int64.
        edge_attr: [E, K] or ``None``.
    Returns: [2, 2E] and [2E, K], edge i at 2i and its inverse at 2i + 1.
    Source: the meaning of ``add_inverse_edge`` in OGB's table of data sets (arXiv:2005.00687).
    """
    both = torch.stack([edge_index, edge_index.flip(0)], dim=2).reshape(2, -1)
    return both, None if edge_attr is None else edge_attr.repeat_interleave(2, dim=0)


def make_undirected(edge_index: Tensor, edge_attr: Tensor | None, num_nodes: int) -> tuple[Tensor, Tensor | None]:
    """Add the reverse of every edge and drop repeats.

    An edge that exists keeps the features of its first occurrence; an added reverse edge copies its partner's features.

    Args:
        edge_index: [2, E] int64 in 0..N-1.
        edge_attr: [E, K] or ``None``.
        num_nodes: N.
    Returns: [2, E'] sorted by (source, destination), and [E', K].
    Cost: one stable sort of 2E keys.
    """
    both = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    key, order = torch.sort(both[0] * num_nodes + both[1], stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    kept = order[first]
    if edge_attr is not None:
        edge_attr = edge_attr[torch.where(kept < edge_index.size(1), kept, kept - edge_index.size(1))]
    return both[:, kept], edge_attr


def add_self_loops(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Give every node exactly one self loop; existing self loops are replaced, other duplicate edges are kept.

    Args:
        edge_index: [2, E] int64 in 0..N-1.
        num_nodes: N.
    Returns: [2, E'] sorted by (source, destination).
    Cost: one sort of E' keys.
    """
    others = edge_index[:, edge_index[0] != edge_index[1]]
    edges = torch.cat([others, torch.arange(num_nodes).expand(2, -1)], dim=1)
    return edges[:, torch.argsort(edges[0] * num_nodes + edges[1], stable=True)]
