"""The command line: it parses the words by `parser`, and runs the command of `commands`, which imports what it needs.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 the run failed, 2 a
mistake in what was asked for, 128 plus the signal where one stopped it. Of several ranks the first one speaks; an
error is said by the first rank that meets it, with its number.
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
from typing import Any, TextIO

from .launcher import alone, first_rank_speaks, is_writer, on_rank, world_size
from .paper.recipes import check_recipe
from .parser import make_parser

MISTAKES = (ValueError, TypeError, OSError, ImportError)
"""What the package raises about what was asked for; anything else is a fault of its own and shows its trace."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; ``None`` takes them from the process.
    Returns: the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    several = arguments.command == "train"
    if not several and not is_writer():
        return 0
    try:
        with first_rank_speaks(everywhere=True), nullcontext() if several else alone():
            # Imported only now, so that help and mistakes in the words answer at once.
            command = import_module(f".commands.{_module(arguments)}", __package__)
            command.run(arguments)
    except BrokenPipeError:
        # Who read the output has had enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        if is_writer():
            _say(str(stop) or "interrupted")
        return 128 + int(getattr(stop, "signum", signal.SIGINT))
    except (*MISTAKES, FloatingPointError, MemoryError) as mistake:
        if _is_mine_to_say(mistake):
            if arguments.debug:
                traceback.print_exc()
            _say(f"error{on_rank()}: {_one_line(mistake)}")
        return 1 if isinstance(mistake, FloatingPointError | MemoryError | ChildProcessError) else 2
    return 0


def _module(arguments: argparse.Namespace) -> str:
    """Name the module of a command, once its words are known to make sense.

    Raises: ValueError: what is to be trained is neither a recipe nor a folder.
    """
    if arguments.command in ("train", "plan") and not Path(arguments.what).is_dir():
        try:
            check_recipe(arguments.what)
        except ValueError as unknown:
            raise ValueError(f"{unknown}; nor is there a folder {arguments.what}") from None
    if arguments.command == "recipes" and (arguments.name is not None or arguments.json):
        if arguments.name is not None:
            check_recipe(arguments.name)
        return "recipe"
    return str(arguments.command)


def _say(text: str) -> None:
    print(f"revgnn: {text}", file=sys.stderr)  # noqa: T201


def _is_mine_to_say(error: BaseException) -> bool:
    """Whether no other rank says the same."""
    distributed = sys.modules.get(f"{__package__}.train.distributed.ranks")
    return world_size() == 1 or distributed is None or distributed.is_first_to_say(error)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _never_fail_to_encode(stream: TextIO | Any) -> None:
    """Let a terminal without Unicode show a question mark where it cannot show a sign."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
