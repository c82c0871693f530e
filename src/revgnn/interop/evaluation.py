"""One layer's call that can be repeated with the same bits, whatever module is inside: a pure function of any block.

The first evaluation notes what it depended on besides its arguments: the random state where it drew numbers, buffers
that it changed, autocast, and whether it was training. A repetition restores these around itself alone, so that random
numbers, buffers and flags that the caller can see move once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import get_device_states, set_device_states

from ..stack.couplings import GroupedAdditive
from ..stack.purity import rebuilding
from ..stack.run import Autocast
from ..stack.state import FloatState, StoredState
from .arguments import Arguments


class Gradients(NamedTuple):
    """What one layer's backward gives, besides the gradient of x."""

    tensors: list[Tensor | None]
    """For every tensor among the arguments."""
    parameters: list[Tensor | None]
    """For every trainable parameter of the layer."""


class LayerCall:
    """One evaluation of a layer of C blocks, to be repeated forwards or backwards.

    Args:
        blocks: the layer's modules, one per group.
        arguments: all that they are called with besides x.
        autocast: under which they are evaluated.
    """

    def __init__(self, blocks: Sequence[nn.Module], arguments: Arguments, autocast: Autocast) -> None:
        self.blocks = blocks
        self.coupling = GroupedAdditive(len(blocks))
        self.arguments = arguments.detached()
        self.autocast = autocast
        self.parameters = trainable(blocks)
        self._conditions: list[_Conditions] = []
        self._watched = _Watched([*self.arguments.tensors, *(p for block in blocks for p in block.parameters())])

    @property
    def dim(self) -> int:
        """The split dimension, counted from the last."""
        return self.arguments.dim

    def cut(self, x: Tensor) -> FloatState:
        """A state of its own from the stream; the split dimension comes last in it."""
        return FloatState(x.movedim(self.dim, -1), self.coupling.num_groups)

    def join(self, state: FloatState) -> Tensor:
        """The stream of a state, with memory of its own."""
        return joined(state, self.dim)

    def is_unchanged(self) -> bool:
        """Whether parameters, arguments and buffers are what they were in the first evaluation."""
        return self._watched.are_unchanged() and all(c.buffers_are_unchanged() for c in self._conditions)

    def first(self, state: FloatState) -> None:
        """Take a state through the layer for the first time."""

        def evaluate(i: int, x: Tensor) -> Tensor:
            args, kwargs = self._arguments_of(i, self.arguments.tensors)
            conditions = _Conditions(self.blocks[i], x)
            version = x._version
            value = self._evaluated(x, lambda z: self.blocks[i](z, *args, **kwargs))
            if x._version != version:
                raise RuntimeError(
                    f"the block of group {i} writes to its input, which is part of the stream; "
                    "make its first operation one that returns a new tensor (inplace=False)"
                )
            conditions.note_changes()
            self._conditions.append(conditions)
            return value

        with torch.no_grad(), self.autocast():
            self.coupling.forward(state, evaluate)

    def again(self, state: FloatState) -> None:
        """Take a state through the layer once more."""
        with torch.no_grad():
            self.coupling.forward(state, lambda i, x: self._repeated(i, x, self.arguments.tensors))

    def inverse(self, state: FloatState) -> None:
        """Take a state back to the layer's input."""
        none = [state.parts[0]] * self.coupling.num_groups
        with torch.no_grad():
            self.coupling.backward(state, none, lambda i, x, _: (self._repeated(i, x, self.arguments.tensors), None))

    def reverse(self, state: FloatState, grads: list[Tensor], needed: Sequence[bool]) -> Gradients:
        """Take a state back to the layer's input, and the gradients of its parts with it: one evaluation per block.

        Args:
            state: after the layer; before it on return.
            grads: of the state's parts; changed in place.
            needed: for every tensor among the arguments, whether it needs a gradient.
        """
        sums = Gradients([None] * len(self.arguments.tensors), [None] * len(self.parameters))

        def visit(i: int, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
            return self._visit(i, x, cotangent, needed, sums)

        self.coupling.backward(state, grads, visit)
        return sums

    def _visit(
        self, i: int, x: Tensor, cotangent: Tensor, needed: Sequence[bool], sums: Gradients
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate a block once with grad: its value, and its vector-Jacobian product with ``cotangent``."""
        tensors = list(self.arguments.tensors)
        places = [k for k, need in enumerate(needed) if need]
        for k in places:
            tensors[k] = tensors[k].detach().requires_grad_()
        # One that was frozen since has no gradient any more.
        parameters = [(k, p) for k, p in enumerate(self.parameters) if p.requires_grad]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self._repeated(i, leaf, tensors)
        if not value.requires_grad:
            return value, None
        wanted = [leaf, *(tensors[k] for k in places), *(p for _, p in parameters)]
        # A copy of its own: autograd may hand the cotangent itself on as a gradient, and the coupling adds to it.
        grads = torch.autograd.grad(value, wanted, cotangent.to(value.dtype, copy=True), allow_unused=True)
        for k, grad in zip(places, grads[1 : 1 + len(places)], strict=True):
            sums.tensors[k] = _sum(sums.tensors[k], grad)
        for (k, _), grad in zip(parameters, grads[1 + len(places) :], strict=True):
            sums.parameters[k] = _sum(sums.parameters[k], grad)
        return value.detach(), grads[0]

    def _repeated(self, i: int, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        args, kwargs = self._arguments_of(i, tensors)
        with self._conditions[i].restored() as call, self.autocast():
            return self._evaluated(x, lambda z: call(z, *args, **kwargs))

    def _arguments_of(self, i: int, tensors: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        return self.arguments.of_group(i, self.coupling.num_groups, tensors)

    def _evaluated(self, x: Tensor, block: Callable[[Tensor], Any]) -> Tensor:
        return evaluated(block, x, self.dim)


def trainable(blocks: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters of some modules that need gradients, each once."""
    unique = {parameter: None for block in blocks for parameter in block.parameters()}
    return [parameter for parameter in unique if parameter.requires_grad]


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


_SMALL = 4096  # elements


class _Conditions:
    """What one evaluation of a block depends on besides its arguments and parameters.

    Args:
        block: about to be evaluated.
        x: on whose device it may draw random numbers.
    """

    def __init__(self, block: nn.Module, x: Tensor) -> None:
        self._block = block
        self._training = [module.training for module in block.modules()]
        self._random: _RandomState | None = _RandomState(x)
        # Copied now: batch norm writes to its statistics without counting it as a change.
        self._copies = {name: buffer.clone() for name, buffer in block.named_buffers()}
        self._unchanged = _Watched([])

    def note_changes(self) -> None:
        """Keep what a repetition needs: the random state if numbers were drawn, small buffers, and those that moved."""
        if self._random is not None and self._random.is_current():
            self._random = None
        unchanged = []
        for name, buffer in self._block.named_buffers():
            # Comparing waits for the device; a few numbers are cheaper kept.
            if name in self._copies and buffer.numel() > _SMALL and torch.equal(buffer, self._copies[name]):
                del self._copies[name]
                unchanged.append(buffer)
        self._unchanged = _Watched(unchanged)

    def buffers_are_unchanged(self) -> bool:
        """Whether the buffers of which no copy was kept are as they were."""
        return self._unchanged.are_unchanged()

    @contextmanager
    def restored(self) -> Iterator[Callable[..., Any]]:
        """Give the block as it was; on leaving, everything is again as it is now."""

        def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self._copies:
                return self._block(x, *args, **kwargs)
            copies = {name: buffer.clone() for name, buffer in self._copies.items()}
            return functional_call(self._block, copies, (x, *args), kwargs)

        with ExitStack() as stack:
            stack.enter_context(rebuilding())
            stack.enter_context(_training_flags(self._block, self._training))
            if self._random is not None:
                stack.enter_context(self._random.restored())
            yield call


class _RandomState:
    """The state of torch's random numbers on the CPU and on the device of a tensor."""

    def __init__(self, x: Tensor) -> None:
        self._x_device = x.device.type
        self._cpu = torch.get_rng_state()
        self._devices, self._states = get_device_states(x)

    def is_current(self) -> bool:
        """Whether no number has been drawn since."""
        if not torch.equal(self._cpu, torch.get_rng_state()):
            return False
        module = getattr(torch, self._x_device)
        now = (module.get_rng_state(device) for device in self._devices)
        return all(torch.equal(before, state) for before, state in zip(self._states, now, strict=True))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw from here; afterwards from where the caller was."""
        device_type = self._x_device if self._devices else "cuda"
        with torch.random.fork_rng(self._devices, device_type=device_type):
            torch.set_rng_state(self._cpu)
            set_device_states(self._devices, self._states, device_type=device_type)
            yield


class _Watched:
    """Tensors whose change in place is to be noticed."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = [(tensor, version_of(tensor)) for tensor in tensors]

    def are_unchanged(self) -> bool:
        return all(version_of(tensor) == version for tensor, version in self._tensors)


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written to; ``None`` for one made in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version


@contextmanager
def _training_flags(block: nn.Module, flags: Sequence[bool]) -> Iterator[None]:
    """Let modules be training or not as noted, and afterwards as they are now."""
    now = [module.training for module in block.modules()]
    if now == list(flags):
        yield
        return
    try:
        for module, flag in zip(block.modules(), flags, strict=True):
            module.training = flag
        yield
    finally:
        for module, flag in zip(block.modules(), now, strict=True):
            module.training = flag


def _sum(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    # Never in place: autograd may hand out one tensor as two gradients.
    if total is None or grad is None:
        return grad if total is None else total
    return total + grad
