"""A stream held in fixed point, where adding and subtracting are exact inverses: reversal that gives the same bits.

A value is an integer number of steps of one size ``q``, a power of two per run of layers: a branch adds
``round(f / q)`` and, once it is rebuilt from the same bits, subtracts the very same integer. Hides how ``q`` follows
the data: the largest value of every layer is remembered from step to step, a run whose state outgrows its integers is
done again with coarser steps, and no wrapped integer ever reaches the caller.

The gradient is that of the branches at the values they read; rounding counts as the identity.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .purity import rebuilding, snapshot
from .run import Run
from .state import FloatState, sum_of

_LOG = logging.getLogger("revgnn.stack")


class Word(NamedTuple):
    """An integer type, and how much of it is used."""

    dtype: torch.dtype
    limit: int
    """Values stay below ``2**limit`` steps: the sum of two such numbers cannot wrap, so the first excess is seen."""
    headroom: int
    """A scale is chosen so that the largest value seen stays ``headroom`` bits below the limit."""


WORDS: dict[str, Word] = {"exact": Word(torch.int32, 30, 1), "exact64": Word(torch.int64, 62, 12)}
"""``exact`` takes the memory of float32 and is as fine where the stream's range is moderate; ``exact64`` twice that
memory, and is finer than float32 everywhere."""

_ATTEMPTS = 4
_FINEST = -100


@dataclass(frozen=True)
class FixedPoint:
    """What the integers of one run mean.

    ``value = steps * 2**exponent``, read in the stream's dtype.
    """

    num_groups: int
    exponent: int
    word: Word
    stream: torch.dtype

    def open(self, x: Tensor) -> FixedPointState:
        """A state with the values of ``x``, rounded to steps."""
        return FixedPointState([self.steps(part) for part in x.chunk(self.num_groups, dim=-1)], self)

    def kept(self, state: FixedPointState, y: Tensor) -> list[Tensor]:
        """What must be saved to open the state again: the integers; what is handed on is their reading."""
        return state.parts

    def reopen(self, kept: Sequence[Tensor]) -> FixedPointState:
        """The state that was saved, with parts of its own."""
        return FixedPointState([part.clone() for part in kept], self)

    def steps(self, value: Tensor) -> Tensor:
        """Round to the nearest number of steps (ties to even)."""
        return self.scaled(value).round_().to(self.word.dtype)

    def scaled(self, value: Tensor) -> Tensor:
        """``value / q`` before rounding, a new tensor of at least float32; exact, because q is a power of two."""
        wide = value.to(torch.promote_types(self.stream, torch.float32))
        return wide * 2.0**-self.exponent

    def read(self, steps: Tensor) -> Tensor:
        """The value of integers: a pure function of them, so that a branch meets the same bits when it is rebuilt."""
        wide = steps.to(torch.promote_types(self.stream, torch.float32))
        return (wide * 2.0**self.exponent).to(self.stream)


class FixedPointState:
    """Parts of integers, updated in place."""

    def __init__(self, parts: list[Tensor], form: FixedPoint) -> None:
        self.parts, self.form = parts, form

    def read(self, i: int) -> Tensor:
        """Part i as a branch sees it."""
        return self.form.read(self.parts[i])

    def sum_from(self, start: int) -> Tensor:
        """The sum of the readings from ``start`` on."""
        return sum_of([self.form.read(part) for part in self.parts[start:]])

    def add(self, i: int, delta: Tensor) -> None:
        """Add a branch's value, rounded to steps."""
        self.parts[i] += self.form.steps(delta)

    def subtract(self, i: int, delta: Tensor) -> None:
        """Take off the same integers again."""
        self.parts[i] -= self.form.steps(delta)

    def join(self) -> Tensor:
        """The reading of the whole stream, [..., D]."""
        return torch.cat([self.form.read(part) for part in self.parts], dim=-1)


class Maxima:
    """Largest magnitudes, noted on the device as they come and read together: one wait per run, not one per layer."""

    def __init__(self) -> None:
        self._notes: list[tuple[Tensor, Tensor]] = []

    def note(self, value: Tensor) -> None:
        """Take down the range of a tensor."""
        if value.numel():
            self._notes.append(torch.aminmax(value))

    def read(self) -> list[float]:
        """The noted magnitudes, in order; NaN where there was one."""
        if not self._notes:
            return []
        least, most = (torch.stack([note[end] for note in self._notes]).double() for end in (0, 1))
        found: list[float] = torch.maximum(least.abs(), most.abs()).tolist()
        return found


class _MeasuredFloat(FloatState):
    """A float state that notes its range."""

    def __init__(self, x: Tensor, num_groups: int) -> None:
        super().__init__(x, num_groups)
        self.maxima = Maxima()
        self.maxima.note(x)

    def add(self, i: int, delta: Tensor) -> None:
        super().add(i, delta)
        self.maxima.note(delta)
        self.maxima.note(self.parts[i])


class _MeasuredFixed(FixedPointState):
    """A fixed-point state that notes its range, in steps."""

    def __init__(self, x: Tensor, form: FixedPoint) -> None:
        super().__init__([], form)
        self.maxima = Maxima()
        scaled = form.scaled(x)
        self.maxima.note(scaled)
        whole = scaled.round_().to(form.word.dtype)
        self.parts = [part.contiguous() for part in whole.chunk(form.num_groups, dim=-1)]

    def add(self, i: int, delta: Tensor) -> None:
        scaled = self.form.scaled(delta)
        self.maxima.note(scaled)
        self.parts[i] += scaled.round_().to(self.form.word.dtype)
        self.maxima.note(self.parts[i])


class ExactState:
    """Holds the runs of one stack in fixed point, and remembers the range of every layer between steps.

    Args:
        num_layers: L.
        num_groups: C.
        word: the integers to use.
    """

    def __init__(self, num_layers: int, num_groups: int, word: Word) -> None:
        self.num_groups, self.word = num_groups, word
        self.largest = [math.nan] * num_layers
        """The largest magnitude that each layer has met so far; NaN before the first step."""
        self.rescales = 0
        """How often a run had to be done again with a coarser scale."""

    def advance(self, run: Run, x: Tensor, tensors: Sequence[Tensor]) -> tuple[FixedPoint, FixedPointState]:
        """Take a stream through a run in fixed point, with the finest steps that hold it.

        Returns: what the integers mean, and the state after the run.
        Raises: FloatingPointError: if the stream or a branch is not finite, naming the layer. OverflowError: if no
            scale holds, which a branch that is no pure function can bring about.
        Cost: the run once; twice on the first step of all, and when the state has outgrown its scale by more than the
            head-room.
        """
        if any(math.isnan(value) for value in self._slice(run)):
            self._measure(run, x, tensors)
        restore = snapshot(run.buffers())
        for _ in range(_ATTEMPTS):
            form = FixedPoint(self.num_groups, self._exponent(run), self.word, x.dtype)
            state = _MeasuredFixed(x, form)
            run.advance(state, tensors)
            steps = self._per_layer(run, state.maxima)
            excess = next((k for k, value in enumerate(steps) if not value < 2.0**self.word.limit), None)
            if excess is None:
                self._remember(run, [value * 2.0**form.exponent for value in steps])
                return form, FixedPointState(state.parts, form)
            restore()
            self._measure(run, x, tensors)
            self._report(run, excess, form, self._exponent(run))
        raise OverflowError(
            f"the fixed-point state of layers {run.first} to {run.first + len(run.layers) - 1} outgrew "
            f"{_ATTEMPTS} scales in a row: its range changes from one evaluation to the next; look for a block that is "
            "no pure function of its arguments (check_inverse names it), or choose state='float'"
        )

    def fresh(self) -> ExactState:
        """One of the same kind that has seen nothing."""
        return ExactState(len(self.largest), self.num_groups, self.word)

    def _slice(self, run: Run) -> list[float]:
        return self.largest[run.first : run.first + len(run.layers)]

    def _exponent(self, run: Run) -> int:
        _, exponent = math.frexp(max(self._slice(run)))
        return max(exponent + self.word.headroom - self.word.limit, _FINEST)

    def _measure(self, run: Run, x: Tensor, tensors: Sequence[Tensor]) -> None:
        """Find the range of every layer of the run in floating point, leaving the blocks' buffers alone."""
        state = _MeasuredFloat(x, self.num_groups)
        with rebuilding():
            run.advance(state, tensors)
        found = self._per_layer(run, state.maxima)
        for k, value in enumerate(found):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"layer {run.first + k} meets or adds a value that is not finite, which fixed point cannot hold; "
                    "look at the input and the block's parameters, or run state='float' to see it spread"
                )
        self._remember(run, found)

    def _per_layer(self, run: Run, maxima: Maxima) -> list[float]:
        """For each layer of the run, the largest magnitude it met: entrance, branch values and stream."""
        notes = maxima.read()
        if not notes:
            return [0.0] * len(run.layers)
        per_layer = 2 * self.num_groups
        found = [_largest(notes[1 + k : 1 + k + per_layer]) for k in range(0, len(notes) - 1, per_layer)]
        found[0] = _largest([notes[0], found[0]])
        return found

    def _remember(self, run: Run, found: Sequence[float]) -> None:
        for layer, value in enumerate(found, start=run.first):
            known = self.largest[layer]
            self.largest[layer] = value if math.isnan(known) else max(known, value)

    def _report(self, run: Run, excess: int, old: FixedPoint, exponent: int) -> None:
        self.rescales += 1
        _LOG.warning(
            "the fixed-point state outgrew its scale at layer %d: steps of 2^%d hold values below %.3g, and the "
            "largest is %.3g; this step was done again with steps of 2^%d. If gradients get worse, segments='auto' "
            "gives every 32 layers a scale of their own, and state='exact64' has room for any.",
            run.first + excess,
            old.exponent,
            2.0 ** (old.exponent + self.word.limit),
            max(self._slice(run)),
            exponent,
        )


def _largest(values: Sequence[float]) -> float:
    """The maximum, which is NaN where a value is."""
    return math.nan if any(math.isnan(value) for value in values) else max(values)
