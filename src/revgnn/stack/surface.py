"""The surface of a module: its hooks and a forward that was replaced on it, as a forward found them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

Surface = Mapping[str, Any]
"""Name of an attribute -> its value; empty for a module without hooks and with the forward of its class."""

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Attributes of every module: dictionaries of hooks by their number."""


def surface_of(part: nn.Module) -> Surface:
    """Return a module's own; empty for a module that has none."""
    if not is_watched(part):
        return {}
    own = part.__dict__
    found = {name: own[name].copy() for name in _HOOKS}
    return {**found, "forward": own["forward"]} if "forward" in own else found


def put_surfaces(parts: Sequence[nn.Module], surfaces: Sequence[Surface]) -> list[tuple[nn.Module, Surface]]:
    """Put surfaces in place; return the modules that had others, with these."""
    changed: list[tuple[nn.Module, Surface]] = []
    for part, surface in zip(parts, surfaces, strict=True):
        if (surface or is_watched(part)) and surface_of(part) != surface:
            # The dictionaries themselves, in which handles of hooks remove them.
            own = {name: part.__dict__[name] for name in (*_HOOKS, "forward") if name in part.__dict__}
            changed.append((part, own))
            put_surface(part, surface)
    return changed


def put_surface(part: nn.Module, surface: Surface) -> None:
    """Give a module these hooks and this forward."""
    part.__dict__.pop("forward", None)
    part.__dict__.update({name: OrderedDict() for name in _HOOKS})
    part.__dict__.update(surface)


def is_watched(module: nn.Module) -> bool:
    """Whether this module itself has hooks or a replaced forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
