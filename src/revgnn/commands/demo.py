"""``revgnn demo``: show what depth brings and costs, on a generated field of Minesweeper"""

from __future__ import annotations

from argparse import Namespace

from ..console import progress_console, results_console
from ..demo import run_demo
from ..run_lock import claimed
from .output import log_to, print_json


def run(arguments: Namespace) -> None:
    """Show what depth brings and what it takes, on a generated field of Minesweeper."""
    errors = progress_console()
    log_to(errors)
    console = None if arguments.json else results_console()
    # Locked beside the folder, because an earlier demo in it is removed.
    with claimed(arguments.out, beside=True):
        result = run_demo(arguments.out, results=console, progress=errors)
    if arguments.json:
        print_json(result)
