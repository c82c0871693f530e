"""Triton kernels of each channel's mean and variance: two passes per block of rows, merged by Chan's formula.

All values are relative to the first row, so that large means do not reduce the precision of small variances.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import sum_dtype
from .launch import (
    SUMS,
    blocks,
    column_block,
    columns_of,
    gather,
    launch,
    power_of_two,
    row_block,
    rows_per_part,
    vector,
    warps,
)


def batch_stats(x: Tensor, *, eps: float, mean: Tensor, rstd: Tensor, var: Tensor | None = None) -> None:
    """Write each channel's statistics; contract in `revgnn.ops.cpu.batch_stats`."""
    operands.batch_stats(x, mean, rstd, var)
    num_rows, width = x.shape
    block = column_block(width)
    rows = row_block(block)
    per_part = rows_per_part(num_rows, 64)
    parts = x.new_empty(blocks(num_rows, per_part), 2, width, dtype=sum_dtype(x.dtype))
    launch(
        _partial_stats,
        (parts.size(0), blocks(width, block)),
        x,
        x,
        parts,
        num_rows,
        per_part,
        width,
        x.stride(0),
        SUM=SUMS[x.dtype],
        BLOCK_N=rows,
        BLOCK_D=block,
        num_warps=warps(rows * block),
    )
    launch(
        _whole_stats,
        (width,),
        x,
        x,
        parts,
        mean,
        rstd,
        var,
        parts.size(0),
        num_rows,
        per_part,
        width,
        EPS=eps,
        SUM=SUMS[x.dtype],
        BLOCK_P=power_of_two(parts.size(0)),
    )


@triton.jit
def _partial_stats(
    x, parts, num_rows, per_part, width, x_stride, SUM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Mean, and sum of squared distances from it, of a range of rows."""
    part = tl.program_id(0).to(tl.int64)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    origin = vector(x, d, inside, SUM)
    mean = tl.zeros((BLOCK_D,), SUM)
    squares = tl.zeros((BLOCK_D,), SUM)
    start = part * per_part
    last = tl.minimum(start + per_part, num_rows)
    for first in range(start, last, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        live = rows < last
        values = tl.where(live[:, None], gather(x, rows, x_stride, d, live, inside, SUM) - origin[None, :], 0.0)
        count = tl.minimum(last - first, BLOCK_N).to(SUM)
        before = (first - start).to(SUM)
        centre = tl.sum(values, 0) / count
        away = tl.where(live[:, None], values - centre[None, :], 0.0)
        step = centre - mean
        mean += step * (count / (before + count))
        squares += tl.sum(away * away, 0) + step * step * (before * count / (before + count))
    base = parts + part * 2 * width
    tl.store(base + d, mean, mask=inside)
    tl.store(base + width + d, squares, mask=inside)


@triton.jit
def _whole_stats(
    x, parts, mean, rstd, var, num_parts, num_rows, per_part, width,
    EPS: tl.constexpr, SUM: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One channel: all ranges of rows."""
    d = tl.program_id(0)
    part = tl.arange(0, BLOCK_P)
    live = part < num_parts
    counts = tl.where(live, tl.minimum(per_part, num_rows - part * per_part), 0).to(SUM)
    means = vector(parts + d, part * 2 * width, live, SUM)
    squares = vector(parts + width + d, part * 2 * width, live, SUM)
    centre = tl.sum(counts * means, 0) / num_rows
    away = tl.where(live, means - centre, 0.0)
    spread = (tl.sum(squares, 0) + tl.sum(counts * away * away, 0)) / num_rows
    tl.store(mean + d, tl.load(x + d).to(SUM) + centre)
    tl.store(rstd + d, 1.0 / tl.sqrt(spread + EPS))
    if var is not None:
        tl.store(var + d, spread)
