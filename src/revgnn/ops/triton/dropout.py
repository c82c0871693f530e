"""Which elements of a tile are kept: by the caller's mask, or by `reference.keep_mask`'s hash of (seed, position)."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..native import Drop
from .launch import as_bytes

SEED_ARGUMENTS = ["seed_low", "seed_high", "threshold"]
"""Kernels must not be specialised for their values: every step draws new ones."""


def drop_arguments(drop: Drop) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a kernel needs to know: (mask, its stride, seed's words, threshold), and the constants DROP and SCALE.

    The words of the seed are arguments, so that a new seed is not a new kernel.
    """
    if drop.p == 0.0 or (drop.mask is None and drop.seed is None):
        return (None, 0, 0, 0, 0), {"DROP": "none", "SCALE": 1.0}
    scale = 1.0 / (1.0 - drop.p)
    if drop.mask is not None:
        return (as_bytes(drop.mask), drop.mask.stride(0), 0, 0, 0), {"DROP": "mask", "SCALE": scale}
    assert drop.seed is not None
    threshold = min(int(drop.p * 2**32), 2**32 - 1)
    words = (_signed(drop.seed), _signed(drop.seed >> 32), _signed(threshold))
    return (None, 0, *words), {"DROP": "seed", "SCALE": scale}


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
def keep_factor(mask, mask_stride, seed_low, seed_high, threshold, rows, d, live, width,
                DROP: tl.constexpr, SCALE: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    """The factor of each element of rows x columns: 0 where it drops, ``SCALE`` where it stays."""
    if DROP == "mask":
        kept = tl.load(mask + rows[:, None] * mask_stride + d[None, :], mask=live, other=0) != 0
    else:
        position = rows[:, None] * width + d[None, :]
        h = _mix(position.to(tl.uint32) ^ seed_low.to(tl.uint32))
        h = _mix(h ^ seed_high.to(tl.uint32) ^ ((position >> 32).to(tl.uint32) * 0x9E3779B9))
        kept = h >= threshold.to(tl.uint32)
    return kept.to(SUM) * SCALE
