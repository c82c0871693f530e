"""`Memo`: caches the last value derived from an object while that object lives unchanged"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Memo(Generic[_T]):
    """A cache of one value, derived from one object that it references weakly.

    Thread-safe: concurrent calls compute the value more than once at worst. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[object], list[tuple[object, _T]]] | None = None

    def get(self, owner: object, version: object, make: Callable[[], _T]) -> _T:
        """Return the cached value of ``owner``, or compute and cache it.

        Args:
            owner: the object that the value is derived from; the value is freed with it.
            version: compared by ``==`` to detect changes of ``owner``.
            make: computes the value.
        """
        last = self._last  # read once, because another thread may replace it
        if last is not None and last[0]() is owner:
            known, found = last[1][0]
            if known == version:
                return found
        value = make()
        entry = [(version, value)]
        # The callback clears a list, which needs no lock and creates no reference cycle.
        self._last = weakref.ref(owner, lambda _: entry.clear()), entry
        return value

    def __reduce__(self) -> tuple[type[Memo[_T]], tuple[()]]:
        return type(self), ()
