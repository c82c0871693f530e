"""How a layer's branches join the stream: one layer forward, and its inverse with the gradient in the same visit.

A coupling is written once against a *state* (the stream, cut into groups of channels) and a way to evaluate the
branch of
a group; what the state is made of (autograd's tensors, a buffer updated in place, fixed point) is `state.py`'s
business.

Source: the paper, section 3 (grouped reversible layers); Gomez et al. 2017 for the two-group case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from .state import State

Branch = Callable[[int, Tensor], Tensor | None]
"""``(group, input) -> f_group(input)``; None where the branch has added its value itself."""

BranchWithVjp = Callable[[int, Tensor, Tensor], tuple[Tensor | None, Tensor | None]]
"""``(group, input, cotangent) -> (f_group(input), J^T cotangent)``; None for what the branch has subtracted or added
itself, or for a gradient where it ignores its input."""


class Coupling(Protocol):
    """One layer's way of adding branches to a state of ``num_groups`` parts."""

    num_groups: int
    invertible: bool

    def forward(self, state: State, branch: Branch) -> None:
        """Advance the state by one layer."""
        ...

    def backward(self, state: State, grads: list[Tensor], branch: BranchWithVjp) -> None:
        """Take the state back by one layer and turn the gradients of its output into those of its input, in place."""
        ...

    def inputs(self, i: int) -> Sequence[int]:
        """The parts whose sum the branch of group i reads."""
        ...


class Residual:
    """``x' = x + f(x)``: the plain residual layer. It has no inverse."""

    num_groups = 1
    invertible = False

    def forward(self, state: State, branch: Branch) -> None:
        """Advance the state by one layer."""
        _add(state, 0, branch(0, state.read(0)))

    def backward(self, state: State, grads: list[Tensor], branch: BranchWithVjp) -> None:
        """Refuse: a residual layer cannot be rebuilt from its output."""
        raise AssertionError("Stack refuses to reverse a residual layer when it is built")

    def inputs(self, i: int) -> Sequence[int]:
        """The one part there is."""
        return [0]


class GroupedAdditive:
    """``x_0' = x_2 + ... + x_C;  x_i' = x_i + f_i(x_{i-1}')`` for i = 1..C: invertible for every f.

    ``x_1`` is left out of ``x_0'``; with it the inverse would need itself.
    """

    invertible = True

    def __init__(self, num_groups: int) -> None:
        self.num_groups = num_groups

    def forward(self, state: State, branch: Branch) -> None:
        """Advance the state by one layer, group after group."""
        for i in range(self.num_groups):
            _add(state, i, branch(i, self._input(state, i)))

    def backward(self, state: State, grads: list[Tensor], branch: BranchWithVjp) -> None:
        """Rebuild the layer's input and its gradient with one evaluation of each branch, the last group first.

        When group i's turn comes, ``grads[i]`` is the whole gradient of x_i': what came in plus the share of f_{i+1}.
        The branch's value rebuilds x_i, its graph carries the gradient on to x_{i-1}'; then that graph is gone.
        """
        for i in reversed(range(self.num_groups)):
            value, grad = branch(i, self._input(state, i), grads[i])
            if value is not None:
                state.subtract(i, value)
            if grad is not None:
                for k in self.inputs(i):
                    grads[k] += grad

    def inputs(self, i: int) -> Sequence[int]:
        """Its neighbour; of the first group, all others."""
        return [i - 1] if i else range(1, self.num_groups)

    @staticmethod
    def _input(state: State, i: int) -> Tensor:
        return state.read(i - 1) if i else state.sum_from(1)


def _add(state: State, i: int, value: Tensor | None) -> None:
    if value is not None:
        state.add(i, value)
