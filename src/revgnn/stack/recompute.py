"""Evaluate a module again with the same result: the one mechanism behind every backward that recomputes.

A module's value depends on more than its arguments: on parameters, buffers, training flags and random numbers. The
first evaluation notes them; a repetition puts them back around itself alone. So the backward belongs to its forward
whatever the caller did in between, and statistics, random numbers and flags that the caller sees move once per step.

A module may declare ``is_pure = True``: it draws no random numbers but from its seed, changes no buffer while
`is_recomputing()`, and in training its value depends on none that moves. Then its generators are left alone, and in
training its buffers too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .recomputing import is_recomputing, recomputing

_SMALL = 4096
"""Elements of a buffer up to which a copy is kept rather than compared."""


_STILL = frozenset({nn.Linear, nn.LayerNorm, nn.Identity, nn.ReLU, nn.GELU, nn.Tanh, nn.Sequential, nn.ModuleList})
"""Modules of torch's that draw nothing and have no buffers."""


class View:
    """A module's parts and flags, and where its parameters and buffers stand, as they are when this is made."""

    def __init__(self, module: nn.Module) -> None:
        self.parts = parts_of(module)
        self.flags = [part.training for part in self.parts]
        self.slots: list[tuple[dict[str, Any], str]] = []
        """For every parameter the dictionary that holds it, and its name there."""
        self.buffers: list[tuple[dict[str, Any], str]] = []
        for part in self.parts:
            self.slots += [(part._parameters, name) for name, value in part._parameters.items() if value is not None]
            self.buffers += [(part._buffers, name) for name, value in part._buffers.items() if value is not None]
        self.is_bare = not any(is_watched(part) for part in self.parts)
        """Whether nothing waits to see a part at work, and no forward was replaced."""
        self.is_pure = bool(getattr(module, "is_pure", False)) or (
            self.is_bare and all(type(part) in _STILL for part in self.parts)
        )
        if self.is_pure and all(self.flags):
            self.buffers = []

    @property
    def is_training(self) -> bool:
        """Whether any part is."""
        return any(self.flags)


class Recompute:
    """Evaluates modules, and evaluates them again under the conditions of the first time.

    Every evaluation has a key. Parameters are looked up when this is made, and are handed back as `parameters`, to be
    saved by autograd; `bind` or `bind_leaves` takes what was saved.

    Args:
        views: of all modules that will be evaluated.
        device: on which they may draw random numbers, besides the CPU.
    """

    def __init__(self, views: Mapping[nn.Module, View], device: torch.device) -> None:
        self._views, self._device = views, device
        positions: dict[Tensor, int] = {}
        self._slots = {
            module: [(holder, name, positions.setdefault(holder[name], len(positions))) for holder, name in view.slots]
            for module, view in views.items()
        }
        """For every module, (the dictionary that holds a parameter, its name there, its position among all)."""
        self.parameters: list[Tensor] = list(positions)
        """Of all modules, each once."""
        self._values: Sequence[Tensor] = self.parameters
        self._needed: Sequence[bool] | None = None
        """Which values get a leaf of their own in every repetition; ``None``: they are leaves already."""
        self._leaves: dict[int, Tensor] = {}
        """Those of the module that is being evaluated again, by position."""
        self._noted: dict[Hashable, _Noted] = {}

    def bind(self, parameters: Sequence[Tensor], needed: Sequence[bool]) -> None:
        """Repeat with these values of the parameters from now on, each repetition with detached leaves of its own.

        Autograd keeps a node for every leaf that it has met, for as long as the leaf lives. Leaves that outlived their
        repetition would leave these nodes between its temporaries, and the heap would grow with every layer.

        Args:
            parameters: values, in the order of `parameters`.
            needed: which of them need gradients.
        """
        self._values, self._needed = parameters, needed

    def bind_leaves(self, leaves: Sequence[Tensor]) -> None:
        """Repeat with these very tensors in the places of parameters."""
        self._values, self._needed = leaves, None

    def position(self, leaf: Tensor) -> int:
        """Where a leaf of the module that is being evaluated again stands among the parameters."""
        return next(position for position, other in self._leaves.items() if other is leaf)

    def leaves(self) -> dict[int, Tensor]:
        """The leaves, by position, of the module that is being evaluated again; those that need gradients."""
        return {position: leaf for position, leaf in self._leaves.items() if leaf.requires_grad}

    def first(
        self, key: Hashable, module: nn.Module, seed: int | None, call: Callable[[], Tensor], *, keep: bool
    ) -> Tensor:
        """Evaluate for the first time.

        Args:
            key: of this evaluation.
            module: that ``call`` evaluates.
            seed: from which the module's random numbers come; ``None``: from where torch's generators are, as without
                this class.
            call: evaluates the module.
            keep: whether it will be repeated.
        """
        view = self._views[module]
        if view.is_pure and not (keep and view.buffers) and not is_recomputing():
            return call()
        noted = _note(view, self._generators(view) if seed is None else [])
        if is_recomputing():
            # Inside of a repetition, or a trial before the step: buffers stay as they are.
            with self._restored(module, noted._replace(states=[]), seed):
                value = call()
        elif view.is_pure or seed is None:
            value = call()
        else:
            with _seeded(self._generators(view), seed):
                value = call()
        if keep:
            self._noted[key] = noted.settled()
        return value

    def note(self, key: Hashable, module: nn.Module) -> None:
        """Let the conditions of now be those of an evaluation, which itself is not made here."""
        view = self._views[module]
        if view.buffers:
            self._noted[key] = _note(view, [])

    @contextmanager
    def again(self, key: Hashable, module: nn.Module, seed: int | None) -> Iterator[None]:
        """Let the module be as it was in an evaluation; on leaving, everything is again as it is now.

        Raises: RuntimeError: if a module inside was exchanged since, or a large buffer changed.
        """
        view = self._views[module]
        if parts_of(module) != view.parts:
            raise RuntimeError(
                f"modules inside {type(module).__name__} were added, removed or exchanged between the forward and the "
                "backward, which evaluates it again; change modules after the backward"
            )
        noted = self._noted.get(key, _NOTHING)
        noted.check(module)
        with self._restored(module, noted, seed):
            yield

    def is_unchanged(self, key: Hashable) -> bool:
        """Whether an evaluation can be repeated as far as buffers go."""
        return self._noted.get(key, _NOTHING).changed() is None

    def _generators(self, view: View) -> list[torch.Generator]:
        return [] if view.is_pure else generators(self._device)

    def _leaves_at(self, positions: Iterable[int]) -> dict[int, Tensor]:
        if self._needed is None:
            return {position: self._values[position] for position in positions}
        return {k: self._values[k].detach().requires_grad_(self._needed[k]) for k in positions}

    @contextmanager
    def _restored(self, module: nn.Module, noted: _Noted, seed: int | None) -> Iterator[None]:
        view, slots, outside = self._views[module], self._slots[module], self._leaves
        before = [holder[name] for holder, name, _ in slots]
        buffers = [kept.holder[kept.name] for kept in noted.buffers]
        flags = [part.training for part in view.parts]
        drawing = self._generators(view)
        states = [generator.get_state() for generator in drawing] if seed is not None or noted.states else []
        try:
            self._leaves = self._leaves_at({position for _, _, position in slots})
            for holder, name, position in slots:
                holder[name] = self._leaves[position]
            for kept in noted.buffers:
                # The module may write to a copy.
                kept.holder[kept.name] = kept.value.clone() if kept.is_copy and not view.is_pure else kept.value
            if flags != view.flags:
                _set_flags(view.parts, view.flags)
            for generator, state in zip(drawing, noted.states, strict=False):
                generator.set_state(state)
            if seed is not None:
                for generator in drawing:
                    generator.manual_seed(seed)
            with recomputing():
                yield
        finally:
            self._leaves = outside
            for (holder, name, _), value in zip(slots, before, strict=True):
                holder[name] = value
            for kept, buffer in zip(noted.buffers, buffers, strict=True):
                kept.holder[kept.name] = buffer
            if flags != view.flags:
                _set_flags(view.parts, flags)
            for generator, state in zip(drawing, states, strict=False):
                generator.set_state(state)


def detached_leaves(values: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Leaves with the memory of these values, so that hooks of the parameters do not run inside a repetition."""
    return [value.detach().requires_grad_(need) for value, need in zip(values, needed, strict=True)]


class _Buffer(NamedTuple):
    """A buffer as it was: a copy, or the tensor itself with the count of its changes."""

    holder: dict[str, Any]
    name: str
    value: Tensor
    is_copy: bool
    version: int | None = None

    def is_changed(self) -> bool:
        """Whether the tensor itself was written to since."""
        return not self.is_copy and version_of(self.value) != self.version


class _Noted(NamedTuple):
    """What one evaluation depended on, besides what all evaluations of its module share."""

    buffers: list[_Buffer]
    states: list[Tensor]
    """Of the random generators, where they have no seed."""
    drawing: list[torch.Generator]
    """The generators of those states."""

    def settled(self) -> _Noted:
        """The same after the evaluation, without what a repetition does not need."""
        buffers = []
        for kept in self.buffers:
            now = kept.holder[kept.name]
            # Comparing waits for the device; a few numbers are cheaper kept.
            is_same = kept.value.numel() > _SMALL and now is not None and torch.equal(now, kept.value)
            buffers.append(kept._replace(value=now, is_copy=False, version=version_of(now)) if is_same else kept)
        is_drawn = any(
            not torch.equal(state, generator.get_state())
            for state, generator in zip(self.states, self.drawing, strict=True)
        )
        return _Noted(buffers, self.states if is_drawn else [], self.drawing if is_drawn else [])

    def changed(self) -> str | None:
        """The name of a buffer of which no copy was kept and that was changed in place since."""
        return next((kept.name for kept in self.buffers if kept.is_changed()), None)

    def check(self, module: nn.Module) -> None:
        """Raise RuntimeError for such a buffer."""
        name = self.changed()
        if name is not None:
            raise RuntimeError(
                f"buffer {name!r} of {type(module).__name__} was changed in place between the forward and the "
                "backward, which evaluates it again; change it after the backward, or replace it by a new tensor"
            )


_NOTHING = _Noted([], [], [])


def _note(view: View, drawing: list[torch.Generator]) -> _Noted:
    # Copied now: batch norm writes to its statistics without counting it as a change.
    buffers = [_Buffer(holder, name, holder[name].clone(), True) for holder, name in view.buffers]
    return _Noted(buffers, [generator.get_state() for generator in drawing], drawing)


def parts_of(module: nn.Module) -> list[nn.Module]:
    """A module and all inside it, each once; `nn.Module.modules` takes several times as long."""
    found = {module: None}
    waiting = [module]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


def is_watched(module: nn.Module) -> bool:
    """Whether somebody waits to see this very module at work, or has replaced its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def generators(device: torch.device) -> list[torch.Generator]:
    """Torch's generators of the CPU and of a device."""
    found = [torch.default_generator]
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        of_devices = getattr(module, "default_generators", ())
        if of_devices:
            found.append(of_devices[module.current_device() if device.index is None else device.index])
    return found


@contextmanager
def _seeded(drawing: Sequence[torch.Generator], seed: int) -> Iterator[None]:
    """Draw from a seed; afterwards from where the caller was."""
    states = [generator.get_state() for generator in drawing]
    try:
        for generator in drawing:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(drawing, states, strict=True):
            generator.set_state(state)


def _set_flags(parts: Sequence[nn.Module], flags: Sequence[bool]) -> None:
    for part, flag in zip(parts, flags, strict=True):
        part.training = flag


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written to; ``None`` for one made in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, or forward-mode differentiation; neither can take an autograd
    Function that makes no graph."""
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def check_recorders(x: object, what: str) -> None:
    """Raise RuntimeError under a recorder of operators, which would keep one graph, seed and mode as constants.

    Args:
        x: the stream.
        what: is called, for the message.
    """
    if torch._C._get_tracing_state() is not None or not isinstance(x, Tensor):
        recorder = "torch.jit.trace" if isinstance(x, Tensor) else f"torch.fx ({type(x).__name__})"
        raise RuntimeError(
            f"{what} cannot be recorded by {recorder}: the graph, the seed and the mode of this one call would become "
            "constants; use torch.export for a module in evaluation, or torch.compile"
        )
