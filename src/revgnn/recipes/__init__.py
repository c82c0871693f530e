"""Complete experiments by name: every public function of a module here without arguments that returns an `Experiment`.

The name is ``<module>/<function>``, the module written as its data set is: ``ogbn-arxiv/revgcn_deep``. A new row is a
new function, a new data set a new module, and nothing else has to know.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module

from ..experiment import Experiment

Recipe = Callable[[], Experiment]


def all_recipes() -> dict[str, Recipe]:
    """Find every recipe.

    Returns: name -> function, data set by data set, each in the order of its file.
    """
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(import_module(f"{__name__}.{module.name}"))
        for name, value in members.items():
            if _is_recipe(value, f"{__name__}.{module.name}"):
                found[f"{module.name.replace('_', '-')}/{name}"] = value
    return found


def find_recipe(name: str) -> Recipe:
    """Give the recipe of a name.

    Raises: ValueError: naming those that are spelled alike, or all.
    """
    recipes = all_recipes()
    if name not in recipes:
        alike = difflib.get_close_matches(name, recipes, n=3)
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(alike or recipes)}")
    return recipes[name]


def summary(recipe: Recipe) -> str:
    """Give the first line of a recipe's docstring."""
    return (inspect.getdoc(recipe) or "").partition("\n")[0].rstrip(".")


def _is_recipe(value: object, module: str) -> bool:
    # Annotations are text here: every module imports them from __future__.
    return (
        inspect.isfunction(value)
        and value.__module__ == module
        and not value.__name__.startswith("_")
        and value.__annotations__ == {"return": "Experiment"}
    )
