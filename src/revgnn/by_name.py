"""Imports a user's object by its name ``package.module:Name``, also from the current folder."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def is_name(text: str) -> bool:
    """Whether a text has the form ``package.module:Name``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), name))


def find_object(name: str) -> object:
    """Import the object that ``package.module:Name`` names.

    Raises: ValueError: the text does not have this form, or the module has no such object; ImportError: the module
        cannot be imported.
    """
    if not is_name(name):
        raise ValueError(f"{name!r} must look like package.module:Name")
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    # Like `python -m`, find modules in the current folder.
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = vars(import_module(module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"there is no module {error.name!r} in {here}, on PYTHONPATH or installed; check {name}",
            name=error.name,
        ) from None
    if attribute not in found:
        names = ", ".join(key for key, value in found.items() if getattr(value, "__module__", None) == module)
        raise ValueError(f"{module} has no attribute {attribute!r}; it defines {names or 'nothing'}")
    return found[attribute]


def name_of(kind: type) -> str:
    """Return the name by which `find_object` finds a class.

    Raises: ValueError: the class is defined inside a function or another class.
    """
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not is_name(name):
        raise ValueError(
            f"{name} must be defined at the top of a module, so that a run folder can name it; move it there"
        )
    return name
