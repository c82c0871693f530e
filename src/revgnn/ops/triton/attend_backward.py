"""Triton kernels of additive attention: the backward, over the reverse graph, without stored weights or logits.

With ``p`` an edge's weight and ``s`` its slope: ``dx_j = sum p g_i``, and ``dscore_src_j = <x_j, sum p s g_i> -
sum p s <g_i, y_i>``. The gradient of ``score_dst`` needs no edges: ``<g_i, slope_y_i> - <g_i, y_i> slope_sum_i``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import Csr
from .attend import edge_scores
from .launch import (
    SUMS,
    as_bytes,
    blocks,
    column_block,
    columns_of,
    edge_block,
    edges_of,
    gather,
    launch,
    launch_rows,
    places,
    put,
    row_of,
    vector,
)


def attention_backward(
    grad: Tensor,
    x: Tensor,
    reverse: Csr,
    *,
    score_src: Tensor,
    score_dst: Tensor | None,
    negative_slope: float,
    keep: Tensor | None,
    y: Tensor,
    normaliser: Tensor,
    slope_y: Tensor | None,
    slope_sum: Tensor | None,
    scratch: Tensor,
    dx: Tensor,
    dscore_src: Tensor,
    dscore_dst: Tensor | None,
    accumulate: bool = False,
) -> None:
    """Write the gradients of `attention`; contract in `revgnn.ops.cpu.attention_backward`."""
    scores, dscores, forward = (score_src, score_dst), (dscore_src, dscore_dst), (normaliser, slope_y, slope_sum)
    operands.attention_backward(grad, x, reverse, scores, keep, y, forward, scratch, dx, dscores)
    num_rows, heads, width = dx.shape
    block = column_block(width)
    block_e = edge_block(block)
    products = scratch.view(-1)[: num_rows * heads]
    launch(
        _destinations, (blocks(num_rows * heads, block_e),), x,
        grad, y, slope_y, slope_sum, products, dscore_dst, num_rows * heads, heads, width, grad.stride(0), y.stride(0),
        SUM=SUMS[x.dtype], BLOCK_N=block_e, BLOCK_D=block, num_warps=4,
    )  # fmt: skip
    launch_rows(
        _sources, reverse.indptr, (heads,), x,
        reverse.indices, places(reverse.edge_ids, keep), x, score_src, score_dst, as_bytes(keep),
        normaliser, products, grad, dx, dscore_src, heads, width, x.stride(0), grad.stride(0), dx.stride(0),
        ACCUMULATE=accumulate, SLOPE=negative_slope, SUM=SUMS[x.dtype], BLOCK_E=block_e, BLOCK_D=block,
    )  # fmt: skip


@triton.jit
def _destinations(
    grad, y, slope_y, slope_sum, products, dscore_dst, count, heads, width, grad_stride, y_stride,
    SUM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute ``<g, y>`` of every node and head, and the gradient of ``score_dst``."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = pair < count
    node, head = pair // heads, pair % heads
    product = tl.zeros((BLOCK_N,), SUM)
    sloped = tl.zeros((BLOCK_N,), SUM)
    for block in range(tl.cdiv(width, BLOCK_D)):
        d, inside = columns_of(block, width, BLOCK_D)
        mask = live[:, None] & inside[None, :]
        column = (head * width)[:, None] + d[None, :]
        g = tl.load(grad + (node * grad_stride)[:, None] + column, mask=mask, other=0.0).to(SUM)
        out = tl.load(y + (node * y_stride)[:, None] + column, mask=mask, other=0.0).to(SUM)
        product += tl.sum(g * out, 1)
        if slope_y is not None:
            at = slope_y + pair[:, None] * width + d[None, :]
            sloped += tl.sum(g * tl.load(at, mask=mask, other=0.0), 1)
    tl.store(products + pair, product, mask=live)
    if slope_y is not None:
        slopes = tl.load(slope_sum + pair, mask=live, other=0.0)
        tl.store(dscore_dst + pair, sloped - product * slopes, mask=live)


@triton.jit
def _sources(
    rows, indptr, indices, edge_ids, x, score_src, score_dst, keep, normaliser, products, grad, dx, dscore_src,
    heads, width, x_stride, grad_stride, dx_stride,
    ACCUMULATE: tl.constexpr, SLOPE: tl.constexpr, SUM: tl.constexpr, LONG: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    head = tl.program_id(1)
    own = tl.zeros((BLOCK_E,), SUM) + tl.load(score_src + row * heads + head)
    dscore = tl.zeros((1,), SUM)
    for block in range(tl.cdiv(width, BLOCK_D)):
        d, inside = columns_of(block, width, BLOCK_D)
        total = tl.zeros((BLOCK_D,), SUM)
        sloped = tl.zeros((BLOCK_D,), SUM)
        for first in range(start, end, BLOCK_E):
            e, live, i = edges_of(indices, first, end, BLOCK_E)
            at = i * heads + head
            logits, slope, live = edge_scores(edge_ids, keep, own, score_dst, at, e, live, SLOPE)
            top = tl.load(normaliser + at + i * heads, mask=live, other=0.0)
            share = tl.load(normaliser + at + (i + 1) * heads, mask=live, other=0.0)
            p = tl.exp(tl.where(live, logits - top, 0.0)) * share
            g = gather(grad + head * width, i, grad_stride, d, live, inside, SUM)
            total += tl.sum(p[:, None] * g, 0)
            sloped += tl.sum((p * slope)[:, None] * g, 0)
            if block == 0:
                dscore -= tl.sum(p * slope * tl.load(products + at, mask=live, other=0.0), 0)
        put(dx + row * dx_stride + head * width, d, total, inside, ACCUMULATE)
        dscore += tl.sum(sloped * vector(x + row * x_stride + head * width, d, inside, SUM), 0)
    tl.store(dscore_src + row * heads + head + tl.zeros((1,), tl.int64), dscore)
