"""A stream as integers: numbers of steps of a size that may double from layer to layer, without losing a bit.

A branch adds ``round(f / q)`` and, once it is rebuilt from the same bits, subtracts the very same integer. Where the
stream grows with depth, ``q`` grows with it, so that the first layers are held as finely as the last: the bits that
fall off are put aside, and put back on the way back.

Source: the bits put aside are the information buffer of Maclaurin et al. 2015 (arXiv:1502.03492), for powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Word(NamedTuple):
    """An integer type, and how much of it is used."""

    dtype: torch.dtype
    limit: int
    """Values stay below ``2**limit`` steps: the sum of two such numbers cannot wrap, so the first excess is seen."""
    headroom: int
    """A scale is chosen so that the largest value seen stays ``headroom`` bits below the limit."""
    spare: int
    """Bits that the stream may grow by within a run before any are put aside."""


WORDS: dict[str, Word] = {"exact": Word(torch.int32, 30, 1, 2), "exact64": Word(torch.int64, 62, 12, 48)}
"""``exact``: int32, and a byte put aside per 8 doublings of the range within a run; ``exact64``: int64, one scale."""

_BYTE = 8


@dataclass(frozen=True)
class FixedPoint:
    """What the integers of one run mean: ``value = steps * 2**exponent``, read in the stream's dtype."""

    num_groups: int
    exponents: tuple[int, ...]
    """For every layer of the run, the exponent that holds within it; never falling."""
    word: Word
    stream: torch.dtype

    @property
    def wide(self) -> torch.dtype:
        """The floating-point dtype of everything between the stream and the integers."""
        return torch.promote_types(self.stream, torch.float32)

    def open(self, x: Tensor) -> FixedPointState:
        """A state with the values of ``x``, rounded to steps."""
        parts = [self.steps(part, 0).contiguous() for part in x.chunk(self.num_groups, dim=-1)]
        return FixedPointState(self, parts, [], 0)

    def kept(self, state: FixedPointState, y: Tensor) -> list[Tensor]:
        """What must be saved to open the state again: the integers; what is handed on is their reading."""
        return [*state.parts, *(byte for aside in state.aside for byte in aside)]

    def reopen(self, kept: Sequence[Tensor], *, copy: bool) -> FixedPointState:
        """The state that was saved, or a copy of its parts; the bits put aside are only read."""
        c = self.num_groups
        aside = [list(kept[k : k + c]) for k in range(c, len(kept), c)]
        parts = [part.clone() if copy else part for part in kept[:c]]
        return FixedPointState(self, parts, aside, len(self.exponents) - 1)

    def steps(self, value: Tensor, layer: int) -> Tensor:
        """Round to the nearest number of steps (ties to even)."""
        return self.scaled(value, layer).round_().to(self.word.dtype)

    def scaled(self, value: Tensor, layer: int) -> Tensor:
        """``value / q`` before rounding, a new tensor of at least float32; exact, because q is a power of two."""
        return value.to(self.wide) * 2.0 ** -self.exponents[layer]

    def read(self, steps: Tensor, layer: int) -> Tensor:
        """The value of integers: a pure function of them, so that a branch meets the same bits when it is rebuilt."""
        return (steps.to(self.wide) * 2.0 ** self.exponents[layer]).to(self.stream)


class FixedPointState:
    """Parts of integers, updated in place.

    Args:
        form: what they mean.
        parts: C tensors [N, D/C].
        aside: bytes of bits put aside: for every 8 bits, C tensors uint8 [N, D/C].
        layer: the layer whose exponent holds.
    """

    tracks_autograd = False

    def __init__(self, form: FixedPoint, parts: list[Tensor], aside: list[list[Tensor]], layer: int) -> None:
        self.form, self.parts, self.aside, self.layer = form, parts, aside, layer

    def target(self, i: int) -> Tensor | None:
        """A value has to be rounded first."""
        return None

    def read(self, i: int) -> Tensor:
        """Part i as a branch sees it."""
        return self.form.read(self.parts[i], self.layer)

    def sum_from(self, start: int) -> Tensor:
        """The sum of the readings from ``start`` on."""
        total = self.read(start)
        for i in range(start + 1, len(self.parts)):
            total = total + self.read(i)
        return total

    def add(self, i: int, delta: Tensor) -> None:
        """Add a branch's value, rounded to steps."""
        self.parts[i] += self.form.steps(delta, self.layer)

    def subtract(self, i: int, delta: Tensor) -> None:
        """Take off the same integers again."""
        self.parts[i] -= self.form.steps(delta, self.layer)

    def enter(self, layer: int) -> None:
        """Go over to the layer's exponent, putting the bits that fall off aside."""
        first, old, new = (self.form.exponents[k] for k in (0, self.layer, layer))
        for position, count in _pieces(old - first, new - first):
            if position % _BYTE == 0:
                self.aside.append([torch.zeros_like(part, dtype=torch.uint8) for part in self.parts])
            for part, byte in zip(self.parts, self.aside[-1], strict=True):
                # Rounded to nearest: half a step is added before the lowest bits are cut off.
                part += 1 << (count - 1)
                byte |= ((part & ((1 << count) - 1)) << (position % _BYTE)).to(torch.uint8)
                part >>= count
        self.layer = layer

    def leave(self, layer: int) -> None:
        """Go back to the exponent of the layer before, with the bits that were put aside."""
        before = max(layer - 1, 0)
        first, old, new = (self.form.exponents[k] for k in (0, layer, before))
        for position, count in reversed(_pieces(new - first, old - first)):
            for part, byte in zip(self.parts, self.aside[position // _BYTE], strict=True):
                part <<= count
                part += (byte >> (position % _BYTE)) & ((1 << count) - 1)
                part -= 1 << (count - 1)
        self.layer = before

    def join(self) -> Tensor:
        """The reading of the whole stream, [..., D]."""
        return torch.cat([self.read(i) for i in range(len(self.parts))], dim=-1)


def _pieces(start: int, stop: int) -> list[tuple[int, int]]:
    """Bit positions ``start`` to ``stop`` as (first position, number of bits), none across the border of a byte."""
    pieces = []
    while start < stop:
        count = min(stop - start, _BYTE - start % _BYTE)
        pieces.append((start, count))
        start += count
    return pieces
