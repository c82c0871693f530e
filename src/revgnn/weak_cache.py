"""The last value that was made of an object: kept while the object lives and is what it was, and no longer."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Memo(Generic[_T]):
    """One value and the object that it was made of.

    Any threads may ask at once: at worst both make a value. Copies and pickles of a memo are empty.
    """

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Any], list[Any]] | None = None

    def get(self, owner: object, mark: object, make: Callable[[], _T]) -> _T:
        """Return the value that was made of ``owner``, or make it.

        Args:
            owner: what the value is made of; when it dies, the value is let go of.
            mark: tells whether ``owner`` is what it was, by ``==``; kept as long as the value.
            make: makes the value.
        """
        last = self._last  # read once: another thread may put its own there
        if last is not None and last[0]() is owner and last[1][0] == mark:
            found: _T = last[1][1]
            return found
        value = make()
        kept: list[Any] = [mark, value]
        # The callback empties a list, which needs no lock and makes no cycle.
        self._last = weakref.ref(owner, lambda _: kept.clear()), kept
        return value

    def __reduce__(self) -> tuple[type[Memo[_T]], tuple[()]]:
        return type(self), ()
