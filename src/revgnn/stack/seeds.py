"""Derive a seed for every layer and group from the step's seed, without state."""

from __future__ import annotations

import torch

from . import uncompiled
from .recomputing import outside_modes, turns

_MASK = 2**64 - 1


def fold_seed(seed: int, *numbers: int) -> int:
    """Hash integers into a seed: a pure function to 0..2**63-1; neighbouring arguments give unrelated seeds.

    Source: the finaliser of SplitMix64 (Steele et al. 2014), applied once per number.

    Examples:
        >>> from revgnn.stack import fold_seed
        >>> fold_seed(7, 1) == fold_seed(7, 1), fold_seed(7, 1) == fold_seed(7, 2)
        (True, False)
    """
    if uncompiled.is_compiled() and not uncompiled.is_constant(seed):  # 64 bits are too many for a compiler's integers
        return uncompiled.call(fold_seed, seed, *numbers)
    mixed = seed & _MASK
    for number in numbers:
        mixed = _mixed(mixed, number)
    return mixed >> 1


def fold_seeds(seed: int, firsts: range, seconds: range) -> list[int]:
    """Return ``fold_seed(seed, first, second)`` of all pairs."""
    outer = [_mixed(seed & _MASK, first) for first in firsts]
    return [_mixed(mixed, second) >> 1 for mixed in outer for second in seconds]


def _mixed(mixed: int, number: int) -> int:
    mixed = (mixed + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
    return mixed ^ mixed >> 31


def draw_seed() -> int:
    """Draw a seed from torch's global CPU generator, which ``torch.manual_seed`` sets.

    Examples:
        >>> import torch
        >>> from revgnn.stack import draw_seed
        >>> first = torch.manual_seed(0) and draw_seed()
        >>> first == (torch.manual_seed(0) and draw_seed())
        True
    """
    if uncompiled.is_compiled():  # a compiled function has random numbers of its own
        return uncompiled.call(draw_seed)
    if torch.compiler.is_exporting():
        raise RuntimeError("torch.export would record one seed for every call; call eval() on the model before it")
    with turns(), outside_modes():  # not while a block of another thread draws
        return int(torch.randint(2**62, (), device="cpu"))
