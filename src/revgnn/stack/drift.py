"""Measure the drift of reconstructed states from the true ones, during training or layer by layer.

Undoing a floating-point addition leaves a rounding error, and every earlier layer amplifies it. A block that is not a
pure function leaves a far larger error at its own layer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRIFT_LIMIT = 1e-4
"""Relative error of a reconstructed state above which gradients are in doubt: in BatchNorm blocks the error of the
gradient is ten to a hundred times as large (docs/drift.md).

Examples:
    >>> from revgnn.stack import DRIFT_LIMIT
    >>> DRIFT_LIMIT
    0.0001
"""


class DriftWarning(UserWarning):
    """A reconstructed state deviates from the true one so far that gradients are in doubt.

    Examples:
        >>> import warnings
        >>> from revgnn.stack import DriftWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", DriftWarning)  # a drifting training run now ends with an error
    """


class DriftMonitor:
    """Compares reconstructed inputs of runs with copies of the true ones every few steps.

    Args:
        every: steps between two comparisons; 0: none.
        limit: relative error above which it warns.
    """

    def __init__(self, every: int = 0, limit: float = DRIFT_LIMIT) -> None:
        self.every, self.limit = every, limit
        self.steps = 0
        self.errors: dict[int, float] = {}
        """Relative error of each run's reconstructed input at the last comparison, keyed by the run's first layer."""

    @property
    def error(self) -> float | None:
        """The largest relative error of the last comparison, over all runs; None before the first."""
        if not self.errors:
            return None
        values = list(self.errors.values())
        return math.nan if any(math.isnan(value) for value in values) else max(values)

    def step(self) -> DriftMonitor | None:
        """Count a step; return the monitor if this step is to be compared, else None."""
        is_due = self.every > 0 and self.steps % self.every == 0
        self.steps += 1
        if is_due:
            self.errors.clear()
        return self if is_due else None

    def compare(self, first: int, reconstructed: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        """Record the relative error of the input of layer ``first``, and warn if it is above the limit."""
        error = relative_error(reconstructed, true)
        self.errors[first] = error
        if not error <= self.limit:
            warnings.warn(
                f"the input of layer {first} was reconstructed with a relative error of {error:.1e}, more than "
                f"{self.limit:.0e}: gradients are in doubt. Choose segments='auto' or more segments (an exact copy "
                "every few layers) or state='exact' (no error at all); if the error stays, a block is not a pure "
                "function and check_inverse names its layer",
                DriftWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class InverseCheck:
    """The result of `check_inverse`.

    Examples:
        >>> from revgnn.stack import InverseCheck
        >>> found = InverseCheck(errors=(0.0, 2e-3, 1e-7), limit=1e-4, layer=1)
        >>> print(found)
        layer 1 is the first, walking back, whose input was not reconstructed: relative error 2.0e-03, allowed 1e-04
    """

    errors: tuple[float, ...]
    """For every layer, the relative error of its reconstructed input."""
    limit: float
    """The allowed relative error."""
    layer: int | None
    """The first layer, in backward order, whose error exceeds the limit; None if none does."""

    @property
    def error(self) -> float:
        """The relative error at `layer`, or the largest error where `layer` is None."""
        return max(self.errors, default=0.0) if self.layer is None else self.errors[self.layer]

    def __str__(self) -> str:
        if self.layer is None:
            return f"all {len(self.errors)} layers were reconstructed to a relative error of {self.error:.1e} or less"
        return (
            f"layer {self.layer} is the first, walking back, whose input was not reconstructed: relative error "
            f"{self.error:.1e}, allowed {self.limit:.0e}"
        )


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return ``||found - expected|| / ||expected||`` in float64; 0 where they are equal."""
    # Subtract first, then convert: int64 has more digits than float64.
    difference = sum((f - e).double().square().sum() for f, e in zip(found, expected, strict=True))
    if not difference:
        return 0.0
    norm = sum(e.double().square().sum() for e in expected)
    return float(torch.as_tensor(difference / norm).sqrt())
