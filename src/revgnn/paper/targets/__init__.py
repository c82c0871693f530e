"""Targets: the figures that the paper prints, by recipe"""

from __future__ import annotations

from . import ogbg_molhiv, ogbn_arxiv, ogbn_products, ogbn_proteins
from .target import TableRow, Target

__all__ = ["TARGETS", "TableRow", "Target", "find_target"]

TARGETS: dict[str, Target] = {
    f"{module.__name__.rpartition('.')[2].replace('_', '-')}/{recipe}": target
    for module in (ogbn_proteins, ogbn_arxiv, ogbn_products, ogbg_molhiv)
    for recipe, target in module.TARGETS.items()
}
"""Name of a recipe -> its target."""


def find_target(recipe: str) -> Target | None:
    """Return the target of a recipe; ``None``: the recipe is no row of the paper."""
    return TARGETS.get(recipe)
