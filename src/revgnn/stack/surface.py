"""The surface of a module: hooks, a replaced forward and plain attributes, as a forward found them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from operator import is_
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, NamedTuple

import torch
from torch import nn

from .surroundings import has_hooks_of_all


class Surface(NamedTuple):
    """The attributes of a module, as it was found."""

    values: dict[str, Any]
    """Name -> value: plain attributes, and, of a module that has any, all hooks and a forward of its own."""
    names: Collection[str]
    """Of all its attributes."""


_HOOKS = frozenset(
    {
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
        "_backward_hooks",
        "_backward_pre_hooks",
    }
)
"""Attributes of every module: dictionaries of hooks by their number."""

_PLAIN = frozenset(
    {bool, int, float, complex, str, bytes, NoneType, FunctionType, BuiltinFunctionType, torch.dtype, torch.device}
)


class Surfaces:
    """The surfaces of modules at construction, which can be put back in place.

    Args:
        parts: the modules.
        are_steady: no evaluation changes an attribute of them, and none has hooks or a forward of its own; then all
            attributes are kept, which is cheaper than to choose the plain ones.
    """

    def __init__(self, parts: Sequence[nn.Module], *, are_steady: bool) -> None:
        self._parts, self._are_steady = parts, are_steady
        self._kinds = [type(part) for part in parts]
        self._found: Sequence[Surface]
        if are_steady:
            self._found = [Surface(own := part.__dict__.copy(), own) for part in parts]
        else:
            self._found = list(map(_surface_of, parts))

    def put(self) -> Surfaces | None:
        """Put the surfaces in place; return those that were there, or None if nothing has to be undone."""
        if self._are_steady:
            if self._are_in_place():
                return None
            self._found = [Surface(_plain_of(found.values), found.names) for found in self._found]
            self._are_steady = False
        before = Surfaces(self._parts, are_steady=False)
        for part, found, now in zip(self._parts, self._found, before._found, strict=True):
            # What takes the place of an object that can change gives it back.
            hidden = (found.values.keys() & now.names) - now.values.keys() - _HOOKS
            now.values.update((name, part.__dict__[name]) for name in hidden)
        for part, kind, found in zip(self._parts, self._kinds, self._found, strict=True):
            if type(part) is not kind:
                part.__class__ = kind
            _put(part, found)
        return before

    def _are_in_place(self) -> bool:
        """Whether the attributes are the very objects that steady modules had."""
        return (
            list(map(type, self._parts)) == self._kinds
            and all(map(_has_all, self._parts, self._found))
            and not any(map(is_watched, self._parts))
        )


_FORWARDS: dict[type[nn.Module], object] = {}
"""The forwards of classes whose modules are evaluated without being called."""


def keep_forwards(*kinds: type[nn.Module]) -> None:
    """Say that modules of these classes are evaluated without being called, unless `is_watched`."""
    _FORWARDS.update((kind, kind.forward) for kind in kinds)


def is_watched(module: nn.Module) -> bool:
    """Whether hooks see the call of this module, its own or those of all modules, or its forward is replaced, on the
    instance or on its class."""
    kind = type(module)
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or _FORWARDS.get(kind, kind.forward) is not kind.forward
        or has_hooks_of_all()
    )


def _surface_of(part: nn.Module) -> Surface:
    own = part.__dict__
    found = _plain_of(own)
    if any(own[name] for name in _HOOKS) or "forward" in own:
        found |= {name: own[name].copy() for name in _HOOKS}
        found |= {"forward": own["forward"]} if "forward" in own else {}
    return Surface(found, frozenset(own))


def _plain_of(own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    kind: type = type(value)
    return all(map(_is_plain, value)) if isinstance(value, tuple) else _is_immutable(kind)


@cache
def _is_immutable(kind: type) -> bool:
    """Whether the values of a type cannot be changed, so that keeping one keeps what it says."""
    frozen = is_dataclass(kind) and bool(kind.__dict__["__dataclass_params__"].frozen)
    return frozen or kind in _PLAIN or issubclass(kind, Enum)


def _has_all(part: nn.Module, found: Surface) -> bool:
    own = part.__dict__
    return len(own) == len(found.values) and all(map(is_, own.values(), found.values.values()))


def _put(part: nn.Module, then: Surface) -> None:
    """Give a module a surface; its dictionaries of hooks stay, because handles remove hooks from them."""
    own, now = part.__dict__, _surface_of(part).values
    for name in now.keys() - then.values.keys() - _HOOKS:
        if name not in then.names:
            own.pop(name)
    for name, value in then.values.items():
        if name not in _HOOKS:
            own[name] = value
    if now.keys() & _HOOKS or then.values.keys() & _HOOKS:
        for name in _HOOKS:
            own[name].clear()
            own[name].update(then.values.get(name, {}))
