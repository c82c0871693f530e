"""When an op must be a custom op, and how a graph's reverse comes to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Graph

_PLAIN = (Tensor, torch.nn.Parameter)


def is_traced(x: Tensor) -> bool:
    """Whether ``x`` is not memory that a kernel could read: under torch.compile, or a fake or other subclass."""
    return torch.compiler.is_compiling() or type(x) not in _PLAIN


def reverse_tensors(graph: Graph, *inputs: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The reverse's (indptr, indices, edge_ids) if one of ``inputs`` needs a gradient, else three times ``None``."""
    if not torch.is_grad_enabled() or not any(value is not None and value.requires_grad for value in inputs):
        return None, None, None
    if "reverse" in graph.__dict__:
        reverse = graph.reverse
        return reverse.indptr, reverse.indices, reverse.edge_ids
    made: tuple[Tensor, Tensor, Tensor] = _reverse_op(graph.indptr, graph.indices)
    return made


@torch.library.custom_op("revgnn::reverse", mutates_args=())
def _reverse_op(indptr: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    reverse = Graph(num_nodes=indptr.numel() - 1, indptr=indptr, indices=indices).reverse
    assert reverse.edge_ids is not None
    # A custom op may not return its inputs, which a symmetric graph's reverse shares.
    return reverse.indptr.clone(), reverse.indices.clone(), reverse.edge_ids


@_reverse_op.register_fake
def _(indptr, indices):  # type: ignore[no-untyped-def]
    return torch.empty_like(indptr), torch.empty_like(indices), torch.empty_like(indices, dtype=torch.int64)
