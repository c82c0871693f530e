"""A group of ranks whose blocks exchange small tensors within an evaluation, such as BatchNorm statistics.

A module that communicates has its group in the attribute `rank_group`. All ranks of a group evaluate the same modules
equally often and in the same order, forward and backward. An evaluation that the other ranks do not make, or make a
different number of times (a trial, an iteration of a solver), runs inside `alone()`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .recomputing import between_turns

_thread = threading.local()


class Exchange(Protocol):
    """The methods used of torch's ProcessGroup."""

    def size(self) -> int:
        """The number of ranks."""
        ...

    def allgather(self, received: list[list[Tensor]], sent: list[Tensor], /) -> Any:
        """Start an all-gather; returns a handle with ``wait``."""
        ...


class RankGroup:
    """Ranks that exchange small tensors. A copy or pickle of a module has ``None`` instead of its group.

    Args:
        exchange: a torch ProcessGroup of two ranks or more; ``None``: this rank does not communicate.
        is_lasting: whether the module keeps the group; False: it was found for one evaluation.
    """

    def __init__(self, exchange: Exchange | None, *, is_lasting: bool = True) -> None:
        self.exchange, self.is_lasting = exchange, is_lasting
        self.counts = True
        """Whether this rank's rows enter the statistics; if not, it takes part in the exchanges with zeros."""

    def gather(self, own: Tensor) -> Tensor:
        """Gather the tensors of all ranks, [W, ...]."""
        assert self.exchange is not None, "a group without an exchange does not communicate"
        own = own.contiguous()
        found = [torch.empty_like(own) for _ in range(self.exchange.size())]
        with between_turns():
            self.exchange.allgather([found], [own]).wait()
        return torch.stack(found)

    def gather_counted(self, own: Tensor) -> Tensor:
        """Gather the tensors of all ranks, [W, ...], with zeros for ranks whose rows do not count."""
        return self.gather(own if self.counts else torch.zeros_like(own))

    def __reduce__(self) -> tuple[object, ...]:
        return _no_group, ()


def _no_group() -> None:
    """Replace the group in a copy or pickle of its module."""


def group_of(modules: Iterable[nn.Module]) -> RankGroup | None:
    """Return the group of one of these modules or their submodules; ``None``: none communicates."""
    if is_alone():
        return None
    groups = (getattr(part, "rank_group", None) for module in modules for part in module.modules())
    return next((group for group in groups if group is not None and group.exchange is not None), None)


def is_alone() -> bool:
    """Whether the current evaluation must not communicate."""
    return getattr(_thread, "depth", 0) > 0


@contextmanager
def alone() -> Iterator[None]:
    """Suppress communication of every evaluation inside the context."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
