"""Nested configuration dataclasses as plain values: flattened by dotted name, and restored from JSON"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "none"}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dataclasses and mappings to their leaves by dotted name.

    Args:
        config: a dataclass or a mapping.
        prefix: prepended to every name.
    """
    values = config if isinstance(config, Mapping) else {f.name: getattr(config, f.name) for f in fields(config)}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_nested = isinstance(value, Mapping) or is_dataclass(value)
        flat.update(flatten(value, f"{prefix}{key}.") if is_nested else {f"{prefix}{key}": value})
    return flat


def changed_fields(config: Any, where: str = "") -> list[str]:
    """Return the dotted names of the fields of nested dataclasses that differ from their defaults, or have none."""
    names = []
    for field in fields(config):
        value, name = getattr(config, field.name), f"{where}.{field.name}" if where else field.name
        if is_dataclass(value) and not isinstance(value, type):
            names += changed_fields(value, name)
        elif field.default_factory is not MISSING:
            names += [name] if value != field.default_factory() else []
        elif field.default is MISSING or value != field.default:
            names.append(name)
    return names


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Restore a configuration from the JSON of its `asdict`.

    Args:
        kind: the frozen dataclass.
        value: the JSON object.
        where: its dotted name, for errors.
    Returns: the configuration.
    Raises: ValueError: an unknown or missing field, or a value of another type, by its dotted name.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or kind.__name__} must be an object, got {type(value).__name__}")
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(value) != names:
        wrong = ", ".join(sorted(set(value) ^ names))
        raise ValueError(f"{where or kind.__name__} has other fields than it should: {wrong}")
    hints = get_type_hints(kind)
    return kind(**{name: _restored(hints[name], value[name], f"{where}.{name}" if where else name) for name in value})


def _restored(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if getattr(hint, "_is_protocol", False):
        return value  # an object that the caller has restored already
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        # Of several dataclasses, choose the one with the same fields.
        fitting = [one for one in arguments if is_dataclass(one) and isinstance(value, Mapping)]
        fitting = [one for one in fitting if {field.name for field in fields(one)} == set(value)]
        others = [one for one in arguments if one is not types.NoneType and not is_dataclass(one)]
        return _restored((fitting or others or [arguments[0]])[0], value, where)
    if is_dataclass(hint):
        return from_json(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        inner = [arguments[0]] * len(value) if arguments[-1:] == (Ellipsis,) else list(arguments)
        if len(inner) == len(value):
            return tuple(_restored(one, each, where) for one, each in zip(inner, value, strict=True))
    allowed = (int, float) if hint is float else (hint,)
    if value in arguments if origin is Literal else type(value) in allowed:
        return value
    raise ValueError(f"{where} must be {name_of_type(hint)}, got {value!r}")


def check_literals(config: object) -> None:
    """Check every field of a dataclass that takes one of a few values.

    Raises: ValueError: a field has another; the message lists those that there are.
    """
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            raise ValueError(f"{name}={getattr(config, name)!r} is not known; choose one of {choices}")


def name_of_type(hint: Any) -> str:
    """Return the name of a type as messages write it."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (tuple, list):
        return "a list such as [a, b]"
    return _NAMES.get(hint, str(hint))
