"""Processes that evaluate blocks together: what a block exchanges with the others in the middle of an evaluation.

A module whose evaluation communicates names its group in the attribute `rank_group`. All ranks of a group evaluate the
same modules equally often and in the same order, forward and backward. An evaluation that the others do not make, or
make another number of times (a trial, an iteration of a solver), is made `alone()`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_thread = threading.local()


class Exchange(Protocol):
    """What is used of torch's ProcessGroup."""

    def size(self) -> int:
        """The number of ranks."""
        ...

    def allgather(self, received: list[list[Tensor]], sent: list[Tensor], /) -> Any:
        """Begin to receive what every rank sends; the result is waited for by its ``wait``."""
        ...


class RankGroup:
    """Ranks that exchange small tensors. Copies and pickles of a module have none: ``None`` stands in its place.

    Args:
        exchange: a torch ProcessGroup of two ranks or more; ``None``: this rank stays by itself.
        is_lasting: whether the group was given to a module until further notice, not found for one evaluation.
    """

    def __init__(self, exchange: Exchange | None, *, is_lasting: bool = True) -> None:
        self.exchange, self.is_lasting = exchange, is_lasting
        self.counts = True
        """Whether this rank's rows count in sums over all of them; if not, it joins the exchanges with zeros."""

    def gather(self, own: Tensor) -> Tensor:
        """Give the tensors of all ranks, [W, ...]."""
        assert self.exchange is not None, "a rank by itself exchanges nothing"
        own = own.contiguous()
        found = [torch.empty_like(own) for _ in range(self.exchange.size())]
        self.exchange.allgather([found], [own]).wait()
        return torch.stack(found)

    def gather_counted(self, own: Tensor) -> Tensor:
        """Give the tensors of all ranks, [W, ...], with zeros for those whose rows do not count."""
        return self.gather(own if self.counts else torch.zeros_like(own))

    def __reduce__(self) -> tuple[Any, ...]:
        return _nobody, ()


def _nobody() -> None:
    """What is left of a group in a copy."""


def group_of(modules: Iterable[nn.Module]) -> RankGroup | None:
    """The group with which one of these modules, or one inside it, communicates; ``None``: none does."""
    if is_alone():
        return None
    groups = (getattr(part, "rank_group", None) for module in modules for part in module.modules())
    return next((group for group in groups if group is not None and group.exchange is not None), None)


def is_alone() -> bool:
    """Whether the current evaluation must not communicate."""
    return getattr(_thread, "depth", 0) > 0


@contextmanager
def alone() -> Iterator[None]:
    """Keep every evaluation inside from communicating."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
