"""Hold a reversible run's state in fixed point with adaptive scales, so that it is reconstructed bit for bit.

Hides the choice of scales: the largest value of every layer is remembered from step to step, a run whose state
overflows is repeated with a coarser scale, and no wrapped integer ever reaches the caller.

The gradient is that of the branches at the values that they read; rounding is differentiated as the identity.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from .fused import is_observed, unobserved
from .integer_state import FixedPoint, FixedPointState, Word
from .layer_run import LayerRun
from .rank_group import group_of
from .recomputing import recomputing, snapshot
from .state import FloatState

_LOG = logging.getLogger("revgnn.stack")

_ATTEMPTS = 4
_FINEST = -100


class Maxima:
    """Records largest magnitudes on the device and reads them together: one synchronisation per run, not per layer."""

    def __init__(self) -> None:
        self._ranges: list[tuple[Tensor, Tensor]] = []

    def record(self, value: Tensor) -> None:
        """Record the range of a tensor."""
        if value.numel():
            self._ranges.append(torch.aminmax(value))

    def read(self) -> list[float]:
        """Return the recorded magnitudes in order; NaN where a tensor had one."""
        if not self._ranges:
            return []
        least, most = (torch.stack([ends[k] for ends in self._ranges]).double() for k in (0, 1))
        found: list[float] = torch.maximum(least.abs(), most.abs()).tolist()
        return found


class _MeasuredFloat(FloatState):
    """A floating-point state that records its range."""

    def __init__(self, x: Tensor, num_groups: int) -> None:
        super().__init__(x, num_groups)
        self.maxima = Maxima()
        self.maxima.record(x)

    def target(self, i: int) -> Tensor | None:
        return None

    def add(self, i: int, delta: Tensor) -> None:
        super().add(i, delta)
        self.maxima.record(delta)
        self.maxima.record(self.parts[i])


class _MeasuredFixed(FixedPointState):
    """A fixed-point state that records its range in units of the layer's step."""

    def __init__(self, form: FixedPoint, x: Tensor) -> None:
        super().__init__(form, form.open(x).parts, [], 0)
        self.maxima = Maxima()
        self.maxima.record(x)

    def add(self, i: int, delta: Tensor) -> None:
        scaled = self.form.scaled(delta, self.layer)
        self.maxima.record(scaled)
        self.parts[i] += scaled.round_().to(self.form.word.dtype)
        self.maxima.record(self.parts[i])


class ExactState:
    """Advances the runs of one stack in fixed point, and remembers the range of every layer between steps.

    Args:
        num_layers: L.
        num_groups: C.
        word: the integer format.
    """

    def __init__(self, num_layers: int, num_groups: int, word: Word) -> None:
        self.num_groups, self.word = num_groups, word
        self.largest = [math.nan] * num_layers
        """The largest magnitude seen in each layer so far; NaN before the first step."""
        self.rescales = 0
        """Number of runs that were repeated with a coarser scale."""

    def advance(self, run: LayerRun, x: Tensor, tensors: Sequence[Tensor]) -> tuple[FixedPoint, FixedPointState]:
        """Apply a run in fixed point, with the finest scale that fits.

        Returns: the number format, and the state after the run.
        Raises: FloatingPointError: if the stream or a branch is not finite, naming the layer. OverflowError: if no
            scale fits, which a branch that is not a pure function can cause.
        Cost: one evaluation of the run; two in the first step, under a mode that observes operators, and when the state
            exceeds its scale by more than the headroom.
        """
        # Under a mode that expects the same operators in every forward, no attempt may be repeated.
        if is_observed() or any(math.isnan(value) for value in self._slice(run)):
            self._measure(run, x, tensors)
        restore = snapshot(run.buffers())
        for _ in range(_ATTEMPTS):
            form = FixedPoint(self.num_groups, self._exponents(run), self.word, x.dtype)
            state = _MeasuredFixed(form, x)
            run.advance(state, tensors, keep=True)
            found = self._in_values(form, state.maxima)
            limits = [2.0 ** (exponent + self.word.limit) for exponent in form.exponents]
            excess = next(
                (k for k, (value, limit) in enumerate(zip(found, limits, strict=True)) if not value < limit), None
            )
            if not _any_rank(run, excess is not None, x.device):
                self._remember(run, found)
                return form, FixedPointState(form, state.parts, state.lost_bits, state.layer)
            restore()
            self._measure(run, x, tensors)
            if excess is not None:
                self._report(run, excess, form.exponents[excess], self._exponents(run)[excess])
        raise OverflowError(
            f"the fixed-point state of layers {run.first} to {run.first + len(run.layers) - 1} outgrew "
            f"{_ATTEMPTS} scales in a row: its range changes from one evaluation to the next; look for a block that is "
            "not a pure function of its arguments (check_inverse names it), or choose state='float'"
        )

    @property
    def bytes_per_element(self) -> tuple[int, int]:
        """Bytes that a run saves per element: the integer, and the bits lost in 8 doublings of its range."""
        return self.word.dtype.itemsize, int(self.word.spare < 8)

    def fresh(self) -> ExactState:
        """Return a new state of the same kind without remembered ranges."""
        return ExactState(len(self.largest), self.num_groups, self.word)

    def resize(self, num_layers: int) -> None:
        """Forget the ranges if the number of layers has changed."""
        if len(self.largest) != num_layers:
            self.largest = [math.nan] * num_layers

    def _slice(self, run: LayerRun) -> list[float]:
        return self.largest[run.first : run.first + len(run.layers)]

    def _exponents(self, run: LayerRun) -> tuple[int, ...]:
        """Return the finest exponent for every layer, such that a multiple of 8 bits is lost over the run."""
        needed = [math.frexp(value)[1] + self.word.headroom - self.word.limit for value in self._slice(run)]
        needed = [max(exponent, _FINEST) for exponent in accumulate(needed, max)]
        num_bytes = math.ceil(max(needed[-1] - needed[0] - self.word.spare, 0) / 8)
        return tuple(max(exponent, needed[-1] - 8 * num_bytes) for exponent in needed)

    def _measure(self, run: LayerRun, x: Tensor, tensors: Sequence[Tensor]) -> None:
        """Measure the range of every layer of the run in floating point, without changing the blocks' buffers."""
        state = _MeasuredFloat(x, self.num_groups)
        with recomputing(), unobserved():
            run.advance(state, tensors)
        found = self._per_layer(state.maxima, len(run.layers))
        for k, value in enumerate(found):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"layer {run.first + k} reads or adds a value that is not finite, which fixed point cannot hold; "
                    "look at the input and the block's parameters, or run state='float' to see it spread"
                )
        self._remember(run, found)

    def _in_values(self, form: FixedPoint, maxima: Maxima) -> list[float]:
        """Return `_per_layer` of a state whose maxima, all but the first, are in units of the layer's step."""
        scales = [2.0**exponent for exponent in form.exponents]
        return self._per_layer(maxima, len(scales), scales)

    def _per_layer(self, maxima: Maxima, num_layers: int, scales: Sequence[float] | None = None) -> list[float]:
        """Return the largest magnitude in each layer of a run: of its input, branch values and stream."""
        of_input, *magnitudes = maxima.read() or [0.0]
        each = len(magnitudes) // num_layers
        found = [_largest(magnitudes[k * each : (k + 1) * each]) for k in range(num_layers)]
        if scales is not None:
            found = [value * scale for value, scale in zip(found, scales, strict=True)]
        found[0] = _largest([of_input, found[0]])
        return found

    def _remember(self, run: LayerRun, found: Sequence[float]) -> None:
        for layer, value in enumerate(found, start=run.first):
            known = self.largest[layer]
            self.largest[layer] = value if math.isnan(known) else max(known, value)

    def _report(self, run: LayerRun, excess: int, old: int, new: int) -> None:
        self.rescales += 1
        _LOG.warning(
            "the fixed-point state outgrew its scale at layer %d: steps of 2^%d hold values below %.3g, and "
            "the largest is %.3g; this step was done again with steps of 2^%d",
            run.first + excess,
            old,
            2.0 ** (old + self.word.limit),
            self.largest[run.first + excess],
            new,
        )


def _any_rank(run: LayerRun, value: bool, device: torch.device) -> bool:
    """Whether a value is true on any rank of the group, whose ranks must repeat a run together."""
    group = group_of(block for blocks in run.layers for block in blocks)
    return value if group is None else bool(group.gather(torch.tensor([float(value)], device=device)).any())


def _largest(values: Sequence[float]) -> float:
    """Return the maximum; NaN if any value is."""
    return math.nan if any(math.isnan(value) for value in values) else max(values, default=0.0)
