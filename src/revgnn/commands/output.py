"""Output of commands: JSON, aligned facts, lines of text, and log messages above progress bars"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.logging import RichHandler

from ..console import results_console


def print_json(value: object) -> None:
    """Print one JSON value to standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print one fact per line to standard output, as aligned name and value."""
    console = results_console()
    for fact, value in facts:
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text to standard output."""
    console = results_console()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def log_to(console: Console) -> None:
    """Send the package's log messages to a console, above its progress bars on a terminal."""
    handler: logging.Handler = logging.StreamHandler(console.file)
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
    logger = logging.getLogger("revgnn")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
