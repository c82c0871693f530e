"""Launches Triton kernels, chooses tile sizes, and gives kernels the rows, columns and neighbours of a tile.

A program of one warp uses tiles of about 1024 elements (neighbours times columns), 32 registers per thread each.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

SUMS = {torch.float32: tl.float32, torch.bfloat16: tl.float32, torch.float64: tl.float64}
"""Element type -> type of sums over it."""

TILE = 1024
LONG = 512
"""Number of edges from which a row counts as long, because one warp would finish it after all other programs."""
_MANY_WARPS = 16
# indptr -> the requested length, and the rows.
_long_rows: MutableMapping[Tensor, tuple[int, Tensor | None]] = WeakTensorKeyDictionary()
_COLUMNS = 128
_OVERHEAD = 16


def launch(
    kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Tensor | int | None, **constants: object
) -> None:
    """Launch a kernel on the device of a tensor; an empty grid launches nothing.

    Args:
        kernel: a function compiled by `triton.jit`.
        grid: numbers of programs.
        on: a tensor on the device.
        arguments: the kernel's arguments: tensors, integers and ``None``.
        constants: its `constexpr` parameters by name, and ``num_warps``.
    """
    if min(grid) == 0:
        return
    with torch.cuda.device(on.device) if on.is_cuda else nullcontext():
        kernel[grid](*arguments, **{"num_warps": 1, "enable_fp_fusion": True, **constants})


def launch_rows(
    kernel: Any,
    indptr: Tensor,
    more: tuple[int, ...],
    on: Tensor,
    *arguments: Tensor | int | None,
    BLOCK_E: int,
    num_warps: int = 1,
    **constants: object,
) -> None:
    """Start a program for every row of a graph; rows of very many edges get programs of many warps, after the others.

    Args:
        kernel: takes the numbers of its rows (``None``: all), ``indptr``, ``arguments``; finds its row by `row_of`.
        indptr: of the graph whose rows they are.
        more: numbers of programs per row.
        on, arguments, constants: as in `launch`.
        BLOCK_E: edges of a tile of ``num_warps`` warps.
    """
    rows = long_rows(indptr)
    shape = {"BLOCK_E": BLOCK_E, "num_warps": num_warps, "LONG": left_out(rows)}
    launch(kernel, (indptr.numel() - 1, *more), on, None, indptr, *arguments, **shape, **constants)
    if rows is not None:
        shape = many_warps(BLOCK_E, num_warps)
        launch(kernel, (rows.numel(), *more), on, rows, indptr, *arguments, **shape, **constants)


def many_warps(edges: int, num_warps: int) -> dict[str, int]:
    """Return the constants of a program for one long row: more warps, and more edges per tile by the same factor."""
    return {"BLOCK_E": edges * (_MANY_WARPS // num_warps), "num_warps": _MANY_WARPS, "LONG": 0}


def left_out(long: Tensor | None) -> int:
    """The constant of `row_of` for programs of few warps: rows of more edges are not theirs; 0: all are."""
    return 0 if long is None else LONG


def long_rows(indptr: Tensor) -> Tensor | None:
    """The rows of more than `LONG` edges, ``None`` for none; found once per graph (the host waits for the device)."""
    found = _long_rows.get(indptr)
    if found is None or found[0] != LONG:
        rows = (indptr.diff() > LONG).nonzero().view(-1).int()
        found = _long_rows[indptr] = (LONG, rows if rows.numel() else None)
    return found[1]


def column_block(width: int, most: int = _COLUMNS) -> int:
    """Choose the columns of a tile, a power of two, to minimise padding and the number of programs.

    A program's work per edge (positions, neighbours, scores) is counted as `_OVERHEAD` additional columns.
    """
    widest = min(most, power_of_two(width))
    candidates = [block for block in (128, 64, 32, 16) if block <= widest] or [widest]
    return min(candidates, key=lambda block: blocks(width, block) * (block + _OVERHEAD))


def columns_under(features: int) -> int:
    """Largest number of columns of a tile with which a program can keep [features, columns] sums in registers."""
    return max(16, min(_COLUMNS, TILE // features))


def edge_block(columns: int) -> int:
    """Neighbours of a tile."""
    return max(4, min(32, TILE // columns))


def row_block(columns: int) -> int:
    """Rows of a tile of dense rows, whose warps share it."""
    return max(1, min(64, 2 * TILE // columns))


def warps(elements: int) -> int:
    """Warps of a program that keeps many tiles of so many elements: 8 registers a thread for each of them."""
    return max(1, min(16, elements // (TILE // 4)))


def power_of_two(number: int) -> int:
    """The next power of two, from 1 up."""
    return 1 << max(number - 1, 0).bit_length()


def blocks(number: int, block: int) -> int:
    """How many blocks cover a number."""
    return -(-number // block)


def rows_per_part(num_rows: int, least: int, parts: int = 2048) -> int:
    """Rows that are summed into one partial result, which the number of rows alone decides, and so the bits.

    Args:
        num_rows: all of them.
        least: that keep the partial results small beside the rows.
        parts: that keep a device busy.
    """
    return max(least, blocks(num_rows, parts))


def places(csr_edge_ids: Tensor | None, per_edge: Tensor | None) -> Tensor | None:
    """Where an edge's own values stand; ``None``, a read less, where there are none or they stand at its position."""
    return None if per_edge is None else csr_edge_ids


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A bool tensor as bytes, in place."""
    return None if mask is None else mask.view(torch.uint8)


# ---------------------------------------------------------------------- inside kernels
@triton.jit
def row_of(rows, indptr, at, LONG: tl.constexpr):
    """The row of a program and where its edges start and end; a long row has none where programs of one warp run."""
    row = at if rows is None else tl.load(rows + at).to(tl.int64)
    start, end = tl.load(indptr + row), tl.load(indptr + row + 1)
    if LONG > 0:
        end = tl.where(end - start > LONG, start, end)
    return row, start, end


@triton.jit
def columns_of(block, width, BLOCK_D: tl.constexpr):
    """The columns of a block, and which of them exist."""
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    return d, d < width


@triton.jit
def edges_of(indices, first, end, BLOCK_E: tl.constexpr):
    """Positions of the next edges of a row, which of them exist, and the nodes at their other ends."""
    e = first + tl.arange(0, BLOCK_E)
    live = e < end
    return e, live, tl.load(indices + e, mask=live, other=0).to(tl.int64)


@triton.jit
def places_of(edge_ids, e, live):
    """Where the edges' own values stand."""
    return e.to(tl.int64) if edge_ids is None else tl.load(edge_ids + e, mask=live, other=0)


@triton.jit
def gather(base, rows, stride, d, live, inside, SUM: tl.constexpr):
    """Some columns of some rows, 0 where there are none."""
    at = base + rows[:, None] * stride + d[None, :]
    return tl.load(at, mask=live[:, None] & inside[None, :], other=0.0).to(SUM)


@triton.jit
def vector(base, d, inside, SUM: tl.constexpr):
    """Some elements of a vector, 0 where there are none."""
    return tl.load(base + d, mask=inside, other=0.0).to(SUM)


@triton.jit
def put(base, d, value, inside, ACCUMULATE: tl.constexpr):
    """Store a row's columns, or add to what is there."""
    if ACCUMULATE:
        value += tl.load(base + d, mask=inside, other=0.0).to(value.dtype)
    tl.store(base + d, value.to(base.dtype.element_ty), mask=inside)
