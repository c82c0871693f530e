"""Additive attention on the kernels, all heads in one visit of each row's edges.

Saved for the backward: x, the scores, y, [N, 2, H] normalisers and, for the gradient of ``score_dst``, one more sum
[N, H, F] that the forward leaves behind in place of a second gather. As in `spmm`, a lean autograd Function outside of
torch.compile, custom ops inside.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..graph import Graph
from . import double_backward, reference
from .backend import kernels
from .cpu import Csr, forward_csr, reverse_csr, sum_dtype
from .tracing import is_traced, reverse_tensors


def attention(
    x: Tensor,
    graph: Graph,
    score_src: Tensor,
    score_dst: Tensor | None,
    *,
    negative_slope: float,
    keep: Tensor | None,
) -> Tensor:
    """Aggregate with attention; contract in `revgnn.ops.attention`."""
    dtype = sum_dtype(x.dtype)
    score_src = score_src.to(dtype).contiguous()
    score_dst = None if score_dst is None else score_dst.to(dtype).contiguous()
    keep = None if keep is None else keep.contiguous()
    out: Tensor
    if is_traced(x):
        reverse = reverse_tensors(graph, x, score_src, score_dst)
        out, *_ = _op(x, score_src, score_dst, keep, graph.indptr, graph.indices, *reverse, negative_slope)
    else:
        out = _Function.apply(x, score_src, score_dst, keep, graph, negative_slope)  # type: ignore[no-untyped-call]
    return out


# ---------------------------------------------------------------------- what both ways run
def dense_nodes(x: Tensor) -> Tensor:
    """Whatever the stride of nodes, a node's [H, F] must be dense."""
    return x if x.stride(2) == 1 and x.stride(1) == x.size(2) else x.contiguous()


def _forward(
    x: Tensor,
    score_src: Tensor,
    score_dst: Tensor | None,
    keep: Tensor | None,
    csr: Csr,
    negative_slope: float,
    with_slopes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the output, the normalisers, and the two sums for ``score_dst``, empty without ``with_slopes``."""
    x = dense_nodes(x)
    dtype = sum_dtype(x.dtype)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    normaliser = x.new_empty(x.size(0), 2, x.size(1), dtype=dtype)
    slope_y = x.new_empty(x.shape if with_slopes else 0, dtype=dtype)
    slope_sum = x.new_empty(x.shape[:2] if with_slopes else 0, dtype=dtype)
    kernels(x).attention(
        x,
        csr,
        score_src=score_src,
        score_dst=score_dst,
        negative_slope=negative_slope,
        keep=keep,
        out=out,
        normaliser=normaliser,
        slope_y=slope_y if with_slopes else None,
        slope_sum=slope_sum if with_slopes else None,
    )
    return out, normaliser, slope_y, slope_sum


def _backward(
    grad: Tensor,
    x: Tensor,
    score_src: Tensor,
    score_dst: Tensor | None,
    keep: Tensor | None,
    y: Tensor,
    normaliser: Tensor,
    slope_y: Tensor,
    slope_sum: Tensor,
    reverse: Csr,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, score_src and score_dst (empty without the slopes' sums)."""
    x, grad = dense_nodes(x), dense_nodes(grad)
    with_slopes = slope_sum.numel() > 0
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dscore_src, dscore_dst = torch.empty_like(score_src), torch.empty_like(slope_sum)
    kernels(x).attention_backward(
        grad,
        x,
        reverse,
        score_src=score_src,
        score_dst=score_dst,
        negative_slope=negative_slope,
        keep=keep,
        y=y,
        normaliser=normaliser,
        slope_y=slope_y if with_slopes else None,
        slope_sum=slope_sum if with_slopes else None,
        scratch=score_src.new_empty(*score_src.shape, 4),
        dx=dx,
        dscore_src=dscore_src,
        dscore_dst=dscore_dst if with_slopes else None,
    )
    return dx, dscore_src, dscore_dst


# ---------------------------------------------------------------------- the lean way
class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, score_src, score_dst, keep, graph, negative_slope):  # type: ignore[no-untyped-def]
        with_slopes = ctx.needs_input_grad[2]
        y, *sums = _forward(x, score_src, score_dst, keep, forward_csr(graph), negative_slope, with_slopes)
        ctx.graph, ctx.negative_slope = graph, negative_slope
        ctx.save_for_backward(x, score_src, score_dst, keep, y, *sums)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, score_src, score_dst, keep, y, normaliser, slope_y, slope_sum = ctx.saved_tensors
        if double_backward.asks_reference(grad):
            call = partial(_by_reference, ctx.graph, keep, ctx.negative_slope)
            inputs, needs = (x, score_src, score_dst), ctx.needs_input_grad[:3]
            return *double_backward.gradients(call, inputs, (grad,), needs), None, None, None
        reverse, slope = reverse_csr(ctx.graph), ctx.negative_slope
        grads = _backward(grad, x, score_src, score_dst, keep, y, normaliser, slope_y, slope_sum, reverse, slope)
        return *(g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)), None, None, None


def _by_reference(graph, keep, negative_slope, x, score_src, score_dst):  # type: ignore[no-untyped-def]
    return reference.attention(x, graph, score_src, score_dst, negative_slope=negative_slope, keep=keep)


# ---------------------------------------------------------------------- custom ops
@torch.library.custom_op("revgnn::attention", mutates_args=(), device_types=("cpu", "cuda"))
def _op(
    x: Tensor,
    score_src: Tensor,
    score_dst: Tensor | None,
    keep: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    reverse_indptr: Tensor | None,
    reverse_indices: Tensor | None,
    reverse_edge_ids: Tensor | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with_slopes = reverse_indptr is not None and score_dst is not None
    return _forward(x, score_src, score_dst, keep, Csr(indptr, indices), negative_slope, with_slopes)


@_op.register_fake
def _(x, score_src, score_dst, keep, indptr, indices, rptr, rind, rids, negative_slope):  # type: ignore[no-untyped-def]
    with_slopes = rptr is not None and score_dst is not None
    dtype = sum_dtype(x.dtype)
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        x.new_empty(x.size(0), 2, x.size(1), dtype=dtype),
        x.new_empty(x.shape if with_slopes else 0, dtype=dtype),
        x.new_empty(x.shape[:2] if with_slopes else 0, dtype=dtype),
    )


@torch.library.custom_op("revgnn::attention_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _backward_op(
    grad: Tensor,
    x: Tensor,
    score_src: Tensor,
    score_dst: Tensor | None,
    keep: Tensor | None,
    y: Tensor,
    normaliser: Tensor,
    slope_y: Tensor,
    slope_sum: Tensor,
    reverse_indptr: Tensor,
    reverse_indices: Tensor,
    reverse_edge_ids: Tensor,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    reverse = Csr(reverse_indptr, reverse_indices, reverse_edge_ids)
    return _backward(grad, x, score_src, score_dst, keep, y, normaliser, slope_y, slope_sum, reverse, negative_slope)


@_backward_op.register_fake
def _(grad, x, score_src, score_dst, keep, y, normaliser, slope_y, slope_sum, rptr, rind, rids, negative_slope):  # type: ignore[no-untyped-def]
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, torch.empty_like(score_src), torch.empty_like(slope_sum)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, score_src, score_dst, keep, _, _, *reverse, negative_slope = inputs
    y, *sums = output
    ctx.mark_non_differentiable(*sums)
    ctx.negative_slope = negative_slope
    ctx.save_for_backward(x, score_src, score_dst, keep, y, *sums, *reverse)


def _vjp(ctx, grad, *_):  # type: ignore[no-untyped-def]
    grads = _backward_op(grad, *ctx.saved_tensors, ctx.negative_slope)
    return *(g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)), *(None,) * 7


_op.register_autograd(_vjp, setup_context=_setup)
double_backward.refuse_second(_backward_op)
