"""The code blocks of the documents, run as modules of their own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def blocks(text: str, language: str) -> list[str]:
    """The code of a page's fenced blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run_code(name: str, code: list[str]) -> ModuleType:
    """Run blocks of Python, one after another, as one module."""
    module = ModuleType(re.sub(r"\W", "_", name))
    sys.modules[module.__name__] = module  # where annotations and names of classes are looked up
    exec(compile("\n".join(code), name, "exec"), module.__dict__)
    return module


def promised(code: list[str]) -> list[str]:
    """What prints say that they print, in a comment behind them."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(code), flags=re.MULTILINE)
