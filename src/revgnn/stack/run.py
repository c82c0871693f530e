"""A run of layers: which blocks, with which seeds and context, evaluated plainly or with vector-Jacobian products.

The one place where a block is called. `Stack` makes runs; the ways to differentiate them take runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .couplings import Coupling
from .fused import WorkSpace, is_fused
from .purity import rebuilding
from .seeds import fold_seed
from .state import State


class Split(NamedTuple):
    """A context argument [..., D] of which each group sees its own D/C channels; made by `split`."""

    value: Tensor


def split(value: Tensor) -> Split:
    """Mark a context argument as cut by groups along its last dimension, like the stream; unmarked ones are shared."""
    return Split(value)


class Autocast(NamedTuple):
    """The autocast state under which a block was first evaluated, so that it is evaluated again under the same."""

    device_type: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def current(cls, device_type: str) -> Autocast:
        """What holds now."""
        return cls(device_type, torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type))

    def __call__(self) -> AbstractContextManager[Any]:
        """Enter it. Casts are not cached: one made without grad would be found, and cut the graph, when rebuilding."""
        return torch.autocast(self.device_type, self.dtype, self.enabled, cache_enabled=False)


@dataclass(frozen=True, eq=False)
class Run:
    """Layers ``first`` to ``first + len(layers) - 1`` of a stack and all that their evaluation depends on but
    tensors."""

    coupling: Coupling
    layers: Sequence[Sequence[nn.Module]]
    """``layers[l][i]`` is the block of group i."""
    first: int
    seed: int
    context: tuple[Any, ...]
    """The context arguments, with ``None`` where a tensor belongs."""
    places: tuple[tuple[int, bool], ...]
    """For every context tensor: its position among the arguments, and whether it is split."""
    autocast: Autocast

    def arguments(self, tensors: Sequence[Tensor], group: int) -> list[Any]:
        """The context arguments of a group's block."""
        arguments = list(self.context)
        for (position, is_split), tensor in zip(self.places, tensors, strict=True):
            arguments[position] = self.slice(tensor, group) if is_split else tensor
        return arguments

    def slice(self, tensor: Tensor, group: int) -> Tensor:
        """A group's channels of a split tensor."""
        width = tensor.size(-1) // self.coupling.num_groups
        return tensor.narrow(-1, group * width, width)

    def buffers(self) -> list[Tensor]:
        """The buffers of all blocks, those of tied ones once."""
        return list({buffer: None for blocks in self.layers for block in blocks for buffer in block.buffers()})

    def block_seed(self, layer: int, group: int) -> int:
        """The seed of one evaluation: the same whenever it is repeated."""
        return fold_seed(self.seed, self.first + layer, group)

    def advance(
        self, state: State, tensors: Sequence[Tensor], after_layer: Callable[[int], object] | None = None
    ) -> None:
        """Take a state through all layers; ``after_layer`` is told each one that is done."""
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        work = WorkSpace()
        for layer, blocks in enumerate(self.layers):

            def branch(i: int, x: Tensor, layer: int = layer, blocks: Sequence[nn.Module] = blocks) -> Tensor | None:
                block, seed = blocks[i], self.block_seed(layer, i)
                if not state.followed and self._is_fused(block, x, per_group[i]):
                    return self._evaluated_in_place(block, state.target(i), 1, x, seed, per_group[i], work)
                value: Tensor = block(x, seed, *per_group[i])
                _check_width(value, x)
                return value

            state.enter(layer)
            with self.autocast():
                self.coupling.forward(state, branch)
            if after_layer is not None:
                after_layer(layer)

    def reverse(self, state: State, grads: list[Tensor], tensors: Sequence[Tensor], sums: GradientSums) -> None:
        """Take a state and its gradients back through all layers, adding up what blocks and context receive."""
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        work = WorkSpace()
        for layer in reversed(range(len(self.layers))):

            def branch(i: int, x: Tensor, cotangent: Tensor, layer: int = layer) -> tuple[Tensor | None, Tensor | None]:
                block, seed = self.layers[layer][i], self.block_seed(layer, i)
                if not self._is_fused(block, x, per_group[i]):
                    return self._visit(block, x, cotangent, seed, per_group[i], i, sums)
                inputs = self.coupling.inputs(i)
                into = grads[inputs[0]] if len(inputs) == 1 else None
                return self._visit_in_place(block, state.target(i), into, x, cotangent, seed, per_group[i], sums, work)

            self.coupling.backward(state, grads, branch)
            state.leave(layer)

    def step_back(self, state: State, tensors: Sequence[Tensor], layer: int) -> None:
        """Take a state back through one layer as `reverse` does, without gradients."""
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        work = WorkSpace()

        def branch(i: int, x: Tensor, _: Tensor) -> tuple[Tensor | None, None]:
            block, seed = self.layers[layer][i], self.block_seed(layer, i)
            with torch.enable_grad(), rebuilding(), self.autocast():
                if self._is_fused(block, x, per_group[i]):
                    return self._evaluated_in_place(block, state.target(i), -1, x, seed, per_group[i], work), None
                # With grad, as in `reverse`: a kernel may be another one without.
                value = block(x.detach().requires_grad_(), seed, *per_group[i])
            return value.detach(), None

        self.coupling.backward(state, [state.read(i) for i in range(self.coupling.num_groups)], branch)
        state.leave(layer)

    def _is_fused(self, block: nn.Module, x: Tensor, arguments: Sequence[Any]) -> bool:
        """Whether a block evaluates itself; asked under the first evaluation's autocast, so that the answer stays."""
        with self.autocast():
            return is_fused(block, x, arguments)

    @torch.no_grad()
    def _evaluated_in_place(
        self, block: Any, to: Tensor | None, sign: int, x: Tensor, seed: int, arguments: Sequence[Any], work: WorkSpace
    ) -> Tensor | None:
        """Let a fused block add its value to ``to``; where there is no such place, the value."""
        value = work.empty("value", x) if to is None else None
        with self.autocast():
            target, sign = (value, 0) if to is None else (to, sign)
            block.add_value(target, sign, x, seed, *arguments, work=work)
        return value

    @torch.no_grad()
    def _visit_in_place(
        self,
        block: Any,
        to: Tensor | None,
        into: Tensor | None,
        x: Tensor,
        cotangent: Tensor,
        seed: int,
        arguments: Sequence[Any],
        sums: GradientSums,
        work: WorkSpace,
    ) -> tuple[Tensor | None, Tensor | None]:
        """`_visit` of a fused block, with its value taken off ``to`` and its gradient added to ``into`` if these are
        places; what is not is returned."""
        value = work.empty("value", x) if to is None else None
        grad = work.empty("grad", x) if into is None else None
        target, receiver = (value if to is None else to), (grad if into is None else into)
        with rebuilding(), self.autocast():
            found = block.add_value_and_grad(
                target, 0 if to is None else -1, x, cotangent, receiver, seed, *arguments,
                accumulate=into is not None, work=work,
            )  # fmt: skip
        for parameter, share in found.items():
            sums.add_parameter(parameter, share)
        return value, grad

    def _visit(
        self,
        block: nn.Module,
        x: Tensor,
        cotangent: Tensor,
        seed: int,
        arguments: list[Any],
        group: int,
        sums: GradientSums,
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate a block once with grad: its value, and its vector-Jacobian product with ``cotangent``."""
        parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]
        arguments = list(arguments)
        wanted_places = [k for k, place in enumerate(self.places) if sums.wants_context(k)]
        with torch.enable_grad(), rebuilding(), self.autocast():
            leaf = x.detach().requires_grad_()
            leaves = []
            for k in wanted_places:
                position = self.places[k][0]
                arguments[position] = arguments[position].detach().requires_grad_()
                leaves.append(arguments[position])
            value = block(leaf, seed, *arguments)
        if not value.requires_grad:
            return value, None
        wanted = [leaf, *leaves, *parameters]
        # A copy of its own: autograd may hand the cotangent itself on as a gradient, and the caller goes on adding to
        # it.
        grads = torch.autograd.grad(value, wanted, cotangent.to(value.dtype, copy=True), allow_unused=True)
        for k, grad in zip(wanted_places, grads[1 : 1 + len(leaves)], strict=True):
            sums.add_context(k, grad, group if self.places[k][1] else None)
        for parameter, grad in zip(parameters, grads[1 + len(leaves) :], strict=True):
            sums.add_parameter(parameter, grad)
        return value.detach(), grads[0]


class GradientSums:
    """Gradients of a run's context tensors and parameters, added up over layers and groups."""

    def __init__(self, run: Run, tensors: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self._run = run
        self._needed = needed
        self._context: list[Tensor | None] = [None] * len(tensors)
        self._tensors = tensors
        self._parameters: dict[nn.Parameter, Tensor] = {}

    def wants_context(self, k: int) -> bool:
        """Whether context tensor k needs a gradient."""
        return self._needed[k]

    def add_context(self, k: int, grad: Tensor | None, group: int | None) -> None:
        """Add to context tensor k, or to one group's channels of it."""
        if grad is None:
            return
        total = self._context[k]
        if total is None:
            total = self._context[k] = torch.zeros_like(self._tensors[k])
        target = total if group is None else self._run.slice(total, group)
        target += grad

    def add_parameter(self, parameter: nn.Parameter, grad: Tensor | None) -> None:
        """Add to a parameter's gradient; a tied one is met once per layer."""
        if grad is None:
            return
        total = self._parameters.get(parameter)
        self._parameters[parameter] = grad if total is None else total + grad

    def of_context(self) -> list[Tensor | None]:
        """The sums, in the order of the context tensors."""
        return self._context

    def of_parameters(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """The sums of the given parameters; None where nothing was received."""
        return [self._parameters.get(parameter) for parameter in parameters]  # type: ignore[call-overload]


def _check_width(value: Tensor, x: Tensor) -> None:
    if value.shape != x.shape:
        raise ValueError(
            f"a block must keep the shape of its input: got {list(value.shape)} from {list(x.shape)}; "
            "project before or after the stack"
        )
