"""Overrides by text: typed, all at once, and with errors that name what would have been possible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from revgnn.overrides import override
from revgnn.plain_config import flatten


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    width: int = 4
    groups: int = 2
    kind: Literal["plain", "fancy"] = "plain"
    limit: int | None = None
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    secret: int = 0

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise ValueError(f"width={self.width} must be divisible by groups={self.groups}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("width=8", 8),
        ("kind=fancy", "fancy"),
        ("limit=7", 7),
        ("limit=none", None),
        ("limit=null", None),
        ("flag=true", True),
        ("inner.rate=1e-3", 0.001),
        ("inner.rate=3", 3.0),
        ("inner.names=[a,b]", ("a", "b")),
        (" inner.names =None", None),
    ],
)
def test_values_are_typed_by_their_field(text: str, value: Any) -> None:
    changed = flatten(override(Outer(limit=1), [text]))
    name = text.partition("=")[0].strip()
    assert changed[name] == value
    assert type(changed[name]) is type(value)
    assert {key: kept for key, kept in changed.items() if key != name} == {
        key: kept for key, kept in flatten(Outer(limit=1)).items() if key != name
    }


def test_changes_apply_together_and_the_last_counts() -> None:
    # Either change alone breaks the rule between the two fields.
    changed = override(Outer(), ["width=9", "groups=5", "groups=3"])
    assert (changed.width, changed.groups) == (9, 3)
    with pytest.raises(ValueError, match="width=9 must be divisible by groups=2"):
        override(Outer(), ["width=9"])
    assert override(Outer(), []) == Outer()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth=3", "there is no field 'depth'; choose one of width, groups, kind, limit, flag, inner$"),
        ("secret=3", "there is no field 'secret'"),
        ("rate=3", "there is no field 'rate'; did you mean inner.rate[?] Else choose one of width"),
        ("iner.name=3", "there is no field 'iner'; did you mean inner.names[?] Else"),
        ("group=3", "there is no field 'group'; did you mean groups[?] Else"),
        ("inner.depth=3", "there is no field 'inner.depth'; choose one of inner.rate, inner.names$"),
        ("inner=3", "inner is a group; set one of its fields: inner.rate, inner.names$"),
        ("width.x=3", "width has no fields of its own; leave out .x"),
        ("width", "'width' must look like field=value"),
        ("width=1.5", "width must be a whole number, got '1.5'"),
        ("width=none", "width must be a whole number, got 'none'"),
        ("kind=best", "kind must be one of plain, fancy, got 'best'"),
        ("limit=x", "limit must be a whole number or none, got 'x'"),
        ("flag=3", "flag must be true or false, got '3'"),
        ("inner.rate=fast", "inner.rate must be a number, got 'fast'"),
        ("inner.names=[", "inner.names must be a list such as .* or none"),
    ],
)
def test_mistakes_name_what_would_have_been_possible(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(Outer(), [text], fixed=frozenset({"secret"}))
