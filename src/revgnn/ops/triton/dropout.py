"""Dropout in Triton kernels: reads the caller's mask, or computes it by `reference.keep_mask`'s hash."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import Drop
from .launch import TILE, as_bytes, blocks, launch

SEED_ARGUMENTS = ["seed_low", "seed_high", "threshold"]
"""Arguments for whose values kernels must not be specialised, because they change in every step."""


def drop_arguments(drop: Drop) -> tuple[tuple[Tensor | int | None, ...], dict[str, str | float]]:
    """Return a kernel's dropout arguments (mask, its stride, seed words, threshold), and the constants DROP and SCALE.

    The seed words are arguments, so that a new seed does not compile a new kernel.
    """
    if drop.p == 0.0 or (drop.mask is None and drop.seed is None):
        return (None, 0, 0, 0, 0), {"DROP": "none", "SCALE": 1.0}
    scale = 1.0 / (1.0 - drop.p)
    if drop.mask is not None:
        return (as_bytes(drop.mask), drop.mask.stride(0), 0, 0, 0), {"DROP": "mask", "SCALE": scale}
    assert drop.seed is not None
    return (None, 0, *_words(drop.seed, drop.p)), {"DROP": "seed", "SCALE": scale}


def keep_mask(seed: int, p: float, *, out: Tensor) -> None:
    """Write the mask of `reference.keep_mask` into ``out``, bool and dense, in one pass without temporaries."""
    operands.bits(out, torch.bool)
    grid = (blocks(out.numel(), TILE),)
    launch(_keep_mask, grid, out, as_bytes(out), *_words(seed, p), out.numel(), BLOCK=TILE, num_warps=4)


def _words(seed: int, p: float) -> tuple[int, int, int]:
    """The seed's words, low and high, and the hash at and above which an element is kept."""
    return _signed(seed), _signed(seed >> 32), _signed(min(int(p * 2**32), 2**32 - 1))


def _signed(word: int) -> int:
    """The int32 of the lowest 32 bits: Triton would take larger numbers for 64 bits wide, another kernel."""
    word &= 0xFFFFFFFF
    return word - 2**32 if word >= 2**31 else word


@triton.jit
def _mix(h):
    h = h ^ (h >> 16)
    h = h * 0x7FEB352D
    h = h ^ (h >> 15)
    h = h * 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def _is_kept(position, seed_low, seed_high, threshold):
    h = _mix(position.to(tl.uint32) ^ seed_low.to(tl.uint32))
    h = _mix(h ^ seed_high.to(tl.uint32) ^ ((position >> 32).to(tl.uint32) * 0x9E3779B9))
    return h >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=SEED_ARGUMENTS)
def _keep_mask(out, seed_low, seed_high, threshold, count, BLOCK: tl.constexpr):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = _is_kept(position, seed_low, seed_high, threshold)
    tl.store(out + position, kept.to(tl.uint8), mask=position < count)


@triton.jit
def keep_factor(mask, mask_stride, seed_low, seed_high, threshold, rows, d, live, width,
                DROP: tl.constexpr, SCALE: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    """The factor of each element of rows x columns: 0 where it drops, ``SCALE`` where it stays."""
    if DROP == "mask":
        kept = tl.load(mask + rows[:, None] * mask_stride + d[None, :], mask=live, other=0) != 0
    else:
        kept = _is_kept(rows[:, None] * width + d[None, :], seed_low, seed_high, threshold)
    return kept.to(SUM) * SCALE
