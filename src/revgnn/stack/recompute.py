"""Repeat a module's evaluation with the same result, for every backward that recomputes.

A module's value depends on more than its arguments: on parameters, buffers, hooks, plain attributes (training flags
among them) and random numbers. The first evaluation records them; a repetition restores them for its own duration. So
the backward matches its forward whatever the caller did in between, and the caller sees statistics, random numbers and
attributes change once per step.

A module may declare ``is_pure = True``: it draws random numbers only from its seed, changes no attribute, and no buffer
while `is_recomputing()`, and in training its value depends on no buffer that changes. Then the random generators are
not recorded, and in training the buffers are not either.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from .recomputing import is_recomputing, recomputing
from .surface import Surfaces, is_watched

_SMALL = 4096
"""Number of elements up to which a buffer's copy is kept without comparing."""


_PURE = frozenset({nn.Linear, nn.LayerNorm, nn.Identity, nn.ReLU, nn.GELU, nn.Tanh, nn.Sequential, nn.ModuleList})
"""Torch's modules without random numbers and without buffers."""


class View:
    """A module's submodules, their surfaces, and the locations of its parameters and buffers, at construction."""

    def __init__(self, module: nn.Module) -> None:
        self.parts = parts_of(module)
        flags = [part.training for part in self.parts]
        self.is_training = any(flags)
        """Whether any submodule is in training mode."""
        self.slots: list[tuple[dict[str, Any], str]] = []
        """For every parameter, the dictionary that holds it, and its name there."""
        self.buffers: list[tuple[dict[str, Tensor | None], str]] = []
        for part in self.parts:
            self.slots += [(part._parameters, name) for name, value in part._parameters.items() if value is not None]
            self.buffers += [(part._buffers, name) for name, value in part._buffers.items() if value is not None]
        self.is_bare = not any(map(is_watched, self.parts))
        """Whether no submodule has hooks or a replaced forward."""
        self.is_pure = bool(getattr(module, "is_pure", False)) or (
            self.is_bare and all(type(part) in _PURE for part in self.parts)
        )
        self.surfaces = Surfaces(self.parts, are_steady=self.is_pure and self.is_bare)
        """Hooks, replaced forwards and plain attributes of the submodules."""
        if self.is_pure and all(flags):
            self.buffers = []


class Recompute:
    """Evaluates modules, and repeats evaluations under their original conditions.

    Every evaluation has a key. Parameters are looked up when this is made, and are handed back as `parameters`, to be
    saved by autograd; `bind` or `bind_leaves` takes what was saved.

    Args:
        views: the `View` of every module that will be evaluated.
        device: device of the modules' random numbers, besides the CPU.
    """

    def __init__(self, views: Mapping[nn.Module, View], device: torch.device) -> None:
        self._views, self._device = views, device
        positions: dict[Tensor, int] = {}
        self._slots = {
            module: [(holder, name, positions.setdefault(holder[name], len(positions))) for holder, name in view.slots]
            for module, view in views.items()
        }
        """For every module and parameter: (the dictionary that holds it, its name there, its position)."""
        self.parameters: list[Tensor] = list(positions)
        """Of all modules, each once."""
        self._values: Sequence[Tensor] = self.parameters
        self._needed: Sequence[bool] | None = None
        """Which values get a leaf of their own in every repetition; ``None``: they are leaves already."""
        self._leaves: dict[int, Tensor] = {}
        """Those of the module that is being evaluated again, by position."""
        self._recorded: dict[Hashable, _Conditions] = {}

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

    def position(self, leaf: Tensor | None) -> int:
        """Where a leaf of the module that is being evaluated again stands among the parameters."""
        return next(position for position, other in self._leaves.items() if other is leaf)

    def leaves(self) -> dict[int, Tensor]:
        """The leaves, by position, of the module that is being evaluated again; those that need gradients."""
        return {position: leaf for position, leaf in self._leaves.items() if leaf.requires_grad}

    def first(
        self, key: Hashable, module: nn.Module, seed: int | None, call: Callable[[], Tensor], *, keep: bool
    ) -> Tensor:
        """Evaluate a module for the first time.

        Args:
            key: identifies the evaluation.
            module: the module that ``call`` evaluates.
            seed: seeds torch's generators for the evaluation; ``None`` leaves them as they are.
            call: evaluates the module.
            keep: whether the evaluation will be repeated.
        Returns: the module's value.
        """
        view = self._views[module]
        if view.is_pure and not (keep and view.buffers) and not is_recomputing():
            with _uncached():
                return call()
        conditions = _conditions(view, self._generators(view) if seed is None else [])
        if is_recomputing():
            # Inside a repetition, or a trial before the step: restore the buffers afterwards.
            with self._restored(module, conditions._replace(states=[]), seed):
                value = call()
        else:
            rngs = [] if view.is_pure or seed is None else self._generators(view)
            with _seeded(rngs, seed or 0), _uncached():
                value = call()
        if keep:
            self._recorded[key] = conditions.settled()
        return value

    def record(self, key: Hashable, module: nn.Module) -> None:
        """Record the current conditions for an evaluation that the caller makes itself."""
        view = self._views[module]
        if view.buffers:
            self._recorded[key] = _conditions(view, [])

    @contextmanager
    def again(self, key: Hashable, module: nn.Module, seed: int | None) -> Iterator[None]:
        """Restore the conditions of an evaluation inside the context.

        Raises: RuntimeError: if a submodule was replaced since, or a large buffer changed in place.
        """
        view = self._views[module]
        if parts_of(module) != view.parts:
            raise RuntimeError(
                f"modules inside {type(module).__name__} were added, removed or exchanged between the forward and the "
                "backward, which evaluates it again; change modules after the backward"
            )
        conditions = self._recorded.get(key, _NOTHING)
        conditions.check(module)
        with self._restored(module, conditions, seed):
            yield

    def is_unchanged(self, key: Hashable) -> bool:
        """Whether the buffers of an evaluation still allow its repetition."""
        return self._recorded.get(key, _NOTHING).changed() is None

    def _generators(self, view: View) -> list[torch.Generator]:
        return [] if view.is_pure else generators(self._device)

    def _leaves_at(self, positions: Iterable[int]) -> dict[int, Tensor]:
        if self._needed is None:
            return {position: self._values[position] for position in positions}
        return {k: self._values[k].detach().requires_grad_(self._needed[k]) for k in positions}

    @contextmanager
    def _restored(self, module: nn.Module, conditions: _Conditions, seed: int | None) -> Iterator[None]:
        view, slots, outside = self._views[module], self._slots[module], self._leaves
        before = [holder[name] for holder, name, _ in slots]
        buffers = [kept.holder[kept.name] for kept in conditions.buffers]
        rngs = self._generators(view)
        states = [rng.get_state() for rng in rngs] if seed is not None or conditions.states else []
        surfaces: Surfaces | None = None
        try:
            self._leaves = self._leaves_at({position for _, _, position in slots})
            for holder, name, position in slots:
                holder[name] = self._leaves[position]
            for kept in conditions.buffers:
                # A module that is not pure may write to its buffer, so it receives a copy.
                kept.holder[kept.name] = kept.value.clone() if kept.is_copy and not view.is_pure else kept.value
            surfaces = (conditions.surfaces or view.surfaces).put()
            for rng, state in zip(rngs, conditions.states, strict=False):
                rng.set_state(state)
            if seed is not None:
                for rng in rngs:
                    rng.manual_seed(seed)
            with recomputing(), _uncached():
                yield
        finally:
            self._leaves = outside
            for (holder, name, _), value in zip(slots, before, strict=True):
                holder[name] = value
            for kept, buffer in zip(conditions.buffers, buffers, strict=True):
                kept.holder[kept.name] = buffer
            if surfaces is not None:
                surfaces.put()
            for rng, state in zip(rngs, states, strict=False):
                rng.set_state(state)


def detached_leaves(values: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Leaves with the memory of these values, so that hooks of the parameters do not run inside a repetition."""
    return [value.detach().requires_grad_(need) for value, need in zip(values, needed, strict=True)]


class _Buffer(NamedTuple):
    """A buffer's value at an evaluation: a copy, or the tensor itself with its version counter."""

    holder: dict[str, Tensor | None]
    name: str
    value: Tensor
    is_copy: bool
    version: int | None = None

    def is_changed(self) -> bool:
        """Whether the tensor was changed in place since, where no copy was kept."""
        return not self.is_copy and version_of(self.value) != self.version


class _Conditions(NamedTuple):
    """Buffers, random states and surfaces of one evaluation."""

    buffers: list[_Buffer]
    states: list[Tensor]
    """States of the random generators, for an evaluation without a seed."""
    rngs: list[torch.Generator]
    """The generators of those states."""
    surfaces: Surfaces | None = None
    """Of a module that is not pure, because an evaluation may change them; ``None``: those of its `View`."""

    def settled(self) -> _Conditions:
        """Return the conditions after the evaluation, without copies and states that a repetition does not need."""
        buffers = []
        for kept in self.buffers:
            now = kept.holder[kept.name]
            # Comparing synchronises with the device; a small copy is cheaper to keep.
            if now is not None and kept.value.numel() > _SMALL and torch.equal(now, kept.value):
                kept = kept._replace(value=now, is_copy=False, version=version_of(now))
            buffers.append(kept)
        has_drawn = any(
            not torch.equal(state, rng.get_state()) for state, rng in zip(self.states, self.rngs, strict=True)
        )
        drawn = (self.states, self.rngs) if has_drawn else ([], [])
        return _Conditions(buffers, *drawn, self.surfaces)

    def changed(self) -> str | None:
        """Return the name of a buffer that was changed in place since and has no copy, or None."""
        return next((kept.name for kept in self.buffers if kept.is_changed()), None)

    def check(self, module: nn.Module) -> None:
        """Raise RuntimeError if `changed` names a buffer."""
        name = self.changed()
        if name is not None:
            raise RuntimeError(
                f"buffer {name!r} of {type(module).__name__} was changed in place between the forward and the "
                "backward, which evaluates it again; change it after the backward, or replace it by a new tensor"
            )


_NOTHING = _Conditions([], [], [])


def _conditions(view: View, rngs: list[torch.Generator]) -> _Conditions:
    # Copied now, because batch norm updates its statistics without a change of the version counter.
    buffers = [
        _Buffer(holder, name, value.clone(), True)
        for holder, name in view.buffers
        if (value := holder[name]) is not None
    ]
    surfaces = None if view.is_pure else Surfaces(view.parts, are_steady=False)
    return _Conditions(buffers, [rng.get_state() for rng in rngs], rngs, surfaces)


def parts_of(module: nn.Module) -> list[nn.Module]:
    """Return a module and its submodules, each once, several times faster than `nn.Module.modules`.

    Examples:
        >>> import torch
        >>> from revgnn.stack import parts_of
        >>> [type(part).__name__ for part in parts_of(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))]
        ['Sequential', 'Linear', 'ReLU']
    """
    found = {module: None}
    waiting = [module]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


@contextmanager
def _uncached() -> Iterator[None]:
    """Compute parametrized weights anew inside ``torch.nn.utils.parametrize.cached()``: one that was computed without a
    graph, or from other parameters, must not be kept for others, nor taken from them."""
    before = parametrize._cache_enabled
    if not before:
        # Nothing is written: torch.export reports a write as a side effect.
        yield
        return
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before


def generators(device: torch.device) -> list[torch.Generator]:
    """Return torch's default generators of the CPU and of a device."""
    found = [torch.default_generator]
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        of_devices = getattr(module, "default_generators", ())
        if of_devices:
            found.append(of_devices[module.current_device() if device.index is None else device.index])
    return found


@contextmanager
def _seeded(rngs: Sequence[torch.Generator], seed: int) -> Iterator[None]:
    """Seed the generators inside the context, and restore their states afterwards."""
    states = [rng.get_state() for rng in rngs]
    try:
        for rng in rngs:
            rng.manual_seed(seed)
        yield
    finally:
        for rng, state in zip(rngs, states, strict=True):
            rng.set_state(state)


def version_of(tensor: Tensor) -> int | None:
    """Return a tensor's version counter; ``None`` for an inference tensor, which has none."""
    return None if tensor.is_inference() else tensor._version


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is active; neither supports an autograd
    Function that builds no graph."""
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def check_recorders(x: object, what: str) -> None:
    """Raise RuntimeError under torch.jit.trace or torch.fx, which would record the graph, seed and mode as constants.

    Args:
        x: the stream.
        what: name of what is called, for the message.
    """
    if torch._C._get_tracing_state() is not None or not isinstance(x, Tensor):
        recorder = "torch.jit.trace" if isinstance(x, Tensor) else f"torch.fx ({type(x).__name__})"
        raise RuntimeError(
            f"{what} cannot be recorded by {recorder}: the graph, the seed and the mode of this one call would become "
            "constants; use torch.export for a module in evaluation, or torch.compile"
        )
