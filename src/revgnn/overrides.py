"""Override fields of nested dataclasses by text (``model.num_layers=112``), flatten them, read them from JSON.

jsonargparse converts values by the dataclasses' annotations; errors list the allowed fields or types.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "none"}


def override(config: T, assignments: Iterable[str], *, fixed: frozenset[str] = frozenset()) -> T:
    """Return a copy of a configuration with some fields changed, all at once.

    Args:
        config: a frozen dataclass, possibly nested.
        assignments: texts ``a.b=value``; a later one wins. ``none`` means None if the field allows it.
        fixed: top-level fields that must not be changed.
    Returns: the changed copy.
    Raises: ValueError: an unknown field, listing the known ones; a value of the wrong type, naming the allowed ones; a
        combination that the dataclasses reject.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} must look like field=value, such as model.num_layers=112")
        *path, last = name.strip().split(".")
        place, value = changes, config
        for depth, part in enumerate(path):
            value = _field(value, part, ".".join(path[:depth]), fixed if depth == 0 else frozenset())
            if not is_dataclass(value):
                raise ValueError(f"{'.'.join(path[: depth + 1])} has no fields of its own; leave out .{last}")
            place = place.setdefault(part, {})
        current = _field(value, last, ".".join(path), frozenset() if path else fixed)
        if is_dataclass(current):
            names = ", ".join(f"{name}.{field.name}" for field in fields(current))
            raise ValueError(f"{name} is a group; set one of its fields: {names}")
        place[last] = _typed(name, get_type_hints(type(value))[last], text)
    changed: T = _applied(config, changes)
    return changed


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
    raise ValueError(f"{where} must be {_name_of(hint)}, got {value!r}")


def _field(config: Any, name: str, where: str, fixed: frozenset[str]) -> Any:
    names = [field.name for field in fields(config) if field.name not in fixed]
    if name not in names:
        what = f"{where}.{name}" if where else name
        prefix = f"{where}." if where else ""
        raise ValueError(f"there is no field {what!r}; choose one of {', '.join(prefix + known for known in names)}")
    return getattr(config, name)


def _typed(name: str, hint: Any, text: str) -> Any:
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if types.NoneType in allowed and text.strip().lower() in ("none", "null"):
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_args([f"--value={text}"]).value
    except ArgumentError:
        raise ValueError(f"{name} must be {' or '.join(_name_of(one) for one in allowed)}, got {text!r}") from None


def _name_of(hint: Any) -> str:
    """Return the name of a type in messages."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (tuple, list):
        return "a list such as [a, b]"
    return _NAMES.get(hint, str(hint))


def _applied(config: Any, changes: Mapping[str, Any]) -> Any:
    values = {
        name: _applied(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(config, **values)
