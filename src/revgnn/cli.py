"""The command line: parse the arguments with `parser` and run a module of `commands`, which is imported on demand.

Results go to standard output, progress and messages to standard error. Exit codes: 0 success, 1 the run failed, 2 a
mistake of the user's, 128 plus the signal that stopped it. Of several ranks only the first one prints; an error is
printed by the first rank that meets it, with its number.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TextIO

from .launcher import alone, bound_spinning, first_rank_speaks, is_writer, on_rank, world_size
from .paper.recipes import check_recipe
from .parser import make_parser

MISTAKES = (ValueError, TypeError, OSError, ImportError)
"""Errors that the package raises for a user's mistake; any other error is a bug and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; ``None`` takes those of the process.
    Returns: the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    try:
        is_writer()
    except ValueError as mistake:
        _print_error(f"error: {mistake}")
        return 2
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None and not (arguments.version or arguments.print_completion):
        parser.print_help(sys.stderr)
        return 2
    bound_spinning()
    several = arguments.command == "train"
    if not several and not is_writer():
        return 0
    try:
        with first_rank_speaks(everywhere=True), nullcontext() if several else alone():
            # Imported only now, so that help and usage errors appear at once.
            command = import_module(f".commands.{_module(arguments)}", __package__)
            command.run(arguments)
    except BrokenPipeError:
        # The reader has closed the pipe; discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        if is_writer():
            _print_error(str(stop) or "interrupted")
        return 128 + int(getattr(stop, "signum", signal.SIGINT))
    except (*MISTAKES, FloatingPointError, MemoryError) as mistake:
        if _is_mine_to_print(mistake):
            if arguments.debug:
                traceback.print_exc()
            _print_error(f"error{on_rank()}: {_one_line(mistake)}")
        return 1 if isinstance(mistake, FloatingPointError | MemoryError | ChildProcessError) else 2
    return 0


def _module(arguments: argparse.Namespace) -> str:
    """Return the module of a command, after a check of its recipe.

    Raises: ValueError: the argument of train or plan is neither a recipe nor a folder.
    """
    if arguments.command in ("train", "plan") and not Path(arguments.what).is_dir():
        if Path(arguments.what).is_file():
            raise ValueError(f"{arguments.what} is a file; name the folder that holds the tables, or a recipe")
        try:
            check_recipe(arguments.what)
        except ValueError as unknown:
            raise ValueError(f"{unknown}; nor is there a folder {arguments.what}") from None
    if arguments.command == "recipes" and (arguments.name is not None or arguments.json):
        if arguments.name is not None:
            check_recipe(arguments.name)
        return "recipe"
    if arguments.command is None:
        return "doctor" if arguments.version else "completion"
    return str(arguments.command)


def _print_error(text: str) -> None:
    print(f"revgnn: {text}", file=sys.stderr)  # noqa: T201


def _is_mine_to_print(error: BaseException) -> bool:
    """Whether no other rank prints the same error."""
    distributed = sys.modules.get(f"{__package__}.train.distributed.ranks")
    return world_size() == 1 or distributed is None or distributed.is_first_to_say(error)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _never_fail_to_encode(stream: TextIO | object) -> None:
    """Replace characters that a terminal cannot encode by question marks."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
