"""What a stretch of a run takes of the machine, as the system counts it: the resident size of this process.

It is what a user sees and what the system kills by: tensors, what malloc keeps beside them, Python and its libraries.
Nothing is sampled and malloc is left as it is: the system keeps the highest size by itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if sys.platform != "win32":
    import resource

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"
"""What Linux takes as the request to let the highest resident size begin anew at the present one."""


class ResidentPeak:
    """The highest resident size of this process from `begin` on, and its growth above that at the making.

    Growth leaves out the interpreter and the libraries that were loaded before. It includes whatever was allocated
    after: weights, gradients, the optimizer's state, temporaries, free memory that malloc keeps, the notes of a
    recording, and libraries that are loaded meanwhile. Of worker processes and of other ranks it knows nothing. Linux
    counts pages per core in bundles, so that small growths (below a megabyte or two) mean little.

    Where malloc is glibc's, the free memory that it keeps is given back first, for it would be used again unseen; where
    it is another's, growth is too small by as much.

    On Linux the peak that the system keeps is reset, for this process and whoever asks about it (``VmHWM`` and
    ``ru_maxrss``). Where that is not permitted, an earlier peak that was higher is given: an upper bound. Elsewhere
    (macOS) the system tells the highest size alone: growth is then above the highest size before, a lower bound.

    Args:
        held: bytes that are there already and count as growth: the data, where they were read before.
    """

    def __init__(self, held: int = 0) -> None:
        give_back()
        before, self._is_forgotten = resident_now(), False
        self._knows_present = before is not None
        base = _highest() if before is None else before
        self._base = None if base is None else base - held
        self.begin()

    def begin(self) -> None:
        """Let the peak begin anew at the present size, where the system permits it; the growth keeps its start."""
        try:
            _CLEAR.write_text(_FORGET_PEAK)
            self._is_forgotten = True
        except OSError:
            self._is_forgotten = False

    @property
    def process(self) -> int | None:
        """The peak in bytes, interpreter and libraries included; ``None`` where the system does not tell."""
        return _highest()

    @property
    def growth(self) -> int | None:
        """Bytes of the peak above the size at the making; ``None`` where the system does not tell."""
        highest = _highest()
        return None if highest is None or self._base is None else max(highest - self._base, 0)

    @property
    def how(self) -> str:
        """How the figures come about, for a report."""
        if self._base is None:
            return "not known on this system"
        if not self._knows_present:
            return "highest resident size of the process, above the highest before: a lower bound"
        return "highest resident size of the process" + ("" if self._is_forgotten else ", of its whole life")

    def facts(self) -> dict[str, int | str | None]:
        """Give the figures as a report keeps them: "growth_bytes", "process_bytes" and "how"."""
        return {"growth_bytes": self.growth, "process_bytes": self.process, "how": self.how}


@dataclass(frozen=True, kw_only=True)
class Resident:
    """What was found, in bytes."""

    growth: int
    """Most that the process grew by."""
    process: int
    """All that it took then, interpreter and libraries included."""


def load_libraries() -> None:
    """Load what torch's optimizers and the metrics would load at their first use: no part of what a run takes."""
    for library in ("torch._dynamo", "torchmetrics.functional"):
        importlib.import_module(library)


def resident_now() -> int | None:
    """Give the resident size of this process in bytes; ``None`` where the system does not tell."""
    return _status("VmRSS")


def give_back() -> None:
    """Return the memory that was released to the system."""
    gc.collect()
    trim()


def trim() -> None:
    """Return the free memory that malloc keeps to the system, where malloc is glibc's; its settings stay."""
    found = _malloc_trim()
    if found is not None:
        found(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _highest() -> int | None:
    found = _status("VmHWM")
    if found is None and sys.platform != "win32":
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = highest if sys.platform == "darwin" else 1024 * highest
    return found


def _status(field: str) -> int | None:
    """Bytes of a field of Linux's status of the process; ``None`` where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
