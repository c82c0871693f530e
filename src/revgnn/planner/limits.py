"""Chooses depth, width, loader and memory budget of a run by the planner, so that it ends within a time or a memory.

The network of the run comes first, twice its depth if the time allows all epochs of it, then smaller ones: half the
width, and half the depth and width. Of a network, the settings that fit the memory and change the gradient least.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..experiment import Experiment
from ..nn.model import ModelConfig
from ..overrides import override
from ..report.row import duration
from .page import both_units
from .roofline import MachineRates, run_seconds
from .suggest import MARGIN, Suggestion, what_fits
from .synthetic import GraphShape

LEAST_EPOCHS = 50
"""Epochs that a network must be able to take within the time; else a smaller one is chosen."""
_LEAST_LAYERS, _LEAST_WIDTH = 3, 16
_SPARE = 0.8
"""Share of the time that estimated steps and evaluations may take."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may take."""

    seconds: float | None = None
    """``None``: no limit."""
    memory: int | None = None
    """Bytes of the process, or of tensors on a GPU; ``None``: no limit."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings that keep the limits."""

    settings: tuple[str, ...]
    """Assignments for ``--set``, those that differ from the run."""
    seconds: float
    """Estimated time of the run, evaluations included."""
    process: int | None
    """Predicted peak of the process in bytes; ``None``: not predicted."""


def parse_seconds(text: str) -> float:
    """Parse a duration such as ``90s``, ``10m`` or ``1.5h``.

    Raises: ValueError: for anything else, or 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smh])\s*", text)
    seconds = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
    if not seconds:
        raise ValueError(f"--time must be a duration above 0 such as 90s, 10m or 1.5h, got {text!r}")
    return seconds


def choose_within(
    run: Experiment,
    shape: GraphShape,
    limits: Limits,
    rates: MachineRates,
    *,
    fixed: frozenset[str] = frozenset(),
    progress: Callable[[str], None] = lambda what: None,
) -> Choice:
    """Choose the settings of a run within limits.

    Args:
        run: what is wanted; its model is a `ModelConfig`.
        shape: of its data set.
        limits: what it may take.
        rates: of the machine.
        fixed: dotted names that must keep their value, because the user has set them.
        progress: told what is tried.
    Raises: ValueError: no network keeps the limits; says the least that one takes.
    Cost: seconds of small trials if the memory is limited.
    """
    least_memory, least_seconds = math.inf, math.inf
    for settings, all_epochs in _networks(run, limits.seconds is not None, fixed):
        changed = override(run, settings)
        process: int | None = None
        if limits.memory is not None:
            found = what_fits(changed, shape, limits.memory, rates, progress=progress)
            # The same network in less memory, or the same memory with stored layers; another network is tried next.
            fitting = [one for one in found if one.fits and one.same in ("gradient", "model") and _is_free(one, fixed)]
            if not fitting:
                least_memory = min(least_memory, *(MARGIN * (one.process or one.peak) for one in found))
                continue
            best = fitting[-1] if found[0].fits else fitting[0]
            settings, process = (*settings, *best.settings), best.process
            changed = override(changed, best.settings)
        seconds = run_seconds(changed, shape, rates)
        if limits.seconds is None:
            return Choice(settings=settings, seconds=seconds, process=process)
        epochs = int(_SPARE * limits.seconds * changed.train.epochs / seconds)
        least = changed.train.epochs if all_epochs or "train.epochs" in fixed else LEAST_EPOCHS
        least = min(least, changed.train.epochs)
        if epochs >= least:
            if epochs < changed.train.epochs:
                settings = (*settings, f"train.epochs={epochs}")
                seconds *= epochs / changed.train.epochs
            minutes = f"train.max_minutes={limits.seconds / 60:g}"
            return Choice(settings=(*settings, minutes), seconds=seconds, process=process)
        least_seconds = min(least_seconds, seconds * least / changed.train.epochs / _SPARE)
    takes = f"{both_units(round(least_memory))} of memory" if least_seconds == math.inf else duration(least_seconds)
    raise ValueError(
        f"no network of this kind keeps the limits, not even the smallest that was tried, which takes about {takes}; "
        "allow more, choose another --model, or prepare the graph on disk (revgnn prepare)"
    )


def _networks(run: Experiment, is_timed: bool, fixed: frozenset[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield settings of networks, and whether all epochs must be within the time."""
    model = run.model
    if not isinstance(model, ModelConfig):
        raise ValueError("--time and --memory choose a network of this package; leave them out for a model of your own")
    layers, width = model.num_layers, model.hidden_channels
    tried = [(2 * layers, width, True)] if is_timed else []
    tried += [(layers, width, False), (layers, width // 2, False)]
    while layers > _LEAST_LAYERS or width > _LEAST_WIDTH:
        layers, width = max(layers // 2, _LEAST_LAYERS), max(width // 2, _LEAST_WIDTH)
        tried.append((layers, width, False))
    unit = (model.gat.heads if model.conv == "gat" else 1) * model.num_groups
    seen = set()
    for depth, channels, all_epochs in tried:
        values = {
            "model.num_layers": depth,
            "model.hidden_channels": max(channels // unit, 1) * unit,
        }
        now = {"model.num_layers": model.num_layers, "model.hidden_channels": model.hidden_channels}
        settings = tuple(
            f"{name}={value}" for name, value in values.items() if value != now[name] and name not in fixed
        )
        if (settings, all_epochs) not in seen:
            seen.add((settings, all_epochs))
            yield settings, all_epochs


def _is_free(one: Suggestion, fixed: frozenset[str]) -> bool:
    return fixed.isdisjoint(setting.partition("=")[0] for setting in one.settings)
