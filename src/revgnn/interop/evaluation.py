"""One call of a reversible layer, which can be repeated bit for bit or inverted, for blocks of any module"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..malloc import CachedBlocks
from ..stack.conditions import View, version_of
from ..stack.context import Autocast
from ..stack.couplings import GroupedAdditive
from ..stack.fused import is_anything_watched, unobserved
from ..stack.gradients import Gradients, pull_back
from ..stack.recompute import Recompute
from ..stack.repeatable import Checked, check_closed, check_repeats, check_unwritten, check_width
from ..stack.state import FloatState, StoredState
from .arguments import Arguments


class LayerCall:
    """One evaluation of a layer of C blocks, which can be repeated, inverted and differentiated.

    Args:
        blocks: the layer's modules, one per group.
        arguments: the arguments of the call after x.
        autocast: the autocast state of the evaluation.
        device: the device of x.
        checked: the blocks that are known to repeat their values.
        cached: malloc's cache of small blocks, withheld from what lives on with the call.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        arguments: Arguments,
        autocast: Autocast,
        device: torch.device,
        checked: Checked,
        cached: CachedBlocks,
    ) -> None:
        self.blocks, self.cached = blocks, cached
        self._checked = checked
        self.coupling = GroupedAdditive(len(blocks))
        self.arguments = arguments.detached()
        self.autocast = autocast
        self.needed: Sequence[bool] = ()
        """Whether each of the arguments' tensors and the parameters, in this order, requires a gradient."""
        self._views = {block: View(block) for block in blocks}
        self._recompute = Recompute(self._views, device)
        self._versions = [(tensor, version_of(tensor)) for tensor in (*self.arguments.tensors, *self.parameters)]
        self._sums: Gradients | None = None
        self._output: Tensor | None = None

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all blocks, each once."""
        return self._recompute.parameters

    @property
    def dim(self) -> int:
        """The split dimension, counted from the last."""
        return self.arguments.dim

    def open(self, x: Tensor) -> FloatState:
        """Make a state from a copy of the stream, with the split dimension last."""
        return FloatState(x.movedim(self.dim, -1), self.coupling.num_groups)

    def join(self, state: FloatState) -> Tensor:
        """The stream of a state, which is at its end: its memory, where the channels come last."""
        return state.stream if self.dim == -1 else joined(state, self.dim)

    def is_unchanged(self) -> bool:
        """Whether parameters, arguments and buffers are unchanged since the first evaluation."""
        return all(version_of(tensor) == version for tensor, version in self._versions) and all(
            self._recompute.is_unchanged(i) for i in range(self.coupling.num_groups)
        )

    def advance(self, x: Tensor) -> None:
        """Evaluate the layer for the first time; `take_output` gives the result."""
        with torch.no_grad(), self.cached.given_back():
            state = self.open(x)
            self._first(state)
            self._output = self.join(state)

    def take_output(self) -> Tensor:
        """Return what `advance` computed, once."""
        found, self._output = self._output, None
        assert found is not None, "advance computes it"
        return found

    def _first(self, state: FloatState) -> None:

        def evaluate(i: int, x: Tensor) -> Tensor:
            block, (args, kwargs) = self.blocks[i], self._arguments_of(i, self.arguments.tensors)
            x = self._own(i, x)
            version = version_of(x)
            value = self._recompute.first(
                i, block, None, lambda: evaluated(lambda z: block(z, *args, **kwargs), x, self.dim), keep=True
            )
            check_unwritten(x, version, f"the block of group {i}")
            if block not in self._checked.repeats:
                with unobserved():
                    check_repeats(value, self._repeat(i, x), f"group {i}: {type(block).__name__}")
                self._checked.repeats.add(block)
            return value

        with torch.no_grad(), self.autocast():
            self.coupling.forward(state, evaluate)

    def again(self, state: FloatState) -> None:
        """Advance a state by the layer as in the first evaluation."""
        with torch.no_grad():
            self.coupling.forward(state, self._repeat)

    def inverse(self, state: FloatState) -> None:
        """Invert the layer: replace the state by that of the layer's input."""
        unused = [state.parts[0]] * self.coupling.num_groups
        with torch.no_grad():
            self.coupling.backward(state, unused, lambda i, x, _: (self._repeat(i, x), None))

    def prepare(self) -> None:
        """Allocate the gradients of `reverse`, unless they are allocated."""
        if self._sums is None:
            self._sums = Gradients(self.arguments.tensors, self.parameters, self.needed)

    def reverse(self, state: FloatState, grads: list[Tensor]) -> list[Tensor | None]:
        """Invert the layer and differentiate it, with one evaluation per block.

        Args:
            state: the state after the layer; on return that before it.
            grads: the gradients of the state's parts; changed in place.
        Returns: the gradients of the arguments' tensors and of the parameters.
        """
        self.prepare()
        sums, self._sums = self._sums, None
        assert sums is not None, "prepare allocates it"
        self._recompute.bind(self.parameters, self.needed[len(self.arguments.tensors) :])
        self.coupling.backward(state, grads, lambda i, x, cotangent: self._value_and_grad(i, x, cotangent, sums))
        return sums.results()

    def _value_and_grad(self, i: int, x: Tensor, cotangent: Tensor, sums: Gradients) -> tuple[Tensor, Tensor | None]:
        """Evaluate a block once with autograd; return its value and its vector-Jacobian product with ``cotangent``."""
        tensors = list(self.arguments.tensors)
        places = [k for k, need in enumerate(sums.context.needed) if need]
        for k in places:
            tensors[k] = tensors[k].detach().requires_grad_()
        leaf = self._own(i, x).detach().requires_grad_()
        with self._recompute.again(i, self.blocks[i], None):
            parameters = self._recompute.leaves()
            with torch.enable_grad():
                value = self._evaluate(i, leaf, tensors)
            if not value.requires_grad:
                return value, None
            wanted = [leaf, *(tensors[k] for k in places), *parameters.values()]
            check_closed(value, wanted, type(self.blocks[i]).__name__)
            # Copied, because autograd may return the cotangent itself as a gradient, and the coupling adds to it.
            grads = pull_back(value, cotangent.to(value.dtype, copy=True), wanted)
        for k, grad in zip(places, grads[1 : 1 + len(places)], strict=True):
            sums.context.add(k, grad)
        for k, grad in zip(parameters, grads[1 + len(places) :], strict=True):
            sums.parameters.add(k, grad)
        return value.detach(), grads[0]

    def _repeat(self, i: int, x: Tensor) -> Tensor:
        with self._recompute.again(i, self.blocks[i], None):
            return self._evaluate(i, self._own(i, x), self.arguments.tensors)

    def _own(self, i: int, x: Tensor) -> Tensor:
        return self._views[self.blocks[i]].own(x, is_watched=is_anything_watched())

    def _evaluate(self, i: int, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Evaluate a block; call it inside `Recompute.again`."""
        args, kwargs = self._arguments_of(i, tensors)
        with self.autocast():
            return evaluated(lambda z: self.blocks[i](z, *args, **kwargs), x, self.dim)

    def _arguments_of(self, i: int, tensors: Sequence[Tensor]) -> tuple[list[object], dict[str, object]]:
        return self.arguments.of_group(i, self.coupling.num_groups, tensors)


def joined(state: StoredState, dim: int) -> Tensor:
    """Return the stream of a state whose parts have the split dimension last, in new memory."""
    return torch.cat([part.movedim(-1, dim) for part in state.parts], dim=dim)


def evaluated(block: Callable[[Tensor], object], x: Tensor, dim: int) -> Tensor:
    """Evaluate a block on a part of the stream whose split dimension is last, and check its output.

    Raises: TypeError: the output is not one tensor. ValueError: it has another shape than the input.
    """
    part = x.movedim(-1, dim)
    value = check_width(block(part), part, "make it for channels / num_groups channels, in and out")
    return value.movedim(dim, -1)
