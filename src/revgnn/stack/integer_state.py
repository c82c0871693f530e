"""A fixed-point state: integers whose step size may double from layer to layer without losing a bit.

The forward adds ``round(f / q)``; the backward, which recomputes f from the same bits, subtracts the same integer.
Where the stream grows with depth, the step ``q`` grows with it, so that early layers keep their resolution: the bits
shifted out are saved, and shifted in again in the backward.

Source: the saved bits are the information buffer of Maclaurin et al. 2015 (arXiv:1502.03492), for powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .state import Form, State


class Word(NamedTuple):
    """An integer format: the dtype, and how many of its bits are used."""

    dtype: torch.dtype
    limit: int
    """Values stay below ``2**limit`` steps: the sum of two such numbers cannot wrap, so the first excess is seen."""
    headroom: int
    """The scale keeps the largest value seen ``headroom`` bits below the limit."""
    spare: int
    """Bits by which the stream may grow within a run before any are lost."""


WORDS: dict[str, Word] = {"exact": Word(torch.int32, 30, 1, 2), "exact64": Word(torch.int64, 62, 12, 48)}
"""``exact``: int32, and one byte of lost bits per 8 doublings of the range within a run; ``exact64``: int64, one
scale."""

_BYTE = 8


@dataclass(frozen=True)
class FixedPoint(Form):
    """The number format of one run: ``value = steps * 2**exponent``, converted to the stream's dtype."""

    num_groups: int
    exponents: tuple[int, ...]
    """The exponent of every layer of the run, non-decreasing."""
    word: Word
    stream: torch.dtype

    @property
    def wide(self) -> torch.dtype:
        """The floating-point dtype of conversions between the stream and the integers, at least float32."""
        return torch.promote_types(self.stream, torch.float32)

    def open(self, x: Tensor) -> FixedPointState:
        """Make a state from ``x``, rounded to steps."""
        parts = [self.steps(part, 0).contiguous() for part in x.chunk(self.num_groups, dim=-1)]
        return FixedPointState(self, parts, [], 0)

    def reopen(self, kept: Sequence[Tensor], *, copy: bool) -> FixedPointState:
        """Restore the saved state, with ``copy`` in new memory; the lost bits are only read."""
        c = self.num_groups
        lost_bits = [list(kept[k : k + c]) for k in range(c, len(kept), c)]
        parts = [part.clone() if copy else part for part in kept[:c]]
        return FixedPointState(self, parts, lost_bits, len(self.exponents) - 1)

    def steps(self, value: Tensor, layer: int) -> Tensor:
        """Round to the nearest number of steps (ties to even)."""
        return self.scaled(value, layer).round_().to(self.word.dtype)

    def scaled(self, value: Tensor, layer: int) -> Tensor:
        """Return ``value / q`` before rounding, a new tensor of at least float32; exact, as q is a power of two."""
        return value.to(self.wide) * 2.0 ** -self.exponents[layer]

    def read(self, steps: Tensor, layer: int) -> Tensor:
        """Convert integers to values, a pure function, so that a branch reads the same bits when recomputed."""
        return (steps.to(self.wide) * 2.0 ** self.exponents[layer]).to(self.stream)


class FixedPointState(State):
    """A stream as C integer tensors, updated in place.

    Args:
        form: the number format.
        parts: C tensors [N, D/C].
        lost_bits: the bits shifted out: for every 8 bits, C tensors uint8 [N, D/C].
        layer: the layer whose exponent applies.
    """

    tracks_autograd = False

    def __init__(self, form: FixedPoint, parts: list[Tensor], lost_bits: list[list[Tensor]], layer: int) -> None:
        self.form, self.parts, self.lost_bits, self.layer = form, parts, lost_bits, layer

    def target(self, i: int) -> Tensor | None:
        """None: a value must be rounded before it is added."""
        return None

    def read(self, i: int) -> Tensor:
        """Return part i as a branch reads it, in the stream's dtype."""
        return self.form.read(self.parts[i], self.layer)

    def add(self, i: int, delta: Tensor) -> None:
        """Add a branch's value, rounded to steps."""
        self.parts[i] += self.form.steps(delta, self.layer)

    def subtract(self, i: int, delta: Tensor) -> None:
        """Subtract the same integers again."""
        self.parts[i] -= self.form.steps(delta, self.layer)

    def enter(self, layer: int) -> None:
        """Change to the layer's exponent and save the bits shifted out."""
        first, old, new = (self.form.exponents[k] for k in (0, self.layer, layer))
        for position, count in _within_bytes(old - first, new - first):
            if position % _BYTE == 0:
                self.lost_bits.append([torch.zeros_like(part, dtype=torch.uint8) for part in self.parts])
            for part, byte in zip(self.parts, self.lost_bits[-1], strict=True):
                # Round to nearest: add half a step before shifting.
                part += 1 << (count - 1)
                byte |= ((part & ((1 << count) - 1)) << (position % _BYTE)).to(torch.uint8)
                part >>= count
        self.layer = layer

    def leave(self, layer: int) -> None:
        """Return to the exponent of the layer before, with the saved bits."""
        before = max(layer - 1, 0)
        first, old, new = (self.form.exponents[k] for k in (0, layer, before))
        for position, count in reversed(_within_bytes(new - first, old - first)):
            for part, byte in zip(self.parts, self.lost_bits[position // _BYTE], strict=True):
                part <<= count
                part += (byte >> (position % _BYTE)) & ((1 << count) - 1)
                part -= 1 << (count - 1)
        self.layer = before

    def kept(self) -> list[Tensor]:
        """Return the integers and the lost bits."""
        return [*self.parts, *(byte for of_groups in self.lost_bits for byte in of_groups)]

    def join(self) -> Tensor:
        """Return the stream, [..., D], in its own dtype."""
        return torch.cat([self.read(i) for i in range(len(self.parts))], dim=-1)


def _within_bytes(start: int, stop: int) -> list[tuple[int, int]]:
    """Split the bit positions ``start`` to ``stop`` at byte boundaries into (first position, number of bits)."""
    ranges = []
    while start < stop:
        count = min(stop - start, _BYTE - start % _BYTE)
        ranges.append((start, count))
        start += count
    return ranges
