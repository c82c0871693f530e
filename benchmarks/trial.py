"""How entrants are tried before they are timed: a peer may fail or be too large, and is reported; ours may not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar

from .clock import Clock, Times, in_turns

Experiment = dict[str, Any]
"""What is known of one entrant: its figures, or why it has none (``failed``, ``skipped``)."""

_T = TypeVar("_T")
_FAULTS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, ImportError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure."""

    device: str = "cpu"
    threads: int = 1
    repeats: int = 5
    clock: Clock = "wall"
    budget: float = 0.0
    """Seconds for the rounds of one case; 0: no limit."""
    memory_gb: float = 10.0
    """A peer that would take more is left out."""
    layers: int | None = None
    """Depth instead of the graph's own."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Entrant -> why it must not be tried (it ended the process)."""
    announce: Callable[[str | None], None] = lambda name: None
    """Told which entrant is tried for the first time, and ``None`` when all have been."""


def attempt(
    name: str,
    make: Callable[[Experiment], _T],
    settings: Settings,
    *,
    peer: bool,
    need: float = 0.0,
    requires: str | None = None,
) -> tuple[Experiment, _T | None]:
    """Make an entrant and run it for the first time.

    Args:
        name: of the entrant.
        make: gives what is timed later, and writes down what it finds on the way.
        settings: the limit of memory, and who must not be tried.
        peer: whether it may fail.
        need: bytes that it is known to take.
        requires: a module that it imports.
    Returns: what is known of it, and what ``make`` gives; ``None`` where a peer cannot run.
    """
    found: Experiment = {}
    if need > settings.memory_gb * 1e9:
        found["skipped"] = f"needs about {need / 1e9:.1f} GB of work space; the limit is {settings.memory_gb:g} GB"
        return found, None
    if requires is not None and find_spec(requires) is None:
        found["skipped"] = f"{requires} is not installed"
        return found, None
    if name in settings.excluded:
        found["failed"] = settings.excluded[name]
        return found, None
    settings.announce(name)
    try:
        return found, make(found)
    except _FAULTS as error:
        if not peer:
            raise
        found["failed"] = _reason(error)
        return found, None


def timed(
    alive: Mapping[str, Callable[[], object]],
    runs: Mapping[str, Experiment],
    settings: Settings,
    *,
    ours: Collection[str],
    least_rounds: int = 1,
    warmup: int = 1,
) -> dict[str, Times]:
    """Time entrants in turns and write it down.

    Args:
        alive: those that have run once.
        runs: what is known of each; gets its times, or why it failed after all (its first run left memory in pieces).
        settings: rounds and clock.
        ours: who may not fail.
        least_rounds: at least so many rounds, whatever the settings.
        warmup: rounds before those that count.
    Returns: the times of those that finished.
    """
    sheltered = {name: run if name in ours else _sheltered(run, runs[name]) for name, run in alive.items()}
    repeats = max(settings.repeats, least_rounds)
    times = in_turns(sheltered, settings.device, repeats=repeats, warmup=warmup, budget=settings.budget)
    times = {name: taken for name, taken in times.items() if "failed" not in runs[name]}
    for name, taken in times.items():
        runs[name].update(taken.summary(settings.clock))
    return times


def _sheltered(run: Callable[[], object], found: Experiment) -> Callable[[], None]:
    def call() -> None:
        if "failed" in found:
            return
        try:
            run()
        except _FAULTS as error:
            found["failed"] = _reason(error)

    return call


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
