"""Recipes: complete experiments by name, one function each.

A recipe is a public function without arguments in a module of this folder that returns an `Experiment`. Its name is
``<module>/<function>``, the module spelled like its data set: ``ogbn-arxiv/revgcn_deep``. A new row is a new function,
a new data set a new module; nothing is registered elsewhere. Names and first lines are parsed from the source, so that
listing recipes or reporting a mistyped name imports nothing; `find_recipe` imports a recipe's module.
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
    """Import a recipe by name.

    Raises: ValueError: an unknown name; the message lists similar names.
    """
    check_recipe(name)
    dataset, _, function = name.partition("/")
    recipe: Recipe = getattr(import_module(f"{__name__}.{dataset.replace('-', '_')}"), function)
    return recipe


def check_recipe(name: str) -> None:
    """Check that a recipe exists, without importing it.

    Raises: ValueError: an unknown name; the message lists similar names.
    """
    names = recipe_summaries()
    if name not in names:
        alike = difflib.get_close_matches(name, names, n=3)
        those = f"choose one of {', '.join(alike)}" if alike else "`revgnn recipes` lists all"
        raise ValueError(f"there is no recipe {name!r}; {those}")


@cache
def recipe_summaries() -> dict[str, str]:
    """Map the name of every recipe to the first line of its docstring, without importing it."""
    return {
        f"{path.stem.replace('_', '-')}/{function.name}": _first_line(function)
        for path in sorted(Path(__file__).parent.glob("*.py"))
        for function in _public_functions(path)
        if not function.args.args
    }


@cache
def table_models() -> tuple[str, ...]:
    """List the models of `tables` for a user's folder, without importing them."""
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
