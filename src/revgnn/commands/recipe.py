"""``revgnn recipes NAME``: show every field of a recipe, or of all recipes as JSON"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from ..experiment import as_json
from ..paper.recipes import find_recipe, recipe_summaries
from ..paper.targets import find_target
from ..plain_config import flatten
from .output import print_json, print_lines


def run(arguments: Namespace) -> None:
    """Show one recipe, or all as JSON."""
    if arguments.name is None:
        print_json([_facts(name) for name in recipe_summaries()])
        return
    name = arguments.name
    if arguments.json:
        print_json(_facts(name))
        return
    fields = flatten(find_recipe(name)())
    target = find_target(name)
    if target is not None:
        fields.update(flatten(target, "paper."))
    lines = [f"  {field} = {'none' if value is None else value}" for field, value in fields.items()]
    print_lines([f"{name}: {recipe_summaries()[name]}", *lines])


def _facts(name: str) -> dict[str, object]:
    experiment, target = find_recipe(name)(), find_target(name)
    return {
        "name": name,
        "summary": recipe_summaries()[name],
        **as_json(experiment),
        "paper": None if target is None else asdict(target),
    }
