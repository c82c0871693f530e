"""Triton kernels of norm, ReLU and dropout: the backward, which recomputes everything but the statistics from x.

Sums over rows, for the affine and for BatchNorm's own statistics, go through partial sums of fixed ranges of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import NO_DROP, Drop, sum_dtype
from .dropout import SEED_ARGUMENTS, drop_arguments, keep_factor
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


def norm_act_drop_backward(
    grad: Tensor,
    x: Tensor,
    *,
    kind: str,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    fixed_stats: bool = False,
    act: bool = True,
    drop: Drop = NO_DROP,
    accumulate: bool = False,
) -> None:
    """Write the gradient of `norm_act_drop`; contract in `revgnn.ops.cpu.norm_act_drop_backward`."""
    drop = drop.readable()
    operands.norm_act_drop_backward(grad, x, kind, dx, dweight, dbias, weight, bias, mean, rstd, drop.mask)
    num_rows, width = x.shape
    block = power_of_two(width) if kind == "layer" else column_block(width)
    rows = row_block(block)
    per_part = blocks(rows_per_part(num_rows, 64), rows) * rows
    parts = x.new_empty(blocks(num_rows, per_part), 2, width, dtype=sum_dtype(x.dtype))
    dropping, constants = drop_arguments(drop)
    own_stats = kind == "batch" and not fixed_stats

    def run(sums: Tensor | None, into: Tensor | None) -> None:
        launch(
            _norm_backward,
            (parts.size(0), blocks(width, block)),
            x, grad, x, weight, bias, mean, rstd, *dropping, sums, into, dweight, dbias,
            num_rows, per_part, width, x.stride(0), grad.stride(0), dx.stride(0),
            KIND=kind, ACT=act, OWN_STATS=own_stats, ACCUMULATE=accumulate,
            SUM=SUMS[x.dtype], BLOCK_N=rows, BLOCK_D=block, num_warps=warps(rows * block), **constants,
        )  # fmt: skip

    # The gradient through a batch's own statistics needs the sums over all of its rows first.
    run(parts, None if own_stats else dx)
    torch.sum(parts[:, 0], 0, out=dweight)
    torch.sum(parts[:, 1], 0, out=dbias)
    if own_stats:
        run(None, dx)


@triton.jit
def _vector_or(base, default: tl.constexpr, d, inside, SUM: tl.constexpr, BLOCK_D: tl.constexpr):
    return tl.full((BLOCK_D,), default, SUM) if base is None else vector(base, d, inside, SUM)


@triton.jit
def _normalised(value, mean, rstd, rows, d, live, inside, KIND: tl.constexpr, SUM: tl.constexpr):
    """The normalised values, 0 where there are none, and what they were multiplied with."""
    if KIND == "layer":
        centre, spread = vector(mean, rows, live, SUM)[:, None], vector(rstd, rows, live, SUM)[:, None]
    elif KIND == "batch":
        centre, spread = vector(mean, d, inside, SUM)[None, :], vector(rstd, d, inside, SUM)[None, :]
    else:
        centre, spread = tl.zeros_like(value), tl.zeros_like(value) + 1.0
    return tl.where(live[:, None] & inside[None, :], (value - centre) * spread, 0.0), spread


@triton.jit
def _less_its_means(found, value, width):
    """Subtract from rows of gradients their means and their projections onto the values."""
    along = tl.sum(found * value, 1) / width
    return found - (tl.sum(found, 1) / width)[:, None] - value * along[:, None]


@triton.jit(do_not_specialize=SEED_ARGUMENTS)
def _norm_backward(
    grad, x, weight, bias, mean, rstd, mask, mask_stride, seed_low, seed_high, threshold, parts, dx, dweight, dbias,
    num_rows, per_part, width, x_stride, grad_stride, dx_stride,
    KIND: tl.constexpr, ACT: tl.constexpr, OWN_STATS: tl.constexpr, ACCUMULATE: tl.constexpr,
    DROP: tl.constexpr, SCALE: tl.constexpr, SUM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    scale = _vector_or(weight, 1.0, d, inside, SUM, BLOCK_D)
    shift = _vector_or(bias, 0.0, d, inside, SUM, BLOCK_D)
    products = tl.zeros((BLOCK_D,), SUM)
    total = tl.zeros((BLOCK_D,), SUM)
    last = tl.minimum((part + 1) * per_part, num_rows)
    for first in range(part * per_part, last, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        live = rows < last
        both = live[:, None] & inside[None, :]
        value = gather(x, rows, x_stride, d, live, inside, SUM)
        value, spread = _normalised(value, mean, rstd, rows, d, live, inside, KIND, SUM)
        g = gather(grad, rows, grad_stride, d, live, inside, SUM)
        if DROP != "none":
            g *= keep_factor(
                mask, mask_stride, seed_low, seed_high, threshold, rows, d, both, width, DROP, SCALE, SUM
            )  # fmt: skip
        if ACT:
            g = tl.where(value * scale[None, :] + shift[None, :] > 0, g, 0.0)
        if parts is not None:
            products += tl.sum(g * value, 0)
            total += tl.sum(g, 0)
        if dx is not None:
            found = g * scale[None, :]
            if KIND == "layer":
                found = _less_its_means(found, value, width)
            elif OWN_STATS:
                along = vector(dweight, d, inside, SUM)[None, :] / num_rows
                found = (g - vector(dbias, d, inside, SUM)[None, :] / num_rows - value * along) * scale[None, :]
            found *= spread
            at = dx + rows[:, None] * dx_stride + d[None, :]
            if ACCUMULATE:
                found += tl.load(at, mask=both, other=0.0).to(SUM)
            tl.store(at, found.to(dx.dtype.element_ty), mask=both)
    if parts is not None:
        base = parts + part * 2 * width
        tl.store(base + d, products, mask=inside)
        tl.store(base + width + d, total, mask=inside)
