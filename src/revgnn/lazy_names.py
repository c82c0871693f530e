"""Import the public names of a package when they are first asked for, so that importing the package costs nothing"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, home_of: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: the package's ``__name__``.
        home_of: public name -> the module of the package that defines it, by its name relative to the package.
    """
    module = sys.modules[package]

    def get(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home_of[name]}", package), name)
        # Found there from now on, without this function.
        setattr(module, name, value)
        return value

    return get, lambda: sorted({*vars(module), *home_of})
