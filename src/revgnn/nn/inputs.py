"""What a network is called with: tensors as PyG has them, a `Graph`, or a PyG ``Data``; read into one form"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch import Tensor

from ..edge_index import ByContent, check_batch, plain, refuse_typed
from ..graph import Graph, as_graph

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Inputs(NamedTuple):
    """The arguments of a network in one form."""

    x: Tensor
    """[N, F]"""
    graph: Graph
    """With the batch and the edge weights that were given beside it; its own order of edges is the caller's."""
    edge_attr: Tensor | None
    """[E, K] in the graph's order of edges."""


def read_inputs(
    x: Tensor | Data,
    graph: Graph | Tensor | None = None,
    edge_attr: Tensor | None = None,
    *,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Inputs:
    """Read the arguments of a network.

    Args:
        x: [N, F] features; or a ``Data`` or ``Batch`` with everything that follows.
        graph: a graph of N nodes, or an ``edge_index`` [2, E].
        edge_attr: [E, K] in the caller's order of edges: that of ``edge_index``, also if a `Graph` was made from it.
        edge_weight: [E] or [E, 1] constant weights in that order; ``None``: those of the graph.
        batch: [N] integer, ascending: the graph of each node; ``None``: that of the graph.
        batch_size: B; ``None``: the last entry of ``batch`` plus one.
    Raises: TypeError, ValueError: ``x`` is neither, or a ``HeteroData``; a tensor does not fit the graph; the edge
        weights need a gradient.
    """
    if not isinstance(x, Tensor) and not _is_recorded(x):
        if any(given is not None for given in (graph, edge_attr, edge_weight, batch, batch_size)):
            raise TypeError("a network takes model(data) alone, or model(x, edge_index, ...) of tensors, not both")
        return read_inputs(**_arguments_of(x))
    if graph is None:
        raise TypeError("edge_index is missing: call model(x, edge_index, ...), or model(data) of a PyG Data")
    found = as_graph(graph, x.size(0), x.device)
    if edge_attr is not None:
        edge_attr = found.sort_edges(edge_attr)
    if edge_weight is not None:
        if edge_weight.numel() != found.num_edges:
            raise ValueError(f"edge_weight must have shape [{found.num_edges}], got {list(edge_weight.shape)}")
        found = found.weighted(found.sort_edges(edge_weight))
    if batch is not None:
        found = _batched(found, batch, batch_size)
    return Inputs(x, found.in_own_order, edge_attr)


def _is_recorded(x: object) -> bool:
    """Whether torch.fx records, which `as_graph` refuses in words."""
    return isinstance(x, torch.fx.Proxy)


class _Arguments(TypedDict):
    x: Tensor
    graph: Tensor
    edge_attr: Tensor | None
    edge_weight: Tensor | None
    batch: Tensor | None
    batch_size: int | None


def _arguments_of(data: Data) -> _Arguments:
    """Return the arguments of `read_inputs` from a ``Data``."""
    refuse_typed(data)
    x, edge_index = getattr(data, "x", None), getattr(data, "edge_index", None)
    if not isinstance(x, Tensor) or not isinstance(edge_index, Tensor):
        raise TypeError(
            f"expected a tensor x, or a PyG Data with tensors x and edge_index, got {type(data).__name__} with "
            f"x={type(x).__name__} and edge_index={type(edge_index).__name__}"
        )
    batch, edge_attr = getattr(data, "batch", None), getattr(data, "edge_attr", None)
    if edge_attr is not None and edge_attr.dim() == 1:
        edge_attr = edge_attr[:, None]
    return {
        "x": x,
        "graph": edge_index,
        "edge_attr": edge_attr,
        "edge_weight": getattr(data, "edge_weight", None),
        "batch": batch,
        "batch_size": None if batch is None else getattr(data, "num_graphs", None),
    }


def _batched(graph: Graph, batch: Tensor, batch_size: int | None) -> Graph:
    """Return a graph with the graph of each node; cached while an equal tensor is given."""

    def make(batch: Tensor) -> Graph:
        own, num_graphs = check_batch(batch, graph.num_nodes, batch_size)
        return replace(graph, batch=own, num_graphs=num_graphs)

    memo: ByContent[Graph] = graph.keep("batched", ByContent)
    return memo.get(plain(batch), batch_size, make)
