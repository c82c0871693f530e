"""Optional methods of a model that the training loop calls in addition to its forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class LayerStack(Protocol):
    """A stack of layers in a model: its parts are sharded one by one, and all ranks share the range of its values."""

    def cut(self) -> Sequence[nn.Module]:
        """Evaluate each part by a module call from now on, and return these modules; empty if it cannot be divided."""
        ...

    def ranges(self) -> Tensor | None:
        """Return the largest magnitudes so far, [k] float64, negative if none was seen; ``None``: not tracked."""
        ...

    def widen(self, ranges: Tensor) -> None:
        """Raise the ranges to these magnitudes."""
        ...


@runtime_checkable
class ModelHooks(Protocol):
    """Optional methods of a model: begin an epoch, add to the loss, and report quantities of an epoch."""

    def begin_epoch(self, epoch: int) -> str | None:
        """Begin an epoch (counted from 1) and return the name of its phase, if the model has several phases.

        Returns: a word such as "unroll" or "solve"; ``None``: the model has no phases.
        """
        ...

    def auxiliary_loss(self, loss: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return, once, the auxiliary loss of the last training forward.

        Args:
            loss: the step's loss as a function of logits, one row for each row of the batch.
        """
        ...

    def observe(self) -> dict[str, float]:
        """Return quantities of this epoch's steps by name, for the curve and the progress bar."""
        ...
