"""Handles out-of-memory errors: says how much memory the run needs, how much there is, and which settings fit."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..experiment import Experiment
from ..launcher import alone
from ..report.row import memory
from ..resident import resident_now
from .roofline import rates_of
from .suggest import Suggestion, what_fits
from .synthetic import shape_of_config

if sys.platform != "win32":
    import resource

_log = logging.getLogger(__name__)

FIRST = 3
"""Suggestions that are given."""
_SAYS_SO = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_CGROUP, _MEMINFO = Path("/sys/fs/cgroup/memory.max"), Path("/proc/meminfo")


class DoesNotFitError(MemoryError):
    """A run did not fit into memory; the message lists settings that fit."""


@contextmanager
def out_of_memory_answered(run: Experiment, data_root: Path, *, device: str) -> Iterator[None]:
    """Turn a failed allocation into a `DoesNotFitError` that lists settings that fit into the available memory.

    Args:
        run: the run inside the context.
        data_root: folder of its data.
        device: "cpu", or any other name for the accelerator.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
    # The failed call's frames, and so its memory, are free only from here on.
    available = memory_there_is(device)
    # Another rank may have had enough memory and does not take part in trials.
    with alone():
        answer = _answer(run, data_root, available, is_gpu=_is_gpu(device))
    raise DoesNotFitError(f"out of memory ({said}). {answer}")


def memory_there_is(device: str) -> int:
    """Return the bytes that a run may use: the whole accelerator, or the free memory of this machine."""
    if _is_gpu(device):
        return int(torch.cuda.mem_get_info()[1])
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    if _CGROUP.is_file() and (limit := _CGROUP.read_text().strip()).isdigit():
        found.append(int(limit))
    if _MEMINFO.is_file() and (free := re.search(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text())):
        # What this process has taken already is no longer free, and the run may have it.
        found.append(1024 * int(free[1]) + (resident_now() or 0))
    if sys.platform == "win32":
        return min(found, default=sys.maxsize)
    limits = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min([*found, *(soft for soft in limits if soft != resource.RLIM_INFINITY)])


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _SAYS_SO)


def _is_gpu(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available()


def _answer(run: Experiment, data_root: Path, available: int, *, is_gpu: bool) -> str:
    try:
        shape = shape_of_config(run.dataset, data_root)
        as_is, *others = what_fits(run, shape, available, rates_of("cuda" if is_gpu else "cpu"))
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        _log.debug("the planner failed", exc_info=True)
        return f"There are {memory(available)}; the planner does not know what would fit ({error})"
    needs = f"A step is predicted to take {_taken(as_is)} of {memory(available)}"
    if as_is.fits:
        return f"{needs}: the rest is the data, or another program's; free some, or choose train.* and loader.* smaller"
    return f"{needs}. {_spoken(others)}"


def _spoken(others: Sequence[Suggestion]) -> str:
    if not others:
        return "No way that the planner tries would fit; take a narrower net or a larger machine"
    same = {"gradient": "the same gradient", "model": "the same net, other batches", "nothing": "another net"}
    ways = [
        f"{one.what} ({same[one.same]}, {_taken(one)}): " + " ".join(f"--set {text}" for text in one.settings)
        for one in others[:FIRST]
    ]
    return "What would fit: " + "; ".join(ways)


def _taken(one: Suggestion) -> str:
    return memory(one.peak if one.process is None else one.process)
