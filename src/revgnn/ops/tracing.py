"""Decides when an op must run as a custom op, and passes graphs to custom ops as tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..edge_index import unwrapped
from ..graph import Graph

_PLAIN = (Tensor, torch.nn.Parameter)


def is_traced(x: object) -> bool:
    """Whether a kernel cannot read ``x`` from memory: under torch.compile, or a fake tensor or other subclass."""
    return torch.compiler.is_compiling() or type(x) not in _PLAIN


def reverse_tensors(graph: Graph, *inputs: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the reverse graph's (indptr, indices, edge_ids) if an input needs a gradient, otherwise three ``None``."""
    if not torch.is_grad_enabled() or not any(value is not None and value.requires_grad for value in inputs):
        return None, None, None
    if "reverse" in graph.__dict__:
        reverse = graph.reverse
        return reverse.indptr, reverse.indices, reverse.edge_ids
    made: tuple[Tensor, Tensor, Tensor] = graph.keep("reverse", lambda: _reverse_op(graph.indptr, graph.indices))
    return made


_T = TypeVar("_T")


class _OneCall(Graph):
    """A graph that lasts for one call of a custom op: what is derived of it needs no memory that outlives a tracer."""

    def __post_init__(self) -> None:
        pass

    def _cached(self, cache: dict[str, Any], name: str, make: Callable[[], _T]) -> _T:
        value = cache[name] = make()
        return value


def graph_of(indptr: Tensor, indices: Tensor, *reverse: Tensor | None) -> Graph:
    """The graph that a custom op was given as tensors: its own two, and the `reverse_tensors` if there are any."""
    num_nodes = indptr.size(0) - 1
    graph = _OneCall(num_nodes=num_nodes, indptr=indptr, indices=indices)
    indptr_, indices_, edge_ids = reverse
    if indptr_ is not None and indices_ is not None:
        graph.__dict__["reverse"] = _OneCall(num_nodes=num_nodes, indptr=indptr_, indices=indices_, edge_ids=edge_ids)
    return graph


@torch.library.custom_op("revgnn::csr", mutates_args=())
def _csr_op(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """What an exported program makes of an ``edge_index``: always int32, and always with the order of edges."""
    graph = Graph.from_edge_index(edge_index, num_nodes)
    if graph.indices.dtype != torch.int32:
        raise ValueError(
            f"an exported program takes less than 2^31 nodes and edges, got {num_nodes} and {graph.num_edges}"
        )
    order = torch.arange(graph.num_edges, device=graph.device) if graph.edge_ids is None else graph.edge_ids
    return graph.indptr, graph.indices, order


@_csr_op.register_fake
def _(edge_index, num_nodes):  # type: ignore[no-untyped-def]
    edges = edge_index.new_empty(edge_index.size(1), dtype=torch.int64)
    return edges.new_empty(num_nodes + 1, dtype=torch.int32), torch.empty_like(edges, dtype=torch.int32), edges


@torch.library.custom_op("revgnn::self_looped", mutates_args=())
def _self_looped_op(indptr: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    looped = Graph(num_nodes=indptr.numel() - 1, indptr=indptr, indices=indices).self_looped
    return looped.indptr.clone(), looped.indices.clone()


@_self_looped_op.register_fake
def _(indptr, indices):  # type: ignore[no-untyped-def]
    return torch.empty_like(indptr), indices.new_empty(torch.library.get_ctx().new_dynamic_size())


@torch.library.custom_op("revgnn::reverse", mutates_args=())
def _reverse_op(indptr: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    reverse = Graph(num_nodes=indptr.numel() - 1, indptr=indptr, indices=indices).reverse
    assert reverse.edge_ids is not None
    # A custom op may not return its inputs, which a symmetric graph's reverse shares.
    return reverse.indptr.clone(), reverse.indices.clone(), reverse.edge_ids


@_reverse_op.register_fake
def _(indptr, indices):  # type: ignore[no-untyped-def]
    return torch.empty_like(indptr), torch.empty_like(indices), torch.empty_like(indices, dtype=torch.int64)


# ---------------------------------------------------------------------- a graph as an argument of torch.export
# Whoever takes arguments apart and puts them together again (FSDP does, at every module) is given the same graph back,
# with all that was derived of it.
_taken_apart: weakref.WeakValueDictionary[int, Graph] = weakref.WeakValueDictionary()
_TENSORS = ("indptr", "indices", "edge_ids", "batch", "edge_weight", "norm_degree")


def _flatten(graph: Graph) -> tuple[list[Tensor], tuple[int, str]]:
    _taken_apart[id(graph.indptr)] = graph
    names = [name for name in _TENSORS if getattr(graph, name) is not None]
    return [getattr(graph, name) for name in names], (graph.num_graphs, " ".join(names))


def _flatten_with_keys(graph: Graph) -> tuple[list[tuple[pytree.KeyEntry, Tensor]], tuple[int, str]]:
    tensors, context = _flatten(graph)
    return [(pytree.GetAttrKey(name), one) for name, one in zip(context[1].split(), tensors, strict=True)], context


def _unflatten(tensors: Iterable[Any], context: tuple[int, str]) -> Graph:
    num_graphs, names = context
    given = (unwrapped(tensor) if isinstance(tensor, Tensor) else tensor for tensor in tensors)
    found: dict[str, Any] = dict(zip(names.split(), given, strict=True))
    before = _taken_apart.get(id(found["indptr"]))
    is_same = before is not None and all(found.get(name) is getattr(before, name) for name in _TENSORS)
    if before is not None and is_same and before.num_graphs == num_graphs:
        return before
    # What takes the place of tensors (a specification of their shapes, a position) has no number of nodes.
    num_nodes = found["indptr"].size(0) - 1 if isinstance(found["indptr"], Tensor) else 0
    whole = None if before is None else before.trimmed_from
    return Graph(num_nodes=num_nodes, num_graphs=num_graphs, trimmed_from=whole, **found)


pytree.register_pytree_node(
    Graph,
    _flatten,
    _unflatten,
    serialized_type_name="revgnn.Graph",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=_flatten_with_keys,
)
