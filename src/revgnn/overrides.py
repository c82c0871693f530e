"""Override fields of nested dataclasses by text, such as ``model.num_layers=112``.

jsonargparse converts values by the dataclasses' annotations; errors list the allowed fields or types.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from .plain_config import flatten, name_of_type

T = TypeVar("T")


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
        place, value, near = changes, config, partial(_nearest, name.strip(), config)
        for depth, part in enumerate(path):
            value = _field(value, part, ".".join(path[:depth]), fixed if depth == 0 else frozenset(), near)
            if not is_dataclass(value):
                raise ValueError(f"{'.'.join(path[: depth + 1])} has no fields of its own; leave out .{last}")
            place = place.setdefault(part, {})
        current = _field(value, last, ".".join(path), frozenset() if path else fixed, near)
        if is_dataclass(current):
            names = ", ".join(f"{name}.{field.name}" for field in fields(current))
            raise ValueError(f"{name} is a group; set one of its fields: {names}")
        place[last] = _typed(name, get_type_hints(type(value))[last], text)
    changed: T = _applied(config, changes)
    return changed


def _field(config: Any, name: str, where: str, fixed: frozenset[str], near: Callable[[], list[str]]) -> Any:
    names = [field.name for field in fields(config) if field.name not in fixed]
    if name not in names:
        what = f"{where}.{name}" if where else name
        prefix = f"{where}." if where else ""
        found = near()
        meant = f"did you mean {' or '.join(found)}? Else " if found else ""
        raise ValueError(
            f"there is no field {what!r}; {meant}choose one of {', '.join(prefix + known for known in names)}"
        )
    return getattr(config, name)


def _nearest(name: str, config: Any) -> list[str]:
    """Return at most two fields that a wrong dotted name may have meant, the nearest first."""
    group, _, last = name.rpartition(".")

    def likeness(known: str) -> float:
        own_group, _, own = known.rpartition(".")
        shorter, longer = sorted((last, own), key=len)
        is_part = len(shorter) > 3 and 3 * len(shorter) > len(longer) and shorter in longer
        alike = 1.0 if own == last else 0.9 if is_part else SequenceMatcher(None, last, own).ratio()
        return alike + 0.05 * (own_group == group)

    scores = {known: likeness(known) for known in flatten(config)}
    least = max(0.75, max(scores.values()) - 0.06)
    return sorted((known for known in scores if scores[known] >= least), key=lambda known: -scores[known])[:2]


def _typed(name: str, hint: object, text: str) -> object:
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if types.NoneType in allowed and text.strip().lower() in ("none", "null"):
        return None
    if tuple[str, ...] in allowed and not text.strip().startswith("["):
        return tuple(text.split(","))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_args([f"--value={text}"]).value
    except ArgumentError:
        raise ValueError(f"{name} must be {' or '.join(name_of_type(one) for one in allowed)}, got {text!r}") from None


def _applied(config: Any, changes: Mapping[str, object]) -> Any:
    values = {
        name: _applied(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(config, **values)
