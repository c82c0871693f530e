"""The state between layers: the [N, D] stream as C channel groups, recorded by autograd or updated in place.

`StoredState` makes new tensors, which autograd records; `FloatState` owns its memory and updates it in place, and so
does `DenseState`, part by part. A *form* is a reversible run's number format: it makes a state from a stream, and saves
and restores it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class State(ABC):
    """The stream between two layers, as C channel groups."""

    parts: list[Tensor]
    tracks_autograd: bool
    """Whether autograd records additions; branch values then need their graphs."""

    @abstractmethod
    def target(self, i: int) -> Tensor | None:
        """Return part i if a block may add to it in place; ``None``: values must be passed to `add`."""

    @abstractmethod
    def add(self, i: int, delta: Tensor) -> None:
        """Add a branch's value to part i."""

    @abstractmethod
    def subtract(self, i: int, delta: Tensor) -> None:
        """Undo `add` of the same value."""

    @abstractmethod
    def join(self) -> Tensor:
        """Return the stream, [..., D], in its original dtype."""

    def kept(self) -> list[Tensor]:
        """Return the tensors to save for `Form.reopen`."""
        return self.parts

    def columns(self) -> Sequence[Tensor]:
        """Return the stream in its original dtype as tensors [..., d] whose columns follow one another."""
        return [self.join()]

    def read(self, i: int) -> Tensor:
        """Return part i as a branch reads it; the branch does not write to it."""
        return self.parts[i]

    def sum_from(self, start: int) -> Tensor:
        """Return the sum of the parts from ``start`` on, as `read` returns them."""
        total = self.read(start)
        for i in range(start + 1, len(self.parts)):
            total = total + self.read(i)
        return total

    def enter(self, layer: int) -> None:  # noqa: B027 - most formats do nothing
        """Prepare for the additions of a layer, counted from the first of the run."""

    def leave(self, layer: int) -> None:  # noqa: B027 - most formats do nothing
        """Return to the format of the layer before, once the additions of a layer are undone."""


class Form(ABC):
    """The number format of a reversible run's state."""

    @abstractmethod
    def open(self, x: Tensor) -> State:
        """Make a state from the stream ``x``."""

    @abstractmethod
    def reopen(self, kept: Sequence[Tensor], *, copy: bool) -> State:
        """Restore the saved state; without ``copy`` in the saved memory, which must have no other user."""


class StoredState(State):
    """A state recorded by autograd: every addition makes a new tensor."""

    tracks_autograd = True

    def __init__(self, x: Tensor, num_groups: int) -> None:
        # By rows, as the copy of `FloatState`: blocks that draw random numbers see the same memory.
        self.parts = list(x.contiguous().chunk(num_groups, dim=-1))

    def target(self, i: int) -> Tensor | None:
        """None: nothing is added in place."""
        return None

    def add(self, i: int, delta: Tensor) -> None:
        """Add to part i, in the stream's dtype."""
        self.parts[i] = self.parts[i] + delta.to(self.parts[i].dtype)

    def subtract(self, i: int, delta: Tensor) -> None:
        """Subtract from part i, in the stream's dtype."""
        self.parts[i] = self.parts[i] - delta.to(self.parts[i].dtype)

    def join(self) -> Tensor:
        """Return the stream, [..., D]."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=-1)


class FloatState(StoredState):
    """A state whose parts are views of one tensor, updated in place; the caller's tensor is copied.

    Args:
        x: [..., D] stream.
        num_groups: C.
        copy: False updates ``x`` itself; only for a tensor without another reference.
    """

    tracks_autograd = False

    def __init__(self, x: Tensor, num_groups: int, *, copy: bool = True) -> None:
        self.stream = x.clone(memory_format=torch.contiguous_format) if copy else x
        super().__init__(self.stream, num_groups)

    def target(self, i: int) -> Tensor | None:
        """Return part i."""
        return self.parts[i]

    def add(self, i: int, delta: Tensor) -> None:
        """Add to part i in place."""
        self.parts[i] += delta

    def subtract(self, i: int, delta: Tensor) -> None:
        """Subtract from part i in place."""
        self.parts[i] -= delta

    def join(self) -> Tensor:
        """Return the state's own tensor, not a copy: later additions would change it."""
        return self.stream


class DenseState(FloatState):
    """A `FloatState` whose parts are dense: a processor that reads half of each row of a stream fetches much of the
    other half too.

    Args:
        stream: [C, ..., D/C], the parts one after another; updated in place.
    """

    def __init__(self, stream: Tensor) -> None:
        self.stream, self.parts = stream, list(stream.unbind(0))

    @classmethod
    def of(cls, x: Tensor, num_groups: int) -> DenseState:
        """Copy a stream [..., D]."""
        state = cls(x.new_empty(num_groups, *x.shape[:-1], x.size(-1) // num_groups))
        for part, columns in zip(state.parts, x.chunk(num_groups, dim=-1), strict=True):
            part.copy_(columns)
        return state

    def join(self, memory: Tensor | None = None) -> Tensor:
        """Return the stream [..., D] in new memory, or in that of another dense tensor, which is then lost."""
        if memory is None:
            return StoredState.join(self)
        shape = *self.parts[0].shape[:-1], len(self.parts) * self.parts[0].size(-1)
        return torch.cat(self.parts, dim=-1, out=memory.view(shape))

    def kept(self) -> list[Tensor]:
        """Return the memory of all parts."""
        return [self.stream]

    def columns(self) -> Sequence[Tensor]:
        """Return the parts."""
        return self.parts


@dataclass(frozen=True)
class FloatingPoint(Form):
    """The stream's own dtype: undoing an addition leaves a rounding error."""

    num_groups: int

    def open(self, x: Tensor) -> DenseState:
        """Make a state from a copy of ``x``."""
        return DenseState.of(x, self.num_groups)

    def reopen(self, kept: Sequence[Tensor], *, copy: bool) -> DenseState:
        """Restore the state in the saved memory, or in a copy of it."""
        return DenseState(kept[0].clone() if copy else kept[0])
