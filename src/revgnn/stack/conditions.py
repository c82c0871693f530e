"""What a module's evaluation depends on besides its arguments: submodules, surfaces, buffers and random states."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .recomputing import outside_modes, turns
from .surface import Surfaces, is_altered
from .surroundings import has_hooks_of_all

_SMALL = 4096
"""Number of elements up to which a buffer's copy is kept without comparing."""


_PURE = frozenset({nn.Linear, nn.LayerNorm, nn.Identity, nn.ReLU, nn.GELU, nn.Tanh, nn.Sequential, nn.ModuleList})
"""Torch's modules without random numbers and without buffers."""


def _declares_pure(module: nn.Module) -> bool:
    # Looked up where it may be: a module without an attribute raises an error first, which takes long.
    may = hasattr(type(module), "is_pure") or "is_pure" in module.__dict__
    return may and bool(module.is_pure)


class View:
    """A module's submodules, their surfaces, and the locations of its parameters and buffers, at construction."""

    def __init__(self, module: nn.Module) -> None:
        with turns():
            self._look(module)

    def _look(self, module: nn.Module) -> None:
        self.parts = parts_of(module)
        flags = [part.training for part in self.parts]
        self.is_training = any(flags)
        """Whether any submodule is in training mode."""
        self.slots: list[tuple[dict[str, Any], str]] = []
        """For every parameter, and buffer that needs a gradient, the dictionary that holds it, and its name there."""
        self.buffers: list[tuple[dict[str, Tensor | None], str]] = []
        for part in self.parts:
            self.slots += [(part._parameters, name) for name, value in part._parameters.items() if value is not None]
            for name, value in part._buffers.items():
                if value is not None:
                    (self.slots if value.requires_grad else self.buffers).append((part._buffers, name))
        self.is_bare = not has_hooks_of_all() and not any(map(is_altered, self.parts))
        """Whether no submodule has hooks or a replaced forward."""
        self.is_pure = _declares_pure(module) or (
            self.is_bare and getattr(type(module), "pure_types", _PURE).issuperset(map(type, self.parts))
        )
        self.surfaces = Surfaces(self.parts, are_steady=self.is_pure and self.is_bare)
        """Hooks, replaced forwards and plain attributes of the submodules."""
        self.written: list[tuple[dict[str, Tensor | None], str]] = []
        """Buffers that an evaluation writes to, and its value does not depend on."""
        if self.is_pure and all(flags):
            self.written, self.buffers = self.buffers, []

    def check_repeatable(self) -> None:
        """Raise RuntimeError if a submodule gathers its weights for a call alone: a repetition would find shards."""
        # Its hooks gather them.
        for part in () if self.is_bare else self.parts:
            if hasattr(type(part), "_get_fsdp_state"):
                raise RuntimeError(
                    "a block that is evaluated again in the backward cannot be sharded by itself, because its weights "
                    f"are gathered for a call alone: got {type(part).__name__}; call fully_shard on the whole stack, "
                    "or on each layer of a chain of GroupAddRev"
                )

    def own(self, x: Tensor, *, is_watched: bool) -> Tensor:
        """Return the module's input, copied where hooks may keep it: it is memory of the stream, which goes on."""
        return x if self.is_bare and not is_watched else x.clone()


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


class Conditions(NamedTuple):
    """Buffers, random states and surfaces of one evaluation."""

    buffers: list[_Buffer]
    states: list[Tensor]
    """States of the random generators, for an evaluation without a seed."""
    rngs: list[torch.Generator]
    """The generators of those states."""
    surfaces: Surfaces | None = None
    """Of a module that is not pure, because an evaluation may have changed them; ``None``: those of its `View`."""

    def settled(self) -> Conditions:
        """Return the conditions after the evaluation, without copies and states that a repetition does not need."""
        buffers = []
        for kept in self.buffers:
            now = kept.holder[kept.name]
            # Comparing synchronises with the device; a small copy is cheaper to keep.
            is_large = now is not None and now.numel() > _SMALL and type(now) is Tensor and not now.is_meta
            if now is not None and is_large and torch.equal(now, kept.value):
                kept = kept._replace(value=now, is_copy=False, version=version_of(now))
            buffers.append(kept)
        with outside_modes():
            pairs = zip(self.states, self.rngs, strict=True)
            has_drawn = any(not torch.equal(state, rng.get_state()) for state, rng in pairs)
        drawn = (self.states, self.rngs) if has_drawn else ([], [])
        return Conditions(buffers, *drawn, self.surfaces)

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


NOTHING = Conditions([], [], [])


def conditions_of(view: View, rngs: list[torch.Generator]) -> Conditions:
    # Copied now, because batch norm updates its statistics without a change of the version counter.
    buffers = [
        _Buffer(holder, name, value.clone(), True)
        for holder, name in view.buffers
        if (value := holder[name]) is not None
    ]
    surfaces = None if view.is_pure else view.surfaces.now()
    return Conditions(buffers, [rng.get_state() for rng in rngs], rngs, surfaces)


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


def generators(device: torch.device) -> list[torch.Generator]:
    """Return torch's default generators of the CPU and of a device."""
    found = [torch.default_generator]
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        of_devices = getattr(module, "default_generators", ())
        if of_devices:
            found.append(of_devices[module.current_device() if device.index is None else device.index])
    return found


def version_of(tensor: Tensor) -> int | None:
    """Return a tensor's version counter; ``None`` for an inference tensor, which has none."""
    return None if tensor.is_inference() else tensor._version
