"""Complete experiments by name: every public function of a module here without arguments that returns an `Experiment`.

The name is ``<module>/<function>``, the module written as its data set is: ``ogbn-arxiv/revgcn_deep``. A new row is a
new function, a new data set a new module, and nothing else has to know. Names and first lines are read from the source,
so that a list of recipes and a mistyped name cost no import of the package; a recipe's module is imported when one of
its recipes is asked for.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...experiment import Experiment

    Recipe = Callable[[], Experiment]


def all_recipes() -> dict[str, Recipe]:
    """Import every recipe.

    Returns: name -> function, data set by data set, each in the order of its file.
    """
    return {name: find_recipe(name) for name in recipe_summaries()}


def find_recipe(name: str) -> Recipe:
    """Import the recipe of a name.

    Raises: ValueError: naming those that are spelled alike, or all.
    """
    check_recipe(name)
    dataset, _, function = name.partition("/")
    recipe: Recipe = getattr(import_module(f"{__name__}.{dataset.replace('-', '_')}"), function)
    return recipe


def check_recipe(name: str) -> None:
    """See that there is a recipe of this name, without importing it.

    Raises: ValueError: naming those that are spelled alike, or all.
    """
    names = recipe_summaries()
    if name not in names:
        alike = difflib.get_close_matches(name, names, n=3)
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(alike or names)}")


@cache
def recipe_summaries() -> dict[str, str]:
    """Give the name of every recipe and the first line of its docstring, without importing it."""
    return {
        f"{path.stem.replace('_', '-')}/{function.name}": _first_line(function)
        for path in sorted(Path(__file__).parent.glob("*.py"))
        for function in _public_functions(path)
        if not function.args.args
    }


@cache
def table_models() -> tuple[str, ...]:
    """Name the models that `tables` offers for a folder of the user's own, without importing them."""
    return tuple(
        function.name
        for function in _public_functions(Path(__file__).with_name("tables.py"))
        if function.name != "on_tables"
    )


def _public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        if isinstance(node.returns, ast.Name) and node.returns.id == "Experiment":
            yield node


def _first_line(function: ast.FunctionDef) -> str:
    return (ast.get_docstring(function) or "").partition("\n")[0].rstrip(".")
