"""Which of how many ranks this process is, as its launcher says, and whether it speaks.

A launcher (torchrun, accelerate launch, Ray Train) says it in the environment. The first rank speaks for all; the
others speak of errors alone.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Torch's own names, and those of MPI's launchers that Accelerate goes by too."""
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
_RESTARTED = "REVGNN_RESTARTED"


def world_size() -> int:
    """Give the number of ranks that a launcher has started, 1 without one."""
    return _first(_SIZES, 1)


def rank() -> int:
    """Give the number of this rank, from 0."""
    return _first(_RANKS, 0) if world_size() > 1 else 0


def is_writer() -> bool:
    """Whether this process is the rank that writes and prints."""
    return rank() == 0


def restarted() -> bool:
    """Whether the launcher has started this rank again after one was lost."""
    return _first((_RESTARTS,), 0) > 0 or _RESTARTED in os.environ


def say_restarted() -> None:
    """Say so for a launcher that does not."""
    os.environ[_RESTARTED] = "1"


@contextmanager
def alone() -> Iterator[None]:
    """Compute as if this process had been started without the other ranks, while inside."""
    words = (*_SIZES, *_RANKS, "LOCAL_RANK", _RESTARTS, _RESTARTED)
    said = {word: os.environ.pop(word) for word in words if word in os.environ}
    try:
        yield
    finally:
        os.environ.update(said)


def on_rank() -> str:
    """Say on which of several ranks something happened."""
    return f" on rank {rank()} of {world_size()}" if world_size() > 1 else ""


@contextmanager
def first_rank_speaks(*, everywhere: bool = False) -> Iterator[None]:
    """Let no rank but the first log or warn of anything less than an error, while inside; faults name their rank.

    Args:
        everywhere: other libraries' messages are held back too, those of torch where it is not imported yet.
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
    # Not a filter: what a filter makes an error of stays one on every rank.
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
    """The first of some numbers that the environment has."""
    return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)


def _show_nothing(*_: Any, **__: Any) -> None:
    pass
