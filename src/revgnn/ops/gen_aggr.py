"""Messages of generalised graph convolution on the kernels: softmax, sum, mean, power and max, with edge features.

Without edge features messages belong to nodes, and all but the softmax are `spmm` of them. With edge features the map
[E, K] -> [E, D] happens inside the loop over edges. Saved for the backward of the softmax: x, y, and the [N, D]
normaliser. As in `spmm`, a lean autograd Function outside of torch.compile, custom ops inside.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..graph import Graph
from . import double_backward, reference
from .backend import kernels
from .cpu import Csr, EdgeGrads, EdgeTerm, dense_columns, forward_csr, reverse_csr, sum_dtype
from .edge_max import edge_max
from .reference import MESSAGE_EPS, POWER_RANGE
from .spmm import spmm
from .tracing import is_traced, reverse_tensors


def gen_aggr(
    x: Tensor,
    graph: Graph,
    edge_attr: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    reduce: str,
    t: Tensor | float,
    p: Tensor | float,
) -> Tensor:
    """Aggregate GEN messages; contract in `revgnn.ops.gen_aggr`, and `has_kernel` says for which arguments."""
    dtype = sum_dtype(x.dtype)
    if edge_attr is None and not reduce.startswith("softmax"):
        messages = x.relu() + MESSAGE_EPS
        return _power_mean(messages, graph, p) if reduce == "power" else spmm(messages, graph, None, reduce)
    if edge_attr is not None and weight is not None:
        edge_attr = edge_attr.to(dtype).contiguous()
        weight = weight.t().to(dtype).contiguous()
        bias = None if bias is None else bias.to(dtype).contiguous()
        if reduce == "max":
            return edge_max(x, graph, edge_attr, weight, bias)
    temperature = _per_channel(t, x) if reduce.startswith("softmax") else None
    out: Tensor
    if is_traced(x):
        reverse = reverse_tensors(graph, x, temperature, edge_attr, weight, bias)
        out, _ = _op(x, temperature, edge_attr, weight, bias, graph.indptr, graph.indices, *reverse, reduce)
    else:
        out = _Function.apply(x, temperature, edge_attr, weight, bias, graph, reduce)  # type: ignore[no-untyped-call]
    return out


def has_kernel(edge_attr: Tensor | None, weight: Tensor | None, reduce: str) -> bool:
    """Whether `gen_aggr` takes these arguments: not [E, D] features added as they are, nor their power mean."""
    return edge_attr is None or (weight is not None and weight.size(1) > 0 and reduce != "power")


def _per_channel(t: Tensor | float, x: Tensor) -> Tensor:
    dtype = sum_dtype(x.dtype)
    if isinstance(t, Tensor):
        return t.to(dtype).reshape(-1).expand(x.size(1)).contiguous()
    return x.new_full((x.size(1),), t, dtype=dtype)


def _power_mean(messages: Tensor, graph: Graph, p: Tensor | float) -> Tensor:
    low, high = POWER_RANGE
    mean = spmm(messages.clamp(low, high).pow(p).to(messages.dtype), graph, None, "mean")
    root = mean.clamp(low, high).pow(1.0 / p)
    return torch.where((graph.in_degree > 0).unsqueeze(1), root, root.new_zeros(())).to(messages.dtype)


# ---------------------------------------------------------------------- what both ways run
_Edges = tuple[Tensor | None, Tensor | None, Tensor | None]


def _forward(x: Tensor, t: Tensor | None, edges: _Edges, csr: Csr, reduce: str, keep: bool) -> tuple[Tensor, Tensor]:
    """Returns the output and the softmax's normaliser, empty unless ``keep``."""
    x = dense_columns(x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    lse = x.new_empty(x.shape if keep and t is not None else 0, dtype=sum_dtype(x.dtype))
    kernels(x).gen_aggr(
        x,
        csr,
        reduce=_kind(reduce),
        out=out,
        edges=EdgeTerm(*edges),
        t=t,
        lse=lse if keep and t is not None else None,
        scratch=_forward_scratch(x) if edges[1] is None else None,
    )
    return out, lse


def _forward_scratch(x: Tensor) -> Tensor | None:
    """None in half precision: its sums would be of rounded weights; and where the kernels have no use for it."""
    has_use = kernels(x).NODE_SCRATCH and x.dtype != torch.bfloat16
    return x.new_empty(x.size(0), 2 * x.size(1)) if has_use else None


def _backward(
    grad: Tensor,
    x: Tensor,
    t: Tensor | None,
    edges: _Edges,
    y: Tensor,
    lse: Tensor,
    reverse: Csr,
    indptr: Tensor,
    reduce: str,
    want_edge_attr: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x, t, edge_attr, weight and bias; empty where there is none."""
    x, grad = dense_columns(x), dense_columns(grad)
    edge_attr, weight, _ = edges
    dtype = sum_dtype(x.dtype)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dt = x.new_empty(0 if t is None else x.size(1), dtype=dtype)
    dweight = x.new_empty(0 if weight is None else weight.shape, dtype=dtype)
    dbias = x.new_empty(0 if weight is None else x.size(1), dtype=dtype)
    dedge_attr = x.new_empty(0 if edge_attr is None or not want_edge_attr else edge_attr.shape, dtype=dtype)
    kernels(x).gen_aggr_backward(
        grad,
        x,
        reverse,
        reduce=_kind(reduce),
        dx=dx,
        edges=EdgeTerm(*edges),
        edge_grads=EdgeGrads(*(None if g.numel() == 0 else g for g in (dweight, dbias, dedge_attr))),
        t=t,
        dt=None if t is None else dt,
        y=None if t is None else y,
        lse=None if t is None else lse,
        indptr=indptr,
        scratch=x.new_empty(x.size(0), 2 * x.size(1)) if weight is None and kernels(x).NODE_SCRATCH else None,
        constant_weights=reduce == "softmax_sg",
    )
    return dx, dt, dedge_attr, dweight, dbias


def _kind(reduce: str) -> str:
    return "softmax" if reduce == "softmax_sg" else reduce


# ---------------------------------------------------------------------- the lean way
class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, t, edge_attr, weight, bias, graph, reduce):  # type: ignore[no-untyped-def]
        needed = any(ctx.needs_input_grad)
        y, lse = _forward(x, t, (edge_attr, weight, bias), forward_csr(graph), reduce, needed)
        ctx.graph, ctx.reduce = graph, reduce
        ctx.save_for_backward(x, t, edge_attr, weight, bias, None if t is None else y, lse)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, t, *edges, y, lse = ctx.saved_tensors
        needs, graph = ctx.needs_input_grad, ctx.graph
        if double_backward.asks_reference(grad):
            call = partial(_by_reference, graph, ctx.reduce)
            return *double_backward.gradients(call, (x, t, *edges), (grad,), needs[:5]), None, None
        reverse = reverse_csr(graph)
        grads = _backward(grad, x, t, tuple(edges), y, lse, reverse, graph.indptr, ctx.reduce, needs[2])
        return *(g if need else None for g, need in zip(grads, needs, strict=False)), None, None


def _by_reference(graph, reduce, x, t, edge_attr, weight, bias):  # type: ignore[no-untyped-def]
    weight = None if weight is None else weight.t()
    return reference.gen_aggr(x, graph, edge_attr, weight, bias, reduce=reduce, t=1.0 if t is None else t)


# ---------------------------------------------------------------------- custom ops
@torch.library.custom_op("revgnn::gen_aggr", mutates_args=(), device_types=("cpu", "cuda"))
def _op(
    x: Tensor,
    t: Tensor | None,
    edge_attr: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    reverse_indptr: Tensor | None,
    reverse_indices: Tensor | None,
    reverse_edge_ids: Tensor | None,
    reduce: str,
) -> tuple[Tensor, Tensor]:
    keep = reverse_indptr is not None
    return _forward(x, t, (edge_attr, weight, bias), Csr(indptr, indices), reduce, keep)


@_op.register_fake
def _(x, t, edge_attr, weight, bias, indptr, indices, reverse_indptr, reverse_indices, reverse_edge_ids, reduce):  # type: ignore[no-untyped-def]
    keep = reverse_indptr is not None and t is not None
    lse = x.new_empty(x.shape if keep else 0, dtype=sum_dtype(x.dtype))
    return torch.empty_like(x, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("revgnn::gen_aggr_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _backward_op(
    grad: Tensor,
    x: Tensor,
    t: Tensor | None,
    edge_attr: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    lse: Tensor,
    indptr: Tensor,
    reverse_indptr: Tensor,
    reverse_indices: Tensor,
    reverse_edge_ids: Tensor,
    reduce: str,
    want_edge_attr: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    reverse = Csr(reverse_indptr, reverse_indices, reverse_edge_ids)
    return _backward(grad, x, t, (edge_attr, weight, bias), y, lse, reverse, indptr, reduce, want_edge_attr)


@_backward_op.register_fake
def _(grad, x, t, edge_attr, weight, bias, y, lse, indptr, rptr, rind, rids, reduce, want_edge_attr):  # type: ignore[no-untyped-def]
    dtype = sum_dtype(x.dtype)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return (
        dx,
        x.new_empty(0 if t is None else x.size(1), dtype=dtype),
        x.new_empty(0 if edge_attr is None or not want_edge_attr else edge_attr.shape, dtype=dtype),
        x.new_empty(0 if weight is None else weight.shape, dtype=dtype),
        x.new_empty(0 if weight is None else x.size(1), dtype=dtype),
    )


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, t, edge_attr, weight, bias, indptr, _, *reverse, reduce = inputs
    y, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.reduce = reduce
    ctx.save_for_backward(x, t, edge_attr, weight, bias, y, lse, indptr, *reverse)


def _vjp(ctx, grad, _):  # type: ignore[no-untyped-def]
    needs = ctx.needs_input_grad
    grads = _backward_op(grad, *ctx.saved_tensors, ctx.reduce, needs[2])
    return *(g if need else None for g, need in zip(grads, needs, strict=False)), *(None,) * 6


_op.register_autograd(_vjp, setup_context=_setup)
double_backward.refuse_second(_backward_op)
