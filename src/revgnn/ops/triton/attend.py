"""Triton kernels of additive attention: one program per row, head and channel block, with an online softmax."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import Csr
from .launch import (
    SUMS,
    as_bytes,
    blocks,
    column_block,
    columns_of,
    edge_block,
    edges_of,
    gather,
    launch_rows,
    places,
    places_of,
    put,
    row_of,
)

_INF = tl.constexpr(float("inf"))


def attention(
    x: Tensor,
    csr: Csr,
    *,
    score_src: Tensor,
    score_dst: Tensor | None,
    negative_slope: float,
    keep: Tensor | None,
    out: Tensor,
    normaliser: Tensor | None = None,
    slope_y: Tensor | None = None,
    slope_sum: Tensor | None = None,
) -> None:
    """Sum neighbours with attention; contract in `revgnn.ops.cpu.attention`."""
    operands.attention(x, csr, (score_src, score_dst), keep, out, (normaliser, slope_y, slope_sum))
    _, heads, width = out.shape
    block = column_block(width)
    launch_rows(
        _attention,
        csr.indptr,
        (heads, blocks(width, block)),
        x,
        csr.indices,
        places(csr.edge_ids, keep),
        x,
        score_src,
        score_dst,
        as_bytes(keep),
        out,
        normaliser,
        slope_y,
        slope_sum,
        heads,
        width,
        x.stride(0),
        out.stride(0),
        SLOPE=negative_slope,
        SUM=SUMS[x.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def edge_scores(edge_ids, keep, own, others, at, e, live, SLOPE: tl.constexpr):
    """Return the logits of some edges, their derivatives by the sum of the scores, and the mask of kept edges."""
    if keep is not None:
        live = live & (tl.load(keep + places_of(edge_ids, e, live), mask=live, other=0) != 0)
    score = own
    if others is not None:
        score += tl.load(others + at, mask=live, other=0.0)
    # Added to a tensor the constant takes its type; alone it would be rounded to float32.
    slope = tl.where(score > 0, 1.0, tl.zeros_like(score) + SLOPE)
    return score * slope, slope, live


@triton.jit
def _attention(
    rows, indptr, indices, edge_ids, x, score_src, score_dst, keep, out, normaliser, slope_y, slope_sum,
    heads, width, x_stride, out_stride,
    SLOPE: tl.constexpr, SUM: tl.constexpr, LONG: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    head = tl.program_id(1)
    d, inside = columns_of(tl.program_id(2), width, BLOCK_D)
    own = tl.zeros((BLOCK_E,), SUM)
    if score_dst is not None:
        own += tl.load(score_dst + row * heads + head)
    top = tl.full((1,), -_INF, SUM)
    norm = tl.zeros((1,), SUM)
    slopes = tl.zeros((1,), SUM)
    total = tl.zeros((BLOCK_D,), SUM)
    sloped = tl.zeros((BLOCK_D,), SUM)
    for first in range(start, end, BLOCK_E):
        e, live, j = edges_of(indices, first, end, BLOCK_E)
        logits, slope, live = edge_scores(edge_ids, keep, own, score_src, j * heads + head, e, live, SLOPE)
        logits = tl.where(live, logits, -_INF)
        shift = tl.maximum(top, tl.max(logits, 0))
        # Until an edge is kept the shift is -inf, and all weights are exp(-inf - 0).
        finite = tl.where(shift == -_INF, 0.0, shift)
        shrink = tl.exp(top - finite)
        p = tl.exp(logits - finite)
        values = gather(x + head * width, j, x_stride, d, live, inside, SUM)
        norm = norm * shrink + tl.sum(p, 0)
        total = total * shrink + tl.sum(p[:, None] * values, 0)
        if slope_y is not None:
            slopes = slopes * shrink + tl.sum(p * slope, 0)
            sloped = sloped * shrink + tl.sum((p * slope)[:, None] * values, 0)
        top = shift
    none = norm == 0
    norm = tl.where(none, 1.0, norm)
    scale = 1.0 / norm
    put(out + row * out_stride + head * width, d, total * scale, inside, False)
    at = row * heads + head + tl.zeros((1,), tl.int64)
    first_block = at * 0 + tl.program_id(2) == 0
    if normaliser is not None:
        place = normaliser + at + row * heads
        tl.store(place, tl.where(none, 0.0, top), mask=first_block)
        tl.store(place + heads, tl.where(none, 0.0, scale), mask=first_block)
    if slope_y is not None:
        tl.store(slope_y + (row * heads + head) * width + d, sloped * scale, mask=inside)
        tl.store(slope_sum + at, slopes * scale, mask=first_block)
