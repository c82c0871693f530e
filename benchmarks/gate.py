"""No speed without correctness: the numerics tests that a case needs, run before it is measured.

The module is also the pytest plugin that selects them by their whole names. A part of a name, as ``-k`` takes it,
selects tests of other things too ("gat" those that aggregate), and a case would be refused for what it does not need.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NUMERICS = ROOT / "tests" / "numerics"


class RedGateError(Exception):
    """A numerics test that a case needs failed, or is not there."""


@cache
def check(needs: tuple[str, ...], folder: Path = NUMERICS) -> str:
    """Run the tests that a case needs, once per process.

    Args:
        needs: which, as ``file.py::test[parameters]``; a ``*`` stands for any text.
        folder: where the files are.
    Returns: pytest's summary line.
    Raises: RedGateError: if one fails, or none has one of the names.
    """
    run = subprocess.run(command(needs, folder), cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    if run.returncode == 0:
        return lines[-1].strip("= ")
    if run.returncode == pytest.ExitCode.USAGE_ERROR:
        raise RedGateError(run.stderr.strip().removeprefix("ERROR: "))
    failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else run.stderr)
    raise RedGateError(f"a numerics test that it needs is red: {failed}")


def command(needs: Sequence[str], folder: Path = NUMERICS) -> list[str]:
    """Give the command that runs the tests of these names and no other."""
    files = sorted({str(folder / need.partition("::")[0]) for need in needs})
    options = [word for need in needs for word in ("--needs", need)]
    return [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", __name__, *options, *files]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names a test."""
    parser.addoption("--needs", action="append", default=[], help="file.py::test[parameters] with * for any text")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that are needed."""
    names = [f"{item.path.name}::{item.name}" for item in items]
    wanted: set[str] = set()
    for need in config.getoption("needs"):
        pattern = re.compile(".*".join(map(re.escape, need.split("*"))))
        found = {name for name in names if pattern.fullmatch(name)}
        if not found:
            raise pytest.UsageError(f"no numerics test is named {need}; correct benchmarks/needs.py")
        wanted |= found
    items[:] = [item for item, name in zip(items, names, strict=True) if name in wanted]
