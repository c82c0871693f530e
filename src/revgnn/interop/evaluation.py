"""One layer's call that can be repeated with the same bits, whatever module is inside: a pure function of any block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..stack.couplings import GroupedAdditive
from ..stack.gradients import pull_back
from ..stack.layer_run import Autocast, Gradients
from ..stack.recompute import Recompute, View, version_of
from ..stack.state import FloatState, StoredState
from .arguments import Arguments


class LayerCall:
    """One evaluation of a layer of C blocks, to be repeated forwards or backwards.

    Args:
        blocks: the layer's modules, one per group.
        arguments: all that they are called with besides x.
        autocast: under which they are evaluated.
        device: of x.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], arguments: Arguments, autocast: Autocast, device: torch.device
    ) -> None:
        self.blocks = blocks
        self.coupling = GroupedAdditive(len(blocks))
        self.arguments = arguments.detached()
        self.autocast = autocast
        self.needed: Sequence[bool] = ()
        """Of the arguments' tensors and the parameters, in this order, which need gradients."""
        self._recompute = Recompute({block: View(block) for block in blocks}, device)
        self._watched = _HookedLayer([*self.arguments.tensors, *self.parameters])
        self._sums: Gradients | None = None

    @property
    def parameters(self) -> list[Tensor]:
        """Of all blocks, each once."""
        return self._recompute.parameters

    @property
    def dim(self) -> int:
        """The split dimension, counted from the last."""
        return self.arguments.dim

    def cut(self, x: Tensor) -> FloatState:
        """A state of its own from the stream; the split dimension comes last in it."""
        return FloatState(x.movedim(self.dim, -1), self.coupling.num_groups)

    def join(self, state: FloatState) -> Tensor:
        """The stream of a state, which is at its end: its memory, where the channels come last."""
        return state.whole if self.dim == -1 else joined(state, self.dim)

    def is_unchanged(self) -> bool:
        """Whether parameters, arguments and buffers are what they were in the first evaluation."""
        return self._watched.are_unchanged() and all(
            self._recompute.is_unchanged(i) for i in range(self.coupling.num_groups)
        )

    def first(self, state: FloatState) -> None:
        """Take a state through the layer for the first time."""

        def evaluate(i: int, x: Tensor) -> Tensor:
            version = x._version
            block, (args, kwargs) = self.blocks[i], self._arguments_of(i, self.arguments.tensors)
            value = self._recompute.first(
                i, block, None, lambda: evaluated(lambda z: block(z, *args, **kwargs), x, self.dim), keep=True
            )
            if x._version != version:
                raise RuntimeError(
                    f"the block of group {i} writes to its input, which is part of the stream; "
                    "make its first operation one that returns a new tensor (inplace=False)"
                )
            return value

        with torch.no_grad(), self.autocast():
            self.coupling.forward(state, evaluate)

    def again(self, state: FloatState) -> None:
        """Take a state through the layer once more."""
        with torch.no_grad():
            self.coupling.forward(state, self._repeated_alone)

    def inverse(self, state: FloatState) -> None:
        """Take a state back to the layer's input."""
        none = [state.parts[0]] * self.coupling.num_groups
        with torch.no_grad():
            self.coupling.backward(state, none, lambda i, x, _: (self._repeated_alone(i, x), None))

    def prepare(self) -> None:
        """Make the memory for the gradients that `reverse` will give, unless it is there."""
        if self._sums is None:
            self._sums = Gradients(self.arguments.tensors, self.parameters, self.needed)

    def reverse(self, state: FloatState, grads: list[Tensor]) -> list[Tensor | None]:
        """Take a state back to the layer's input, and the gradients of its parts with it: one evaluation per block.

        Args:
            state: after the layer; before it on return.
            grads: of the state's parts; changed in place.
        Returns: the gradients of the arguments' tensors and of the parameters.
        """
        self.prepare()
        sums, self._sums = self._sums, None
        assert sums is not None, "it was prepared"
        self._recompute.bind(self.parameters, self.needed[len(self.arguments.tensors) :])

        def visit(i: int, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
            return self._visit(i, x, cotangent, sums)

        self.coupling.backward(state, grads, visit)
        return sums.results()

    def _visit(self, i: int, x: Tensor, cotangent: Tensor, sums: Gradients) -> tuple[Tensor, Tensor | None]:
        """Evaluate a block once with grad: its value, and its vector-Jacobian product with ``cotangent``."""
        tensors = list(self.arguments.tensors)
        places = [k for k, need in enumerate(sums.context.needed) if need]
        for k in places:
            tensors[k] = tensors[k].detach().requires_grad_()
        leaf = x.detach().requires_grad_()
        with self._recompute.again(i, self.blocks[i], None):
            parameters = self._recompute.leaves()
            with torch.enable_grad():
                value = self._repeated(i, leaf, tensors)
            if not value.requires_grad:
                return value, None
            # A copy of its own: autograd may hand the cotangent itself on as a gradient, and the coupling adds to it.
            grads = pull_back(
                value,
                cotangent.to(value.dtype, copy=True),
                [leaf, *(tensors[k] for k in places), *parameters.values()],
            )
        for k, grad in zip(places, grads[1 : 1 + len(places)], strict=True):
            sums.context.add(k, grad)
        for k, grad in zip(parameters, grads[1 + len(places) :], strict=True):
            sums.parameters.add(k, grad)
        return value.detach(), grads[0]

    def _repeated_alone(self, i: int, x: Tensor) -> Tensor:
        with self._recompute.again(i, self.blocks[i], None):
            return self._repeated(i, x, self.arguments.tensors)

    def _repeated(self, i: int, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Evaluate a block inside of `Recompute.again`."""
        args, kwargs = self._arguments_of(i, tensors)
        with self.autocast():
            return evaluated(lambda z: self.blocks[i](z, *args, **kwargs), x, self.dim)

    def _arguments_of(self, i: int, tensors: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        return self.arguments.of_group(i, self.coupling.num_groups, tensors)


def joined(state: StoredState, dim: int) -> Tensor:
    """The stream of a state whose parts have the split dimension last; never a view, so that it may be written to."""
    return torch.cat([part.movedim(-1, dim) for part in state.parts], dim=dim)


def evaluated(block: Callable[[Tensor], Any], x: Tensor, dim: int) -> Tensor:
    """Evaluate a block on a part of the stream whose split dimension stands last, and check what it gives."""
    part = x.movedim(-1, dim)
    value = block(part)
    if not isinstance(value, Tensor):
        raise TypeError(f"a block must return one tensor, got {type(value).__name__}; unpack it inside the block")
    if value.shape != part.shape:
        raise ValueError(
            f"a block must keep the shape of its input: got {list(value.shape)} from {list(part.shape)}; "
            "make it for channels / num_groups channels, in and out"
        )
    return value.movedim(dim, -1)


class _HookedLayer:
    """Tensors whose change in place is to be noticed."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = [(tensor, version_of(tensor)) for tensor in tensors]

    def are_unchanged(self) -> bool:
        return all(version_of(tensor) == version for tensor, version in self._tensors)
