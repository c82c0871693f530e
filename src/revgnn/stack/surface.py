"""The surface of a module: hooks, a replaced forward and plain attributes, as a forward found them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import cache, lru_cache
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
            self._found = [Surface(own, own) for own in [part.__dict__.copy() for part in parts]]
        else:
            self._found = list(map(_surface_of, parts))

    def now(self) -> Surfaces | None:
        """The surfaces as they are now, or None if they are these."""
        now = Surfaces(self._parts, are_steady=False)
        return None if all(map(_is_same, self._found, now._found)) else now

    def put(self) -> Surfaces | None:
        """Put the surfaces in place; return those that were there, or None if nothing has to be undone."""
        if self._are_steady:
            if self._are_in_place():
                return None
            self._found = [Surface(plain_of(found.values), found.names) for found in self._found]
            self._are_steady = False
        before = Surfaces(self._parts, are_steady=False)
        for part, found, now in zip(self._parts, self._found, before._found, strict=True):
            # What takes the place of an object that can change gives it back.
            own, seen = part.__dict__, now.values
            hidden = {name: own[name] for name in found.values if name not in seen and name in own}
            seen |= {name: value for name, value in hidden.items() if name not in _HOOKS}
        self._replace(before._found)
        return before

    def restore(self) -> None:
        """Put the surfaces in place after a repetition."""
        self._replace(list(map(_surface_of, self._parts)))

    def _replace(self, present: Sequence[Surface]) -> None:
        for part, kind, found, now in zip(self._parts, self._kinds, self._found, present, strict=True):
            if type(part) is not kind:
                part.__class__ = kind
            _put(part, found, now.values)

    def _are_in_place(self) -> bool:
        """Whether the attributes are the very objects that steady modules had."""
        return (
            list(map(type, self._parts)) == self._kinds
            and all(map(_has_all, self._parts, self._found))
            and not any(map(_has_hooks, self._parts))
        )


_FORWARDS: dict[type[nn.Module], object] = {}
"""The forwards of classes whose modules are evaluated without being called."""


def keep_forwards(*kinds: type[nn.Module]) -> None:
    """Say that modules of these classes are evaluated without being called, unless `is_watched`.

    Examples:
        >>> import torch
        >>> from revgnn.stack import keep_forwards
        >>> class Scale(torch.nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> keep_forwards(Scale)  # a fused block may compute 2 * x itself, until someone replaces Scale.forward
    """
    _FORWARDS.update((kind, kind.forward) for kind in kinds)


def is_altered(module: nn.Module) -> bool:
    """Whether this module has hooks, or its forward is replaced, on the instance or on its class."""
    return _has_hooks(module) or "forward" in module.__dict__ or is_replaced(type(module))


def is_replaced(kind: type[nn.Module]) -> bool:
    """Whether a class of `keep_forwards` has another forward now."""
    own = _FORWARDS.get(kind)
    return own is not None and own is not kind.forward


def is_watched(module: nn.Module) -> bool:
    """Whether this module `is_altered`, or hooks of all modules see its call.

    Examples:
        >>> import torch
        >>> from revgnn.stack import is_watched
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> handle = net[0].register_forward_hook(print)
        >>> is_watched(net), is_watched(net[0])
        (False, True)
    """
    return is_altered(module) or has_hooks_of_all()


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _surface_of(part: nn.Module) -> Surface:
    own = part.__dict__
    found = plain_of(own)
    if _has_hooks(part) or "forward" in own:
        found |= {name: own[name].copy() for name in _HOOKS}
        found |= {"forward": own["forward"]} if "forward" in own else {}
    return Surface(found, _set_of(tuple(own)))


_set_of = lru_cache(maxsize=1024)(frozenset[str])
"""One set for all modules with the same attributes: a chain keeps the surface of every module of every layer."""


def plain_of(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return those attributes that cannot be changed but by setting them."""
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
    return _are_same(part.__dict__, found.values)


def _is_same(one: Surface, other: Surface) -> bool:
    return one.names == other.names and list(one.values) == list(other.values) and _are_same(one.values, other.values)


def _are_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two modules' attributes of the same names are the very same objects."""
    return len(one) == len(other) and all(map(is_, one.values(), other.values()))


def _put(part: nn.Module, then: Surface, now: Mapping[str, Any]) -> None:
    """Give a module a surface in place of what is there ``now``; its dictionaries of hooks stay, because handles remove
    hooks from them."""
    own = part.__dict__
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
