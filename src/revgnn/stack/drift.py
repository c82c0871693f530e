"""How far rebuilt states are from the true ones: watched while training, or searched layer by layer.

Undoing an addition of floating-point numbers leaves a rounding error behind, and every layer on the way back magnifies
what it meets. A block that is no pure function leaves an error of another size, at its own layer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRIFT_LIMIT = 1e-4
"""Relative error of a rebuilt state from which on gradients are in doubt: BatchNorm blocks make ten to a hundred times
as much of it (docs/drift.md)."""


class DriftWarning(UserWarning):
    """A state was rebuilt so far from the true one that gradients are in doubt."""


class DriftMonitor:
    """Compares rebuilt inputs of runs with copies of the true ones, every so many steps.

    Args:
        every: steps between two comparisons; 0 makes none.
        limit: relative error from which on it warns.
    """

    def __init__(self, every: int = 0, limit: float = DRIFT_LIMIT) -> None:
        self.every, self.limit = every, limit
        self.steps = 0
        self.errors: dict[int, float] = {}
        """For every run, by its first layer, the relative error of its rebuilt input at the last comparison."""

    @property
    def error(self) -> float | None:
        """The largest relative error of the last comparison, over all runs; None before the first."""
        if not self.errors:
            return None
        values = list(self.errors.values())
        return math.nan if any(math.isnan(value) for value in values) else max(values)

    def step(self) -> DriftMonitor | None:
        """Count a step: the monitor itself if this one is to be compared."""
        is_due = self.every > 0 and self.steps % self.every == 0
        self.steps += 1
        if is_due:
            self.errors.clear()
        return self if is_due else None

    def compare(self, first: int, rebuilt: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        """Take down the relative error of the input of layer ``first``, and warn if it is above the limit."""
        error = relative_error(rebuilt, true)
        self.errors[first] = error
        if not error <= self.limit:
            warnings.warn(
                f"the input of layer {first} was rebuilt with a relative error of {error:.1e}, more than "
                f"{self.limit:.0e}: gradients are in doubt. Choose segments='auto' or more segments (an exact copy "
                "every few layers) or state='exact' (no error at all); if the error stays, a block is no pure function "
                "and check_inverse names its layer",
                DriftWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class InverseCheck:
    """What `check_inverse` found."""

    errors: tuple[float, ...]
    """For every layer, the relative error of its rebuilt input."""
    limit: float
    """What was allowed."""
    layer: int | None
    """The first layer, walking back from the last, whose rebuilt input deviates by more; None if none does."""

    @property
    def error(self) -> float:
        """The relative error at that layer; else the largest of all."""
        return max(self.errors, default=0.0) if self.layer is None else self.errors[self.layer]

    def __str__(self) -> str:
        if self.layer is None:
            return f"all {len(self.errors)} layers were rebuilt to a relative error of {self.error:.1e} or less"
        return (
            f"layer {self.layer} is the first, walking back, whose input was not rebuilt: relative error "
            f"{self.error:.1e}, allowed {self.limit:.0e}"
        )


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Euclidean norm of the difference over that of what was expected, in float64; 0 where nothing differs."""
    # Subtracted before it is widened: int64 has more digits than float64.
    difference = sum((f - e).double().square().sum() for f, e in zip(found, expected, strict=True))
    if not difference:
        return 0.0
    norm = sum(e.double().square().sum() for e in expected)
    return float(torch.as_tensor(difference / norm).sqrt())
