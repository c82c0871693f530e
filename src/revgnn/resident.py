"""Measure the resident memory of this process: its peak and its growth, from the operating system's counters.

Resident memory is what users see and what the out-of-memory killer goes by: tensors, free memory that malloc keeps,
Python and its libraries. Nothing is sampled and malloc is not changed: the system records the peak itself.
"""

from __future__ import annotations

import gc
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from .malloc import trim

if sys.platform != "win32":
    import resource

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"
"""The value that makes Linux reset the peak resident size to the current one."""


class ResidentFacts(TypedDict):
    """The peak resident memory of a process, for a report."""

    growth_bytes: int | None
    """Above the interpreter and its libraries; ``None``: the system does not report it."""
    process_bytes: NotRequired[int | None]
    """In total; missing in a summary of several runs, and so is ``how``."""
    how: NotRequired[str]


class ResidentPeak:
    """The peak resident size of this process since `begin`, and its growth since construction.

    Growth excludes the interpreter and the libraries loaded before. It includes everything allocated later: weights,
    gradients, optimizer state, temporaries, free memory that malloc keeps, events of an allocation recording, and
    libraries loaded meanwhile. It excludes worker processes and other ranks. Linux counts pages per core in batches, so
    that growth below one or two megabytes is inexact.

    With glibc's malloc, free memory is returned to the system first, because it would be reused unnoticed; with another
    malloc, growth is too small by that amount.

    On Linux the system's peak is reset for the whole process (``VmHWM`` and ``ru_maxrss``). If that is not permitted,
    an earlier higher peak remains: an upper bound. Elsewhere (macOS) the system reports only the peak, so that growth
    is relative to the earlier peak: a lower bound.

    Args:
        held: bytes that are allocated already and count as growth: data that were read before.
    """

    def __init__(self, held: int = 0) -> None:
        give_back()
        before, self._is_forgotten = resident_now(), False
        self._knows_present = before is not None
        base = _highest() if before is None else before
        self._base = None if base is None else base - held
        self.begin()

    def begin(self) -> None:
        """Reset the peak to the current size, if the system permits it; growth keeps its baseline."""
        try:
            _CLEAR.write_text(_FORGET_PEAK)
            self._is_forgotten = True
        except OSError:
            self._is_forgotten = False

    @property
    def process(self) -> int | None:
        """The peak in bytes, interpreter and libraries included; ``None`` if the system does not report it."""
        return _highest()

    @property
    def growth(self) -> int | None:
        """The peak minus the size at construction, in bytes; ``None`` if the system does not report it."""
        highest = _highest()
        return None if highest is None or self._base is None else max(highest - self._base, 0)

    @property
    def how(self) -> str:
        """How the figures were measured, for a report."""
        if self._base is None:
            return "not known on this system"
        if not self._knows_present:
            return "highest resident size of the process, above the highest before: a lower bound"
        return "highest resident size of the process" + ("" if self._is_forgotten else ", of its whole life")

    def facts(self) -> ResidentFacts:
        """Return the figures for a report."""
        return {"growth_bytes": self.growth, "process_bytes": self.process, "how": self.how}


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Peak resident memory, in bytes."""

    growth: int
    """Growth of the process."""
    process: int
    """Peak size of the process, interpreter and libraries included."""


def load_libraries() -> None:
    """Import what torch's optimizers and the metrics import on first use, so that it does not count as growth."""
    for library in ("torch._dynamo", "torchmetrics.functional"):
        importlib.import_module(library)


def resident_now() -> int | None:
    """Return the resident size of this process in bytes; ``None`` if the system does not report it."""
    return _status("VmRSS")


def give_back() -> None:
    """Return free memory of malloc to the system."""
    gc.collect()
    trim()


def _highest() -> int | None:
    found = _status("VmHWM")
    if found is None and sys.platform != "win32":
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = highest if sys.platform == "darwin" else 1024 * highest
    return found


def _status(field: str) -> int | None:
    """Return a field of Linux's process status in bytes; ``None`` if it is missing."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
