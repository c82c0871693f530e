"""Residual and grouped additive couplings: one layer forward, and its inverse together with the gradient.

A coupling is written once against a *state* (the stream as C channel groups) and a function that evaluates the branch
of a group. `state.py` and `integer_state.py` define the states: autograd's tensors, a buffer updated in place, fixed
point.

Source: the paper, section 3 (grouped reversible layers); Gomez et al. 2017 for the two-group case.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from .state import State

Branch = Callable[[int, Tensor], Tensor | None]
"""``(group, input) -> f_group(input)``; None if the branch has added its value to the state itself."""

BranchWithVjp = Callable[[int, Tensor, Tensor], tuple[Tensor | None, Tensor | None]]
"""``(group, input, cotangent) -> (f_group(input), J^T cotangent)``; None for a value or gradient that the branch has
put in place itself, and for the gradient of a branch that ignores its input."""


class Coupling(ABC):
    """The rule by which a layer adds its branches to a state of ``num_groups`` parts."""

    num_groups: int

    @abstractmethod
    def forward(self, state: State, branch: Branch) -> None:
        """Advance the state by one layer."""

    @abstractmethod
    def backward(self, state: State, grads: list[Tensor], branch: BranchWithVjp) -> None:
        """Invert one layer: replace the state and the gradients of its output by those of its input, in place."""

    @abstractmethod
    def inputs(self, i: int) -> Sequence[int]:
        """Return the parts whose sum the branch of group i reads."""


class Residual(Coupling):
    """``x' = x + f(x)``: the plain residual layer. It has no inverse."""

    num_groups = 1

    def forward(self, state: State, branch: Branch) -> None:
        """Advance the state by one layer."""
        _add(state, 0, branch(0, state.read(0)))

    def backward(self, state: State, grads: list[Tensor], branch: BranchWithVjp) -> None:
        """Raise AssertionError: a residual layer has no inverse."""
        raise AssertionError("Stack rejects a reversible residual stack at construction")

    def inputs(self, i: int) -> Sequence[int]:
        """Return the single part."""
        return [0]


class GroupedAdditive(Coupling):
    """``x_0' = x_2 + ... + x_C;  x_i' = x_i + f_i(x_{i-1}')`` for i = 1..C: invertible for every f.

    ``x_0'`` excludes ``x_1``; otherwise inverting group 1 would need its own result.
    """

    def __init__(self, num_groups: int) -> None:
        self.num_groups = num_groups

    def forward(self, state: State, branch: Branch) -> None:
        """Advance the state by one layer, group after group."""
        for i in range(self.num_groups):
            _add(state, i, branch(i, self._input(state, i)))

    def backward(self, state: State, grads: list[Tensor], branch: BranchWithVjp) -> None:
        """Reconstruct the layer's input and its gradient with one evaluation of each branch, last group first.

        At group i, ``grads[i]`` is the complete gradient of x_i': the incoming one plus that through f_{i+1}. The
        branch's value reconstructs x_i; its graph propagates the gradient to x_{i-1}' and is then freed.
        """
        for i in reversed(range(self.num_groups)):
            value, grad = branch(i, self._input(state, i), grads[i])
            if value is not None:
                state.subtract(i, value)
            if grad is not None:
                for k in self.inputs(i):
                    grads[k] += grad

    def inputs(self, i: int) -> Sequence[int]:
        """Return the group before; for the first group, all others."""
        return [i - 1] if i else range(1, self.num_groups)

    @staticmethod
    def _input(state: State, i: int) -> Tensor:
        return state.read(i - 1) if i else state.sum_from(1)


def _add(state: State, i: int, value: Tensor | None) -> None:
    if value is not None:
        state.add(i, value)
