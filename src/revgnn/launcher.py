"""Read this process's rank and the number of ranks from the launcher's environment, and silence other ranks.

Launchers (torchrun, accelerate launch, Ray Train, MPI) set environment variables. Only the first rank prints and logs;
the others report errors only.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Torch's variables, and those of MPI launchers that Accelerate reads too."""
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
_RESTARTED = "REVGNN_RESTARTED"

_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long idle OpenMP threads spin before they sleep: some 20 us in GNU's runtime, which torch ships on Linux, instead
of milliseconds; 1 ms in LLVM's and Intel's, their least, instead of 200."""


def bound_spinning() -> None:
    """Let idle OpenMP threads sleep soon, unless torch is loaded already or the environment says how they wait.

    Threads that spin hold the cores that busy threads wait for, where other processes compute too. A runtime reads this
    when it is loaded, which is with torch.
    """
    if "torch" not in sys.modules and not {*_WAITING, "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ.update(_WAITING)


def world_size() -> int:
    """Return the number of ranks, 1 without a launcher.

    Examples:
        >>> from revgnn.train import world_size
        >>> world_size()
        1
    """
    return _first(_SIZES, 1)


def rank() -> int:
    """Return the number of this rank, from 0."""
    return _first(_RANKS, 0) if world_size() > 1 else 0


def is_writer() -> bool:
    """Whether this process is the rank that writes and prints.

    Examples:
        >>> from revgnn.train import is_writer
        >>> is_writer()
        True
    """
    return rank() == 0


def restarted() -> bool:
    """Whether the launcher has restarted the ranks after one failed."""
    return _first((_RESTARTS,), 0) > 0 or _RESTARTED in os.environ


def say_restarted() -> None:
    """Set `restarted` for a launcher that does not set it."""
    os.environ[_RESTARTED] = "1"


@contextmanager
def alone() -> Iterator[None]:
    """Run as a single process inside the context, by hiding the launcher's environment variables."""
    names = (*_SIZES, *_RANKS, "LOCAL_RANK", _RESTARTS, _RESTARTED)
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def on_rank() -> str:
    """Return " on rank R of W" for messages; empty for a single rank."""
    return f" on rank {rank()} of {world_size()}" if world_size() > 1 else ""


@contextmanager
def first_rank_speaks(*, everywhere: bool = False) -> Iterator[None]:
    """Suppress logs below errors and warnings of all ranks but the first inside the context; exceptions get their rank.

    Args:
        everywhere: whether to suppress other libraries' messages too, those of torch if it is not imported yet.
    """
    try:
        with nullcontext() if is_writer() else _quiet(everywhere):
            yield
    except BaseException as fault:
        note = f"This happened{on_rank()}."
        if world_size() > 1 and note not in getattr(fault, "__notes__", ()):
            fault.add_note(note)
        raise


@contextmanager
def _quiet(everywhere: bool) -> Iterator[None]:
    logger, shown, disabled = logging.getLogger(__package__), warnings.showwarning, logging.root.manager.disable
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    # No warning filter, so that a user's filter that turns warnings into errors works on every rank.
    warnings.showwarning = _show_nothing
    if everywhere:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        warnings.showwarning = shown
        logging.disable(disabled)


def _first(names: Iterable[str], otherwise: int) -> int:
    """Return the first of some environment variables as an integer, or a default.

    Raises: ValueError: it is none.
    """
    name = next((name for name in names if name in os.environ), None)
    if name is None:
        return otherwise
    try:
        return int(os.environ[name])
    except ValueError:
        raise ValueError(
            f"the environment's {name} must be a whole number, as launchers set it, got {os.environ[name]!r}; unset it"
        ) from None


def _show_nothing(*_: object, **__: object) -> None:
    pass
