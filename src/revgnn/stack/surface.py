"""The surface of a module: hooks, a replaced forward and plain attributes, as a forward found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from operator import is_
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import torch
from torch import nn

Surface = Mapping[str, Any]
"""Name of an attribute -> its value: plain attributes, and, of a module that has any, all hooks and a forward of its
own."""

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
        self._found: Sequence[Surface] = [part.__dict__.copy() if are_steady else _surface_of(part) for part in parts]

    def put(self) -> Surfaces | None:
        """Put the surfaces in place; return those that were there, or None if nothing has to be undone."""
        if self._are_steady:
            if self._are_in_place():
                return None
            self._found, self._are_steady = [_plain_of(found) for found in self._found], False
        before = Surfaces(self._parts, are_steady=False)
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


def is_watched(module: nn.Module) -> bool:
    """Whether this module itself has hooks or a replaced forward.

    Examples:
        >>> import torch
        >>> from revgnn.stack import is_watched
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> handle = net[0].register_forward_hook(print)
        >>> is_watched(net), is_watched(net[0])
        (False, True)
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _surface_of(part: nn.Module) -> Surface:
    own = part.__dict__
    found = _plain_of(own)
    if is_watched(part):
        found |= {name: own[name].copy() for name in _HOOKS}
        found |= {"forward": own["forward"]} if "forward" in own else {}
    return found


def _plain_of(own: Surface) -> dict[str, Any]:
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
    return len(own) == len(found) and all(map(is_, own.values(), found.values()))


def _put(part: nn.Module, then: Surface) -> None:
    """Give a module a surface; its dictionaries of hooks stay, because handles remove hooks from them."""
    own, now = part.__dict__, _surface_of(part)
    for name in now.keys() - then.keys() - _HOOKS:
        own.pop(name)
    for name, value in then.items():
        if name not in _HOOKS:
            own[name] = value
    if now.keys() & _HOOKS or then.keys() & _HOOKS:
        for name in _HOOKS:
            own[name].clear()
            own[name].update(then.get(name, {}))
