"""``revgnn recipes``: list the recipes, without heavy imports"""

from __future__ import annotations

from argparse import Namespace

from ..console import print_table, results_console
from ..paper.recipes import recipe_summaries, table_models
from .output import print_lines


def run(arguments: Namespace) -> None:
    """List the name and the summary of every recipe."""
    rows = [[name, text] for name, text in recipe_summaries().items()]
    print_table(results_console(), ["recipe", "what it is"], rows, text=2)
    print_lines(["", f"On a graph of your own: revgnn train FOLDER --model {'|'.join(table_models())}"])
