"""Triton kernels of norm, ReLU and dropout: the forward, in one pass over tiles of rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import NO_DROP, Drop
from .dropout import SEED_ARGUMENTS, drop_arguments, keep_factor
from .launch import SUMS, blocks, column_block, columns_of, gather, launch, power_of_two, row_block, vector, warps


def norm_act_drop(
    x: Tensor,
    *,
    kind: str,
    out: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    act: bool = True,
    drop: Drop = NO_DROP,
) -> None:
    """Write ``keep * relu(norm(x)) / (1 - p)``; contract in `revgnn.ops.cpu.norm_act_drop`."""
    drop = drop.readable()
    operands.norm_act_drop(x, kind, out, weight, bias, mean, rstd, drop.mask)
    num_rows, width = x.shape
    # A row's statistics need all of its columns in one tile.
    block = power_of_two(width) if kind == "layer" else column_block(width)
    rows = row_block(block)
    dropping, constants = drop_arguments(drop)
    launch(
        _norm,
        (blocks(num_rows, rows), blocks(width, block)),
        x,
        x,
        weight,
        bias,
        mean,
        rstd,
        *dropping,
        out,
        num_rows,
        width,
        x.stride(0),
        out.stride(0),
        KIND=kind,
        ACT=act,
        EPS=eps,
        SUM=SUMS[x.dtype],
        BLOCK_N=rows,
        BLOCK_D=block,
        num_warps=warps(rows * block),
        **constants,
    )


@triton.jit(do_not_specialize=SEED_ARGUMENTS)
def _norm(
    x, weight, bias, mean, rstd, mask, mask_stride, seed_low, seed_high, threshold, out,
    num_rows, width, x_stride, out_stride,
    KIND: tl.constexpr, ACT: tl.constexpr, EPS: tl.constexpr, DROP: tl.constexpr, SCALE: tl.constexpr,
    SUM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    live = rows < num_rows
    value = gather(x, rows, x_stride, d, live, inside, SUM)
    if KIND == "layer":
        centre = tl.sum(value, 1) / width
        value = tl.where(inside[None, :], value - centre[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(value * value, 1) / width + EPS)
        value *= scale[:, None]
        if mean is not None:
            tl.store(mean + rows, centre, mask=live)
            tl.store(rstd + rows, scale, mask=live)
    if KIND == "batch":
        value = (value - vector(mean, d, inside, SUM)[None, :]) * vector(rstd, d, inside, SUM)[None, :]
    if weight is not None:
        value *= vector(weight, d, inside, SUM)[None, :]
    if bias is not None:
        value += vector(bias, d, inside, SUM)[None, :]
    if ACT:
        value = tl.where(value < 0, 0.0, value)
    both = live[:, None] & inside[None, :]
    if DROP != "none":
        value *= keep_factor(
            mask, mask_stride, seed_low, seed_high, threshold, rows, d, both, width, DROP, SCALE, SUM
        )  # fmt: skip
    tl.store(out + rows[:, None] * out_stride + d[None, :], value.to(out.dtype.element_ty), mask=both)
