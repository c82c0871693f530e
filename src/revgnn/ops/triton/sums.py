"""Triton kernels of weighted sums over neighbours, and of the gradient of the weights."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import Csr
from .launch import (
    SUMS,
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
    vector,
)


def spmm(
    x: Tensor,
    csr: Csr,
    *,
    out: Tensor,
    weight: Tensor | None = None,
    src_scale: Tensor | None = None,
    dst_scale: Tensor | None = None,
    mean: bool = False,
    accumulate: bool = False,
) -> None:
    """Sum neighbours; contract in `revgnn.ops.cpu.spmm`."""
    operands.spmm(x, csr, out, weight, src_scale, dst_scale)
    width = out.size(1)
    block = column_block(width)
    launch_rows(
        _spmm,
        csr.indptr,
        (blocks(width, block),),
        x,
        csr.indices,
        places(csr.edge_ids, weight),
        x,
        weight,
        src_scale,
        dst_scale,
        out,
        width,
        x.stride(0),
        out.stride(0),
        MEAN=mean,
        ACCUMULATE=accumulate,
        SUM=SUMS[x.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def _spmm(
    rows,
    indptr,
    indices,
    edge_ids,
    x,
    weight,
    src_scale,
    dst_scale,
    out,
    width,
    x_stride,
    out_stride,
    MEAN: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    SUM: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    total = tl.zeros((BLOCK_D,), SUM)
    for first in range(start, end, BLOCK_E):
        e, live, j = edges_of(indices, first, end, BLOCK_E)
        values = gather(x, j, x_stride, d, live, inside, SUM)
        if weight is not None:
            values *= vector(weight, places_of(edge_ids, e, live), live, SUM)[:, None]
        if src_scale is not None:
            values *= vector(src_scale, j, live, SUM)[:, None]
        total += tl.sum(values, 0)
    if dst_scale is not None:
        total *= tl.load(dst_scale + row)
    if MEAN:
        total /= tl.maximum(end - start, 1).to(SUM)
    put(out + row * out_stride, d, total, inside, ACCUMULATE)


def edge_dot(x: Tensor, grad: Tensor, csr: Csr, *, out: Tensor, mean: bool = False) -> None:
    """Write ``<grad_i, x_j>`` of every edge; contract in `revgnn.ops.cpu.edge_dot`."""
    operands.edge_dot(x, grad, csr, out)
    width = grad.size(1)
    block = column_block(width)
    launch_rows(
        _edge_dot,
        csr.indptr,
        (),
        x,
        csr.indices,
        x,
        grad,
        out,
        width,
        x.stride(0),
        grad.stride(0),
        MEAN=mean,
        SUM=SUMS[x.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def _edge_dot(
    rows,
    indptr,
    indices,
    x,
    grad,
    out,
    width,
    x_stride,
    grad_stride,
    MEAN: tl.constexpr,
    SUM: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    for first in range(start, end, BLOCK_E):
        e, live, j = edges_of(indices, first, end, BLOCK_E)
        total = tl.zeros((BLOCK_E,), SUM)
        for block in range(tl.cdiv(width, BLOCK_D)):
            d, inside = columns_of(block, width, BLOCK_D)
            g = vector(grad + row * grad_stride, d, inside, SUM)
            total += tl.sum(gather(x, j, x_stride, d, live, inside, SUM) * g[None, :], 1)
        if MEAN:
            total /= (end - start).to(SUM)
        tl.store(out + e, total, mask=live)
