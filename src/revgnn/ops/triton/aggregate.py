"""Triton kernels of GEN aggregation by softmax, sum or mean: the forward, with an online softmax."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import NO_EDGES, Csr, EdgeTerm
from .launch import (
    SUMS,
    blocks,
    column_block,
    columns_of,
    edge_block,
    edges_of,
    gather,
    launch_rows,
    places_of,
    put,
    row_of,
    vector,
)
from .messages import edge_term, rectified

_INF = tl.constexpr(float("inf"))


def gen_aggr(
    x: Tensor,
    csr: Csr,
    *,
    reduce: str,
    out: Tensor,
    edges: EdgeTerm = NO_EDGES,
    t: Tensor | None = None,
    lse: Tensor | None = None,
    scratch: Tensor | None = None,
) -> None:
    """Reduce GEN messages; contract in `revgnn.ops.cpu.gen_aggr`; ``scratch`` is not used."""
    operands.gen_aggr(x, csr, reduce, out, edges, t, lse, scratch)
    width = out.size(1)
    block = column_block(width)
    launch_rows(
        _gen_aggr,
        csr.indptr,
        (blocks(width, block),),
        x,
        csr.indices,
        csr.edge_ids,
        x,
        *edges,
        t,
        out,
        lse,
        width,
        x.stride(0),
        out.stride(0),
        REDUCE=reduce,
        K=edges.num_features,
        SUM=SUMS[x.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def _gen_aggr(
    rows,
    indptr,
    indices,
    edge_ids,
    x,
    edge_attr,
    weight,
    bias,
    t,
    out,
    lse,
    width,
    x_stride,
    out_stride,
    REDUCE: tl.constexpr,
    K: tl.constexpr,
    SUM: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    total = tl.zeros((BLOCK_D,), SUM)
    top = tl.full((BLOCK_D,), -_INF, SUM)
    norm = tl.zeros((BLOCK_D,), SUM)
    if REDUCE == "softmax":
        temperature = vector(t, d, inside, SUM)
        steepness = tl.abs(temperature)
    for first in range(start, end, BLOCK_E):
        e, live, j = edges_of(indices, first, end, BLOCK_E)
        value = gather(x, j, x_stride, d, live, inside, SUM)
        if edge_attr is not None:
            place = places_of(edge_ids, e, live)
            value += edge_term(edge_attr, weight, bias, place, live, d, inside, width, K, SUM)
        m = rectified(value)
        if REDUCE == "softmax":
            # Subtract messages before multiplying by t, because large logits lose precision. Every tile has an edge.
            m = tl.where(temperature < 0, -1.0, 1.0)[None, :] * m
            shift = tl.maximum(top, tl.max(tl.where(live[:, None], m, -_INF), 0))
            step = tl.where(first == start, 0.0, top - shift)
            shrink = tl.exp(step * steepness)
            away = tl.where(live[:, None], m - shift[None, :], 0.0)
            p = tl.where(live[:, None], tl.exp(away * steepness[None, :]), 0.0)
            total = (total + norm * step) * shrink + tl.sum(p * away, 0)
            norm = norm * shrink + tl.sum(p, 0)
            top = shift
        else:
            total += tl.sum(tl.where(live[:, None], m, 0.0), 0)
    if REDUCE == "softmax":
        top = tl.where(start < end, tl.where(temperature < 0, -top, top), 0.0)
        norm = tl.where(start < end, norm, 1.0)
        total = top + tl.where(temperature < 0, -total, total) / norm
        if lse is not None:
            below = top - total.to(out.dtype.element_ty).to(SUM)
            tl.store(lse + row * width + d, tl.log(norm) + temperature * below, mask=inside)
    if REDUCE == "mean":
        total /= tl.maximum(end - start, 1).to(SUM)
    put(out + row * out_stride, d, total, inside, False)
