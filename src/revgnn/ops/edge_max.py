"""The largest GEN message of each channel, with edge features, on the kernels. Saved: the int32 positions [N, D].

Only the edge that attains a maximum receives a gradient, so the backward visits [N, D] positions for the edge map and
each source's edges for x; neither makes a message again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Graph
from . import double_backward
from .backend import kernels
from .cpu import Csr, EdgeGrads, EdgeTerm, dense_columns, forward_csr, reverse_csr
from .spmm import max_backward, max_backward_op
from .tracing import is_traced, reverse_tensors


def edge_max(x: Tensor, graph: Graph, edge_attr: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Reduce ``relu(x_j + edge_attr @ weight + bias) + 1e-7`` by its maximum.

    Args:
        x: [N, D].
        edge_attr: [E, K] in the type of the sums, dense.
        weight: [K, D] likewise.
        bias: [D] likewise, or ``None``.
    """
    out: Tensor
    if is_traced(x):
        reverse = reverse_tensors(graph, x, edge_attr, weight, bias)
        out, _ = _op(x, edge_attr, weight, bias, graph.indptr, graph.indices, *reverse)
    else:
        out = _Function.apply(x, edge_attr, weight, bias, graph)  # type: ignore[no-untyped-call]
    return out


# ---------------------------------------------------------------------- what both ways run
def _forward(x: Tensor, edges: EdgeTerm, csr: Csr) -> tuple[Tensor, Tensor]:
    x = dense_columns(x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    arg = torch.empty(x.shape, dtype=torch.int32, device=x.device)
    kernels(x).edge_max(x, csr, edges, out=out, arg=arg)
    return out, arg


def _edge_grads(
    grad: Tensor, arg: Tensor, edge_attr: Tensor, weight: Tensor, csr: Csr, want_edge_attr: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of edge_attr (empty unless wanted), weight and bias."""
    grad = dense_columns(grad)
    dweight, dbias = torch.empty_like(weight), weight.new_empty(weight.size(1))
    dedge_attr = weight.new_empty(edge_attr.shape if want_edge_attr else 0)
    grads = EdgeGrads(dweight, dbias, dedge_attr if want_edge_attr else None)
    kernels(grad).edge_max_backward(grad, arg, csr, EdgeTerm(edge_attr, weight), grads)
    return dedge_attr, dweight, dbias


# ---------------------------------------------------------------------- the lean way
class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, edge_attr, weight, bias, graph):  # type: ignore[no-untyped-def]
        out, arg = _forward(x, EdgeTerm(edge_attr, weight, bias), forward_csr(graph))
        ctx.graph = graph
        ctx.save_for_backward(arg, edge_attr, weight)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        arg, edge_attr, weight = ctx.saved_tensors
        needs, graph = ctx.needs_input_grad, ctx.graph
        if double_backward.asks_reference(grad):
            found = (
                double_backward.of_maximum(grad, arg, graph),
                *double_backward.of_edge_maximum(grad, arg, edge_attr, weight),
            )
            return *(g if need else None for g, need in zip(found, needs[:4], strict=True)), None
        dx = max_backward(grad, arg, reverse_csr(graph)) if needs[0] else None
        if not any(needs[1:4]):
            return dx, None, None, None, None
        edge_grads = _edge_grads(grad, arg, edge_attr, weight, forward_csr(graph), needs[1])
        return dx, *(g if need else None for g, need in zip(edge_grads, needs[1:4], strict=True)), None


# ---------------------------------------------------------------------- custom ops
@torch.library.custom_op("revgnn::edge_max", mutates_args=(), device_types=("cpu", "cuda"))
def _op(
    x: Tensor,
    edge_attr: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    reverse_indptr: Tensor | None,
    reverse_indices: Tensor | None,
    reverse_edge_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return _forward(x, EdgeTerm(edge_attr, weight, bias), Csr(indptr, indices))


@_op.register_fake
def _(x, edge_attr, weight, bias, indptr, indices, reverse_indptr, reverse_indices, reverse_edge_ids):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape, dtype=torch.int32)


@torch.library.custom_op("revgnn::edge_max_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _edge_grads_op(
    grad: Tensor,
    arg: Tensor,
    edge_attr: Tensor,
    weight: Tensor,
    indptr: Tensor,
    indices: Tensor,
    want_edge_attr: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _edge_grads(grad, arg, edge_attr, weight, Csr(indptr, indices), want_edge_attr)


@_edge_grads_op.register_fake
def _(grad, arg, edge_attr, weight, indptr, indices, want_edge_attr):  # type: ignore[no-untyped-def]
    dedge_attr = weight.new_empty(edge_attr.shape if want_edge_attr else 0)
    return dedge_attr, torch.empty_like(weight), weight.new_empty(weight.size(1))


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, edge_attr, weight, _, indptr, indices, *reverse = inputs
    _, arg = output
    ctx.mark_non_differentiable(arg)
    ctx.save_for_backward(arg, edge_attr, weight, indptr, indices, *reverse)


def _vjp(ctx, grad, _):  # type: ignore[no-untyped-def]
    arg, edge_attr, weight, indptr, indices, *reverse = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = max_backward_op(grad, arg, *reverse) if needs[0] else None
    if not any(needs[1:4]):
        return dx, *(None,) * 8
    edge_grads = _edge_grads_op(grad, arg, edge_attr, weight, indptr, indices, needs[1])
    return dx, *(g if need else None for g, need in zip(edge_grads, needs[1:4], strict=True)), *(None,) * 5


_op.register_autograd(_vjp, setup_context=_setup)
double_backward.refuse_second(_edge_grads_op)
