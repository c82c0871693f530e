"""What can be done to the edges of a data set before training: the inverse of each, both directions, self loops.

Vectorised over all edges at once, features following their edge. Repeated edges are told apart by where they stood: the
first one stays.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .dataset import Dataset


def prepare_edges(dataset: Dataset, *, undirected: bool, self_loops: bool) -> Dataset:
    """Add the reverse of every edge, then one self loop per node, as asked for.

    Args:
        dataset: the edges as they were read.
        undirected: see `make_undirected`.
        self_loops: see `add_self_loops`.
    Returns: the same data set where neither is wanted; else one with its edges by (source, destination).
    Raises: ValueError: if self loops are wanted and the edges carry features.
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
    # Nodes of a graph stand together, so edges in order of their source keep the graphs apart.
    edge_ptr = None if dataset.node_ptr is None else torch.searchsorted(edge_index[0].contiguous(), dataset.node_ptr)
    return replace(
        dataset,
        edge_index=edge_index,
        edge_attr=edge_attr,
        edge_ptr=edge_ptr,
        info=replace(dataset.info, undirected=undirected, self_loops=self_loops),
    )


def interleave_inverse(edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Follow every edge by its inverse with the same features; nothing is dropped.

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

    A direction that had an edge keeps the features of the first such edge; one that had none takes its partner's.

    Args:
        edge_index: [2, E] int64 in 0..N-1.
        edge_attr: [E, K] or ``None``.
        num_nodes: N.
    Returns: [2, E'] by (source, destination), and [E', K].
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
    """Give every node exactly one self loop; those that exist are replaced, other repeats stay.

    Args:
        edge_index: [2, E] int64 in 0..N-1.
        num_nodes: N.
    Returns: [2, E'] by (source, destination).
    Cost: one sort of E' keys.
    """
    others = edge_index[:, edge_index[0] != edge_index[1]]
    edges = torch.cat([others, torch.arange(num_nodes).expand(2, -1)], dim=1)
    return edges[:, torch.argsort(edges[0] * num_nodes + edges[1], stable=True)]
