"""Triton kernels of the maximum of each channel over the neighbours, its position, and its gradient."""

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
    places_of,
    put,
    row_of,
)

_INF = tl.constexpr(float("inf"))
_NOWHERE = tl.constexpr(2**31 - 1)


def neighbour_max(x: Tensor, csr: Csr, *, out: Tensor, arg: Tensor | None = None) -> None:
    """Write each channel's maximum; contract in `revgnn.ops.cpu.neighbour_max`."""
    operands.neighbour_max(x, csr, out, arg)
    width = out.size(1)
    block = column_block(width)
    launch_rows(
        _neighbour_max,
        csr.indptr,
        (blocks(width, block),),
        x,
        csr.indices,
        x,
        out,
        arg,
        width,
        x.stride(0),
        out.stride(0),
        SUM=SUMS[x.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def raise_maximum(best, arg, values, e, live):
    """Advance the largest values and their first positions by a tile of [edges, columns]; a NaN beats everything."""
    is_nan = (values != values) & live[:, None]
    any_nan = tl.max(is_nan.to(tl.int32), 0) > 0
    top = tl.max(tl.where(live[:, None] & (values == values), values, -_INF), 0)
    attains = tl.where(any_nan[None, :], is_nan, live[:, None] & (values == top[None, :]))
    first = tl.min(tl.where(attains, e[:, None], _NOWHERE), 0)
    better = ((top > best) | any_nan) & (best == best)
    return tl.where(better, tl.where(any_nan, _INF - _INF, top), best), tl.where(better, first, arg)


@triton.jit
def _neighbour_max(
    rows,
    indptr,
    indices,
    x,
    out,
    arg,
    width,
    x_stride,
    out_stride,
    SUM: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    best = tl.full((BLOCK_D,), -_INF, SUM)
    # If all values are -inf, none exceeds the start value, and the first edge attains the maximum.
    where = tl.zeros((BLOCK_D,), tl.int32) + tl.where(start < end, start, -1)
    for first in range(start, end, BLOCK_E):
        e, live, j = edges_of(indices, first, end, BLOCK_E)
        best, where = raise_maximum(best, where, gather(x, j, x_stride, d, live, inside, SUM), e, live)
    best = tl.where(start < end, best, 0.0)
    put(out + row * out_stride, d, best, inside, False)
    if arg is not None:
        tl.store(arg + row * width + d, where, mask=inside)


def neighbour_max_backward(grad: Tensor, arg: Tensor, reverse: Csr, *, dx: Tensor, accumulate: bool = False) -> None:
    """Send each gradient to the source of the edge that ``arg`` names."""
    operands.neighbour_max_backward(grad, arg, reverse, dx)
    width = dx.size(1)
    block = column_block(width)
    launch_rows(
        _neighbour_max_backward,
        reverse.indptr,
        (blocks(width, block),),
        grad,
        reverse.indices,
        reverse.edge_ids,
        grad,
        arg,
        dx,
        width,
        grad.stride(0),
        dx.stride(0),
        ACCUMULATE=accumulate,
        SUM=SUMS[grad.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def _neighbour_max_backward(
    rows,
    indptr,
    indices,
    edge_ids,
    grad,
    arg,
    dx,
    width,
    grad_stride,
    dx_stride,
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
        e, live, i = edges_of(indices, first, end, BLOCK_E)
        place = places_of(edge_ids, e, live)
        at = arg + i[:, None] * width + d[None, :]
        won = tl.load(at, mask=live[:, None] & inside[None, :], other=-1) == place[:, None]
        # Read only the elements that attain a maximum, which are a small part of a tile.
        here = grad + i[:, None] * grad_stride + d[None, :]
        total += tl.sum(tl.load(here, mask=won & live[:, None] & inside[None, :], other=0.0).to(SUM), 0)
    put(dx + row * dx_stride, d, total, inside, ACCUMULATE)
