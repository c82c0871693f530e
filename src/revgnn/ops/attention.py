"""Additive attention on the kernels, with all heads in one pass over each row's edges.

Saved for the backward: x, the scores, y, [N, 2, H] normalisers and, for the gradient of ``score_dst``, another sum
[N, H, F] that the forward computes to avoid a second gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..graph import Graph
from . import reference
from .choice import kernels
from .cpu import forward_csr, reverse_csr, sum_dtype
from .kernel_op import KernelOp, Needs
from .spmm import empty_dense


class _Attention(NamedTuple):
    x: Tensor
    """[N, H, F]"""
    score_src: Tensor
    """[N, H] in the type of the sums, dense."""
    score_dst: Tensor | None
    """Likewise."""
    keep: Tensor | None
    """[E] bool, dense."""
    graph: Graph
    negative_slope: float


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
    return ATTENTION.on_kernels(x, score_src, score_dst, keep, graph, negative_slope)[0]


def dense_nodes(x: Tensor) -> Tensor:
    """Whatever the stride of nodes, a node's [H, F] must be dense."""
    return x if x.stride(2) == 1 and x.stride(1) == x.size(2) else x.contiguous()


_Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def _outputs(a: _Attention, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, the normalisers, and two sums for the gradient of ``score_dst``, empty where that is not needed."""
    x, dtype = a.x, sum_dtype(a.x.dtype)
    return (
        empty_dense(x),
        x.new_empty(x.size(0), 2, x.size(1), dtype=dtype),
        x.new_empty(x.shape if needs[2] else 0, dtype=dtype),
        x.new_empty(x.shape[:2] if needs[2] else 0, dtype=dtype),
    )


def _forward(a: _Attention, outputs: _Outputs) -> None:
    x, (y, normaliser, slope_y, slope_sum) = dense_nodes(a.x), outputs
    with_slopes = slope_y.shape == x.shape
    kernels(x).attention(
        x,
        forward_csr(a.graph),
        score_src=a.score_src,
        score_dst=a.score_dst,
        negative_slope=a.negative_slope,
        keep=a.keep,
        out=y,
        normaliser=normaliser,
        slope_y=slope_y if with_slopes else None,
        slope_sum=slope_sum if with_slopes else None,
    )


def _backward(
    a: _Attention, outputs: _Outputs, cotangents: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    x, grad = dense_nodes(a.x), dense_nodes(cotangents[0])
    y, normaliser, slope_y, slope_sum = outputs
    dx, dscore_src = empty_dense(x), torch.empty_like(a.score_src)
    with_slopes = slope_y.shape == x.shape
    dscore_dst = torch.empty_like(slope_sum) if with_slopes else None
    kernels(x).attention_backward(
        grad,
        x,
        reverse_csr(a.graph),
        score_src=a.score_src,
        score_dst=a.score_dst,
        negative_slope=a.negative_slope,
        keep=a.keep,
        y=y,
        normaliser=normaliser,
        slope_y=slope_y if with_slopes else None,
        slope_sum=slope_sum if with_slopes else None,
        scratch=a.score_src.new_empty(*a.score_src.shape, 4),
        dx=dx,
        dscore_src=dscore_src,
        dscore_dst=dscore_dst,
    )
    return dx, dscore_src, dscore_dst, None


def _reference(a: _Attention) -> Tensor:
    return reference.attention(
        a.x, a.graph, a.score_src, a.score_dst, negative_slope=a.negative_slope, keep=a.keep
    )  # fmt: skip


ATTENTION = KernelOp(
    name="revgnn::attention",
    arguments=_Attention,
    kernels=("attention", "attention_backward"),
    outputs=_outputs,
    forward=_forward,
    saved=lambda a, outputs, needs: (*a[:4], *outputs),
    backward=_backward,
    reference=_reference,
)
