"""A run of consecutive layers: evaluate its blocks, or invert it with vector-Jacobian products.

Blocks are called here only. `Stack` makes runs; `checkpointed` and `reversible` differentiate them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from .conditions import View, version_of
from .context import AS_IT_IS, Autocast
from .couplings import Coupling
from .fused import FusedBlock, WorkSpace, is_anything_watched, is_fused, unobserved
from .gradients import Gradients, pull_back
from .recompute import Recompute
from .recomputing import is_recomputing
from .repeatable import Checked, check_closed, check_repeats, check_unwritten, check_width
from .repeated import LayerRecording, recording_of, repeat_backward
from .seeds import fold_seed, fold_seeds
from .state import FloatState, State
from .survey import Survey


def _without_grad() -> AbstractContextManager[object]:
    """Disable gradients, at no cost where they are disabled."""
    return torch.no_grad() if torch.is_grad_enabled() else AS_IT_IS


@dataclass(frozen=True, eq=False)
class LayerRun:
    """Layers ``first`` to ``first + len(layers) - 1`` of a stack, with everything that their evaluation depends on
    except tensors."""

    coupling: Coupling
    layers: Sequence[Sequence[nn.Module]]
    """``layers[l][i]`` is the block of group i."""
    first: int
    seed: int | None
    """The step's seed; ``None``: evaluation without a seed. Blocks then receive 0, and torch's generators are not
    seeded."""
    context: tuple[object, ...]
    """The context arguments, with ``None`` where a tensor belongs."""
    places: tuple[tuple[int, bool], ...]
    """For every context tensor: its position among the arguments, and whether it is split."""
    autocast: Autocast
    device: torch.device
    survey: Survey
    """What is known of the blocks of the stack."""
    checked: Checked | None
    """Blocks that passed the checks, shared by all runs of a stack; ``None``: no check."""
    fused: dict[nn.Module, FusedBlock | None] = field(init=False, default_factory=dict)
    """Blocks whose evaluation was decided, which is done once a step: themselves where it is fused, else None."""

    @property
    def views(self) -> Mapping[nn.Module, View]:
        """The `View` of every block of the stack."""
        return self.survey.views

    @property
    def recompute(self) -> Recompute:
        """The evaluator of the run's blocks, which can repeat evaluations; made on first use with the parameters of
        that moment."""
        # Not functools' cached_property, which takes a lock in Python 3.11 that torch.export cannot follow.
        found: Recompute | None = self.__dict__.get("_recompute")
        if found is None:
            slots = self.survey.slots(self.first, self.layers)
            found = self.__dict__["_recompute"] = Recompute(self.views, self.device, slots)
        return found

    def arguments(self, tensors: Sequence[Tensor], group: int) -> list[object]:
        """Return the context arguments for a group's block."""
        arguments = list(self.context)
        for (position, is_split), tensor in zip(self.places, tensors, strict=True):
            arguments[position] = self.slice(tensor, group) if is_split else tensor
        return arguments

    def slice(self, tensor: Tensor, group: int) -> Tensor:
        """Return a group's channels of a split tensor."""
        width = tensor.size(-1) // self.coupling.num_groups
        return tensor.narrow(-1, group * width, width)

    def buffers(self) -> list[Tensor]:
        """Return the buffers of all blocks, each once."""
        return list({buffer: None for blocks in self.layers for block in blocks for buffer in block.buffers()})

    def block_seed(self, layer: int, group: int) -> int:
        """Return the seed of a block's evaluation, the same for its recomputation."""
        return fold_seed(self.seed or 0, self.first + layer, group)

    def seeds(self) -> list[int]:
        """Return `block_seed` of all blocks in order."""
        layers = range(self.first, self.first + len(self.layers))
        return fold_seeds(self.seed or 0, layers, range(self.coupling.num_groups))

    def _again(self, layer: int, group: int, seed: int, *, leaves: bool = True) -> AbstractContextManager[None]:
        """Restore a block to the conditions of its first evaluation; ``leaves``: autograd differentiates it."""
        draws = None if self.seed is None else seed
        return self.recompute.again((layer, group), self.layers[layer][group], draws, leaves=leaves)

    def evaluate(self, x: Tensor, tensors: Sequence[Tensor]) -> None:
        """Call every block once, as it is, and drop the result."""
        state = FloatState(x, self.coupling.num_groups)
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        for layer in range(len(self.layers)):

            def branch(i: int, x: Tensor, layer: int = layer) -> Tensor:
                value: Tensor = self.layers[layer][i](x, self.block_seed(layer, i), *per_group[i])
                return value

            with self.autocast():
                self.coupling.forward(state, branch)

    def advance(
        self,
        state: State,
        tensors: Sequence[Tensor],
        after_layer: Callable[[int], object] | None = None,
        *,
        keep: bool = False,
        again: bool = False,
    ) -> None:
        """Advance a state through all layers.

        Args:
            state: updated in place.
            tensors: the context tensors.
            after_layer: called with the index of each finished layer.
            keep: whether the evaluations will be repeated in the backward.
            again: whether they repeat earlier ones that were kept.
        """
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        work, is_watched = WorkSpace(), not state.tracks_autograd and is_anything_watched()

        def one(layer: int, recording: LayerRecording | None = None) -> None:
            blocks = self.layers[layer]

            def branch(i: int, x: Tensor) -> Tensor | None:
                block, seed, arguments = blocks[i], self.block_seed(layer, i), per_group[i]
                if recording is not None:
                    recording.begin()
                if again:
                    with self._again(layer, i, seed):
                        value: Tensor = block(x, seed, *arguments)
                elif not state.tracks_autograd and (fused := self._fused(block, x, arguments, is_watched)) is not None:
                    if keep:
                        self.recompute.record((layer, i), block)
                    return self._add_value(fused, state.target(i), 1, x, seed, arguments, work)
                else:
                    if not state.tracks_autograd:
                        x = self.views[block].own(x, is_watched=is_watched)
                    value = self._called(layer, i, x, arguments, keep=keep, is_own=state.tracks_autograd)
                check_width(value, x, "project before or after the stack")
                return value

            state.enter(layer)
            with self.autocast():
                self.coupling.forward(state, branch)
            if after_layer is not None:
                after_layer(layer)

        layers = range(len(self.layers))
        may_repeat = not (again or is_watched) and after_layer is None
        recording = self._recording(0, state, per_group[0]) if may_repeat else None
        if recording is not None:
            with recording:
                one(0, recording)
            if self._are_fused(0) and self._repeat(recording):
                return
            layers = layers[1:]
        for layer in layers:
            one(layer)

    def reverse(self, state: State, grads: list[Tensor], tensors: Sequence[Tensor], sums: Gradients) -> None:
        """Invert all layers: replace the state and its gradients by those of the run's input, in place.

        Args:
            state: the state after the run.
            grads: C gradients [N, D/C] of that state.
            tensors: the context tensors.
            sums: receives the gradients of parameters and context tensors.
        """
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        work, is_watched = WorkSpace(), is_anything_watched()

        def one(layer: int, recording: LayerRecording | None = None) -> None:
            def branch(i: int, x: Tensor, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
                block, seed = self.layers[layer][i], self.block_seed(layer, i)
                fused = None if is_watched else self.fused.get(block)
                if recording is not None:
                    recording.begin()
                with self._again(layer, i, seed, leaves=fused is None):
                    if fused is None:
                        x = self.views[block].own(x, is_watched=is_watched)
                        return self._value_and_grad(block, x, cotangent, seed, per_group[i], i, sums)
                    inputs = self.coupling.inputs(i)
                    into = grads[inputs[0]] if len(inputs) == 1 else None
                    return self._add_value_and_grad(
                        fused, state.target(i), into, x, cotangent, seed, per_group[i], sums, work
                    )

            self.coupling.backward(state, grads, branch)
            state.leave(layer)

        layers = range(len(self.layers) - 1, -1, -1)
        may_repeat = not is_watched and self._are_fused(-1) and self.survey.has_its_modules()
        recording = self._recording(-1, state, per_group[0]) if may_repeat else None
        if recording is not None:
            sums.parameters.shares = {}
            with recording:
                one(layers[0], recording)
            if repeat_backward(recording, len(layers), self.recompute.bound, self.seeds(), sums.parameters):
                return
            layers, sums.parameters.shares = layers[1:], None
        for layer in layers:
            one(layer)

    def step_back(self, state: State, tensors: Sequence[Tensor], layer: int) -> None:
        """Invert one layer as `reverse` does, without gradients."""
        per_group = [self.arguments(tensors, group) for group in range(self.coupling.num_groups)]
        work = WorkSpace()

        def branch(i: int, x: Tensor, _: Tensor) -> tuple[Tensor | None, None]:
            block, seed = self.layers[layer][i], self.block_seed(layer, i)
            with torch.enable_grad(), self._again(layer, i, seed), self.autocast():
                fused = self._fused(block, x, per_group[i])
                if fused is not None:
                    return self._add_value(fused, state.target(i), -1, x, seed, per_group[i], work), None
                # With grad enabled, as in `reverse`: without it a block may choose another kernel.
                value = block(x.detach().requires_grad_(), seed, *per_group[i])
            return value.detach(), None

        self.coupling.backward(state, [state.read(i) for i in range(self.coupling.num_groups)], branch)
        state.leave(layer)

    def _called(
        self, layer: int, group: int, x: Tensor, arguments: Sequence[object], *, keep: bool, is_own: bool
    ) -> Tensor:
        """Call a block for the first time; ``is_own``: its input is no memory of the stream."""
        block, seed = self.layers[layer][group], self.block_seed(layer, group)
        draws, version = None if self.seed is None else seed, None if is_own else version_of(x)
        value = self.recompute.first((layer, group), block, draws, lambda: block(x, seed, *arguments), keep=keep)
        if not is_own:
            check_unwritten(x, version, self._name(layer, group))
        if keep and type(value) is Tensor and not is_recomputing():
            self._check_repeats(layer, group, x, seed, arguments, value)
        return value

    def _fused(
        self, block: nn.Module, x: Tensor, arguments: Sequence[object], is_watched: bool = False
    ) -> FusedBlock | None:
        """Return a block whose fused evaluation is used, else None; decided under the first evaluation's autocast. A
        block is asked once in a step, and not fused any more once it was watched."""
        if is_watched:
            self.fused[block] = None
        elif block not in self.fused:
            with self.autocast():
                found = block if self.views[block].is_bare and is_fused(block, x, arguments) else None
            self.fused[block] = found
        return self.fused[block]

    def _recording(self, layer: int, state: State, arguments: Sequence[object]) -> LayerRecording | None:
        """Return what records a layer to be repeated for the others; ``None``: blocks differ, or share parameters."""
        if len(self.layers) < 2 or not self.survey.are_alike:
            return None
        block = self.layers[layer][0]
        of_block, count = len(self.views[block].slots), len(self.layers) * self.coupling.num_groups
        has_own = 0 < of_block * count == len(self.recompute.parameters)
        return recording_of(block, self.coupling, state, arguments) if has_own else None

    def _repeat(self, recording: LayerRecording) -> bool:
        """Evaluate all layers but the first by its calls; returns whether it was done."""
        values, buffers = self.recompute.bound, self.recompute.written
        done = recording.repeat(len(self.layers), values, self.seeds(), buffers=buffers)
        if done:
            self.fused.update((block, cast(FusedBlock, block)) for blocks in self.layers for block in blocks)
        return done

    def _are_fused(self, layer: int) -> bool:
        """Whether the forward evaluated all blocks of a layer by their fused evaluation."""
        return bool(self.layers) and all(self.fused.get(block) is not None for block in self.layers[layer])

    def _name(self, layer: int, group: int) -> str:
        return f"layer {self.first + layer}, group {group}: {type(self.layers[layer][group]).__name__}"

    def _check_repeats(
        self, layer: int, group: int, x: Tensor, seed: int, arguments: Sequence[object], value: Tensor
    ) -> None:
        """Raise RuntimeError if a block does not repeat its value; checked once per block."""
        block = self.layers[layer][group]
        if self.checked is None or block in self.checked.repeats:
            return
        if self.views[block].is_pure and hasattr(block, "add_value_and_grad"):
            # The library's own block is pure, and a rank without rows, which fuses nothing, must not evaluate more
            # often than the others.
            return
        with torch.no_grad(), unobserved(), self._again(layer, group, seed):
            other = block(x, seed, *arguments)
        check_repeats(value, other, self._name(layer, group))
        self.checked.repeats.add(block)

    def check_closed(self, value: Tensor, leaves: Iterable[Tensor], block: nn.Module) -> None:
        """Raise RuntimeError if the value of a block depends on a tensor that requires a gradient but is not among the
        leaves, which receive one."""
        if self.checked is not None:
            check_closed(value, leaves, type(block).__name__)

    def _add_value(
        self,
        block: FusedBlock,
        to: Tensor | None,
        sign: int,
        x: Tensor,
        seed: int,
        arguments: Sequence[object],
        work: WorkSpace,
    ) -> Tensor | None:
        """Add a fused block's value to ``to``; return the value if ``to`` is None."""
        target = work.empty("value", x) if to is None else to
        with _without_grad(), self.autocast():
            block.add_value(target, 0 if to is None else sign, x, seed, *arguments, work=work)
        return target if to is None else None

    def _add_value_and_grad(
        self,
        block: FusedBlock,
        to: Tensor | None,
        into: Tensor | None,
        x: Tensor,
        cotangent: Tensor,
        seed: int,
        arguments: Sequence[object],
        sums: Gradients,
        work: WorkSpace,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Evaluate a fused block: subtract its value from ``to`` and add its gradient to ``into``; return each one
        whose target is None."""
        target = work.empty("value", x) if to is None else to
        receiver = work.empty("grad", x) if into is None else into
        with _without_grad(), self.autocast():
            found = block.add_value_and_grad(
                target, 0 if to is None else -1, x, cotangent, receiver, seed, *arguments,
                accumulate=into is not None, work=work,
            )  # fmt: skip
        shared = {id(arguments[place]): k for k, (place, is_split) in enumerate(self.places) if not is_split}
        position = self.recompute.position
        for tensor, share in found.items():
            if id(tensor) in shared:
                sums.context.add(shared[id(tensor)], share)
            else:
                sums.parameters.add(position(tensor), share)
        return target if to is None else None, receiver if into is None else None

    def _value_and_grad(
        self,
        block: nn.Module,
        x: Tensor,
        cotangent: Tensor,
        seed: int,
        arguments: list[object],
        group: int,
        sums: Gradients,
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate a block once with grad: its value, and its vector-Jacobian product with ``cotangent``."""
        parameters = self.recompute.leaves()
        arguments = list(arguments)
        wanted_places = [k for k, needed in enumerate(sums.context.needed) if needed]
        with torch.enable_grad(), self.autocast():
            leaf = x.detach().requires_grad_()
            leaves: list[Tensor] = []
            for k in wanted_places:
                argument = arguments[self.places[k][0]]
                assert isinstance(argument, Tensor), "places are of tensors"
                leaves.append(argument.detach().requires_grad_())
                arguments[self.places[k][0]] = leaves[-1]
            value = block(leaf, seed, *arguments)
        if not value.requires_grad:
            return value, None
        wanted = [leaf, *leaves, *parameters.values()]
        self.check_closed(value, wanted, block)
        # Copied, because autograd may return the cotangent itself as a gradient, and the caller keeps adding to it.
        grads = pull_back(value, cotangent.to(value.dtype, copy=True), wanted)
        for k, grad in zip(wanted_places, grads[1 : 1 + len(leaves)], strict=True):
            part = (lambda total: self.slice(total, group)) if self.places[k][1] else None
            sums.context.add(k, grad, part)
        for position, grad in zip(parameters, grads[1 + len(leaves) :], strict=True):
            sums.parameters.add(position, grad)
        return value.detach(), grads[0]
