"""No speed without correctness: the numerics tests of a case, run before it is measured."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NO_TESTS = 5  # pytest's exit status where -k matches nothing


class RedGateError(Exception):
    """The numerics tests of a case failed, or there are none."""


@cache
def check(expression: str, folder: Path = ROOT / "tests" / "numerics") -> str:
    """Run the tests that a case depends on, once per process.

    Args:
        expression: which, as pytest's ``-k`` takes it.
        folder: where they are.
    Returns: pytest's summary line.
    Raises: RedGateError: if one fails or none is found.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(folder), "-k", expression]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    if run.returncode == 0:
        return lines[-1].strip("= ")
    if run.returncode == _NO_TESTS:
        raise RedGateError(f"no test in {folder} matches -k {expression!r}; correct the case's entry in the registry")
    failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else run.stderr)
    raise RedGateError(f"its numerics tests (-k {expression!r}) are red: {failed}")
