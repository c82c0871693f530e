"""``revgnn --print-completion SHELL``: print the script that completes commands, flags, files and recipes"""

from __future__ import annotations

import argparse
from argparse import Namespace

from ..paper.recipes import all_recipes
from ..parser import make_parser
from .output import print_lines

_FOLDERS, _FILES = ("DIR", "FOLDER", "RUN"), ("FILE",)


def run(arguments: Namespace) -> None:
    """Print the script.

    Raises: ModuleNotFoundError: shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("completion needs shtab: pip install 'revgnn[completion]'") from error
    parser = make_parser()
    _mark(parser, shtab.FILE, shtab.DIRECTORY)
    print_lines([shtab.complete(parser, shell=arguments.print_completion)])


def _mark(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Say of each argument of a parser, and of those below it, what completes it; shtab reads it from the actions."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark(below, file, folder)
        elif action.metavar in _FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]
        elif action.metavar in _FILES:
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in ("RECIPE", "RECIPE|FOLDER"):
            action.choices = list(all_recipes())
            if action.metavar != "RECIPE":
                action.complete = folder  # type: ignore[attr-defined]
