"""The parser of one command, and the arguments that several commands have"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .launcher import is_writer

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    Commands = argparse._SubParsersAction["Parser"]


class Formatter(argparse.HelpFormatter):
    """Folds a description at the width of the terminal, and leaves an example as it is written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:\n") else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    def __init__(self, *, example: str, **kwargs: Any) -> None:
        kwargs["formatter_class"] = Formatter
        super().__init__(epilog=f"example:\n{example}", allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help shows an example\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # Every rank parses the same arguments; only the first one prints usage errors.
        if is_writer():
            super()._print_message(message, file)


def whole(least: int) -> Callable[[str], int]:
    """Make the type of an argument that is a whole number of at least ``least``."""

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
        return number

    return read


def number(least: float, below: float) -> Callable[[str], float]:
    """Make the type of an argument that is a number of at least ``least`` and below ``below``."""

    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not least <= found < below:
            limit = "" if below == math.inf else f" and below {below:g}"
            raise argparse.ArgumentTypeError(f"must be a number of at least {least:g}{limit}, got {text!r}")
        return found

    return read


def add_assignments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="override a field, such as model.num_layers=112; repeatable; `revgnn recipes NAME` lists the fields",
    )


def add_data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get("REVGNN_DATA", "data")),
        help="the folder of data sets (default: $REVGNN_DATA, or data)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=["auto", "cpu"], default="auto", help="auto: an accelerator if there is one (default: auto)"
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
