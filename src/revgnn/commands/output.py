"""How commands answer: JSON for programs, aligned facts for people, and the package's own messages beside a bar."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from ..console import results_console


def print_json(value: Any) -> None:
    """Write one JSON value to standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Write one fact a line to standard output, its name before it."""
    console = results_console()
    for fact, value in facts:
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Write lines of text to standard output."""
    console = results_console()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def log_to(console: Console) -> None:
    """Show the package's own messages where its bars move, so that neither breaks the other; plain lines elsewhere."""
    handler: logging.Handler = logging.StreamHandler(console.file)
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
    logger = logging.getLogger("revgnn")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
