"""What a model may tell a training loop, and be told by it, beyond its forward."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ranged(Protocol):
    """A module whose steps depend on the range of the values that it has met, which ranks must therefore share."""

    def ranges(self) -> Tensor | None:
        """Give the largest magnitudes so far, [k] float64, below 0 where there is none; ``None``: it goes by none."""
        ...

    def widen(self, ranges: Tensor) -> None:
        """Go by larger ones from now on."""
        ...


@runtime_checkable
class ModelHooks(Protocol):
    """What a model may offer beyond its forward: to follow the epochs, add to the loss, and be watched."""

    def begin_epoch(self, epoch: int) -> None:
        """Be told which epoch (from 1) comes."""
        ...

    def auxiliary_loss(self) -> Tensor | None:
        """Hand over, once, what the last training forward adds to the loss."""
        ...

    def observe(self) -> dict[str, float]:
        """Give figures of the last step by name, for the curve and the progress."""
        ...
