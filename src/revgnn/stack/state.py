"""What a stream of N x D is made of while a stack runs: C parts of N x D/C, read and added to part by part.

`StoredState` makes new tensors and leaves the rest to autograd; `FloatState` owns its parts and updates them in place.
A *form* says how a reversible run's state is opened from a stream, what of it is saved, and how that is opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class State(Protocol):
    """The stream between two layers."""

    tracks_autograd: bool
    """Whether autograd follows it: values must then come with their graphs."""

    def target(self, i: int) -> Tensor | None:
        """Part i itself, where values may be added to it from outside; ``None``: they are handed over to `add`."""
        ...

    def read(self, i: int) -> Tensor:
        """Part i as a branch sees it; the reader does not write to it."""
        ...

    def sum_from(self, start: int) -> Tensor:
        """The sum of the parts from ``start`` on."""
        ...

    def add(self, i: int, delta: Tensor) -> None:
        """Add a branch's value to part i."""
        ...

    def subtract(self, i: int, delta: Tensor) -> None:
        """Undo `add` of the same value."""
        ...

    def enter(self, layer: int) -> None:
        """Be told that the additions of a layer follow, counted from the first of the run."""
        ...

    def leave(self, layer: int) -> None:
        """Be told that the additions of a layer are all undone."""
        ...


class ReversibleState(State, Protocol):
    """A state that owns its parts and goes both ways."""

    parts: list[Tensor]

    def join(self) -> Tensor:
        """The whole stream, [..., D], in the dtype it came in."""
        ...


class Form(Protocol):
    """How a run's state is held."""

    def open(self, x: Tensor) -> ReversibleState:
        """A state with the values of ``x``."""
        ...

    def kept(self, state: Any, y: Tensor) -> list[Tensor]:
        """What must be saved to open the state again; ``y`` is the stream handed on."""
        ...

    def reopen(self, kept: Sequence[Tensor], *, copy: bool) -> ReversibleState:
        """The state that was saved; without ``copy`` in the very memory, which nobody must need any more."""
        ...


class StoredState:
    """Parts that autograd follows: every addition is a new tensor."""

    tracks_autograd = True

    def __init__(self, x: Tensor, num_groups: int) -> None:
        self.parts = list(x.chunk(num_groups, dim=-1))

    def target(self, i: int) -> Tensor | None:
        """Nothing is added in place."""
        return None

    def read(self, i: int) -> Tensor:
        """Part i."""
        return self.parts[i]

    def sum_from(self, start: int) -> Tensor:
        """The sum of the parts from ``start`` on."""
        return _sum(self.parts[start:])

    def add(self, i: int, delta: Tensor) -> None:
        """Add to part i, in the stream's dtype."""
        self.parts[i] = self.parts[i] + delta.to(self.parts[i].dtype)

    def subtract(self, i: int, delta: Tensor) -> None:
        """Subtract from part i, in the stream's dtype."""
        self.parts[i] = self.parts[i] - delta.to(self.parts[i].dtype)

    def enter(self, layer: int) -> None:
        """Every layer finds the same."""

    def leave(self, layer: int) -> None:
        """Every layer finds the same."""

    def join(self) -> Tensor:
        """The whole stream, [..., D]."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=-1)


class FloatState(StoredState):
    """Parts side by side in one tensor of its own, updated in place: the caller's is copied, never written to.

    Args:
        x: [..., D] stream.
        num_groups: C.
        copy: False takes ``x`` itself as that tensor; only for one that nobody else can see.
    """

    tracks_autograd = False

    def __init__(self, x: Tensor, num_groups: int, *, copy: bool = True) -> None:
        self.whole = x.clone(memory_format=torch.contiguous_format) if copy else x
        super().__init__(self.whole, num_groups)

    def target(self, i: int) -> Tensor | None:
        """Part i."""
        return self.parts[i]

    def add(self, i: int, delta: Tensor) -> None:
        """Add to part i in place."""
        self.parts[i] += delta

    def subtract(self, i: int, delta: Tensor) -> None:
        """Subtract from part i in place."""
        self.parts[i] -= delta

    def join(self) -> Tensor:
        """The state itself: whoever takes it on must be the last to change it."""
        return self.whole


@dataclass(frozen=True)
class FloatingPoint:
    """The stream as it is: what is saved is what is handed on, and undoing an addition leaves its rounding behind."""

    num_groups: int

    def open(self, x: Tensor) -> FloatState:
        """A state with the values of ``x``."""
        return FloatState(x, self.num_groups)

    def kept(self, state: FloatState, y: Tensor) -> list[Tensor]:
        """The output itself."""
        return [y]

    def reopen(self, kept: Sequence[Tensor], *, copy: bool) -> FloatState:
        """The output that was kept, or a copy of it."""
        return FloatState(kept[0], self.num_groups, copy=copy)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
