"""What fits into so much memory: other ways to differentiate, more groups, parts, a budget, less depth or width.

Each suggestion is a set of ``--set`` assignments with its own predicted peak and time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data import LoaderConfig
from ..experiment import Experiment
from ..meter import interpreter_bytes
from ..nn.model import ModelConfig
from ..overrides import override
from .dry_run import step_size, steps_by_parts
from .estimate import Prediction, estimate
from .process import STORED_SLACK
from .roofline import MachineRates, rates_of, step_work
from .synthetic import GraphShape

MOST_PARTS = 1024
"""That are tried."""
BUDGET_LAYERS = 64
"""Deepest stack of which a budget is tried: its layers are all in the trial."""
MARGIN = 1.1
"""By which a prediction must stay below the memory: its own error."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One way to run, and what it takes."""

    what: str
    """In words, such as "reversible"."""
    settings: tuple[str, ...]
    """Assignments for ``--set``; none: as it is."""
    peak: int
    """Predicted peak of tensors in bytes."""
    process: int | None
    """Predicted peak of the process; ``None`` on a GPU, where it is not what has to fit."""
    seconds: float
    """Estimated time of one training step."""
    steps: int
    """Of an epoch."""
    fits: bool
    """Whether the process, and a tenth more, lies within the memory; on a GPU the tensors."""
    same: str
    """What it leaves the same: "gradient" (the same numbers come out), "model" (the same weights, other batches) or
    "nothing" (another network)."""
    kinds: dict[str, int]
    """Kind -> bytes of the peak."""


def what_fits(run: Experiment, shape: GraphShape, memory: int, rates: MachineRates | None = None) -> list[Suggestion]:
    """Search for ways to run within a memory, the most faithful first.

    Args:
        run: what is wanted.
        shape: of its data set: `shape_of_dataset` of loaded data, `shape_of_config` without.
        memory: bytes that the process may take, the interpreter included; or that a GPU has for tensors.
        rates: of the machine that will run; ``None`` measures this CPU.
    Returns: the run as it is, first; then every way that was tried and fits, and none of those that do not.
    Cost: seconds to half a minute of small trials; nothing larger than those is allocated.
    """
    rates = rates_of("cpu") if rates is None else rates
    run = replace(run, paper=None)
    room = _Room(memory, rates)
    found = [_suggestion("as it is", (), "gradient", run, shape, room)]
    for what, changes, same in _candidates(run, shape, room):
        try:
            changed = _changed(run, changes)
        except ValueError:
            continue
        one = _suggestion(what, changes, same, changed, shape, room)
        if one.fits:
            found.append(one)
    return found


Changes = tuple[str, ...]


@dataclass(frozen=True)
class _Room:
    """A memory that something is to fit into."""

    memory: int
    rates: MachineRates

    def share(self, prediction: Prediction) -> float:
        """What of the memory is taken, the interpreter apart; fits: at most 1."""
        fixed = interpreter_bytes() if self.rates.device == "cpu" else 0
        there = self.memory / MARGIN - fixed
        needed = (prediction.process if self.rates.device == "cpu" else prediction.peak) - fixed
        return needed / there if there > 0 else math.inf

    def left(self, prediction: Prediction) -> float:
        """Bytes of tensors that could be added; below zero where it does not fit."""
        if self.rates.device == "cpu":
            return (self.memory / MARGIN - prediction.process) / STORED_SLACK
        return self.memory / MARGIN - prediction.peak


def _suggestion(what: str, changes: Changes, same: str, run: Experiment, shape: GraphShape, room: _Room) -> Suggestion:
    prediction = estimate(run, shape)
    nodes, edges = step_size(run, shape)
    return Suggestion(
        what=what,
        settings=changes,
        peak=prediction.peak,
        process=prediction.process if room.rates.device == "cpu" else None,
        seconds=step_work(run, shape, nodes, edges).seconds(room.rates),
        steps=steps_of(run, shape),
        fits=room.share(prediction) <= 1.0,
        same=same,
        kinds=prediction.kinds,
    )


def steps_of(run: Experiment, shape: GraphShape) -> int:
    """Steps of an epoch."""
    rows = shape.train or round(0.6 * shape.rows)
    if shape.info.task_spec.has_many_graphs:
        return -(-rows // (run.batch_size or rows))
    loader = run.loader
    if loader.kind == "khop":
        return -(-rows // (loader.batch_size or rows))
    return 1 if loader.kind == "full" else steps_by_parts(loader, shape)


def _candidates(run: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Ways to run, as (words, assignments, what stays the same)."""
    model = run.model
    lean = run
    if isinstance(model, ModelConfig):
        yield from _other_modes(model)
        lean = _leanest(run)
        if model.backprop == "reversible" and model.memory_budget is None and model.num_layers <= BUDGET_LAYERS:
            yield from _budget(run, shape, room)
    if run.loader.kind == "stored":
        yield from _fewer_parts(run, shape, room)
    elif not shape.info.task_spec.has_many_graphs:
        yield from _parts(run, lean, shape, room)
    elif run.batch_size is None or run.batch_size > 1:
        half = max((run.batch_size or shape.graphs) // 4, 1)
        yield f"{half} graphs in a step", (f"batch_size={half}",), "model"
    if isinstance(model, ModelConfig):
        yield from _smaller(run, model, shape, room)


def _other_modes(model: ModelConfig) -> Iterator[tuple[str, Changes, str]]:
    if model.backprop == "store":
        if model.coupling == "grouped":
            yield "reversible", ("model.backprop=reversible",), "gradient"
        else:
            yield "checkpointed layer by layer", ("model.backprop=checkpoint",), "gradient"
    if model.coupling == "residual" and model.backprop in ("store", "checkpoint"):
        yield "a reversible net of two groups", ("model.coupling=grouped", "model.backprop=reversible"), "nothing"
    if model.coupling == "grouped":
        for groups in (2 * model.num_groups, 4 * model.num_groups):
            if model.hidden_channels % groups == 0:
                changes = (f"model.num_groups={groups}", "model.backprop=reversible")
                yield f"{groups} groups", changes, "nothing"


def _leanest(run: Experiment) -> Experiment:
    """The same gradient in less memory, where there is a way."""
    model = run.model
    if not isinstance(model, ModelConfig) or model.backprop != "store":
        return run
    way: Any = "reversible" if model.coupling == "grouped" else "checkpoint"
    return replace(run, model=replace(model, backprop=way))


def _budget(run: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Layers stored instead of rebuilt, in the room that is left."""
    prediction = estimate(run, shape)
    left = room.left(prediction)
    if left > 0.1 * prediction.peak:
        stack = prediction.kinds.get("states", 0) + prediction.kinds.get("work space", 0)
        megabytes = int((stack + left) / 1e6)
        yield f"{megabytes} MB for stored layers", (f"model.memory_budget={megabytes}MB",), "gradient"


def _parts(run: Experiment, lean: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """The fewest random parts, about, with which it fits: as it is differentiated now, and as leanly as can be."""
    for start in [run] if lean == run else [run, lean]:
        now = start.loader.num_parts if start.loader.kind == "random" else None
        parts = 2 if now is None else 2 * now
        while parts <= min(MOST_PARTS, shape.nodes // 8):
            tried = replace(start, loader=LoaderConfig(kind="random", num_parts=parts))
            over = room.share(estimate(tried, shape))
            if over <= 1.0:
                changes = ("loader.kind=random", f"loader.num_parts={parts}", *_mode(run, start))
                yield f"{parts} random parts", changes, "model"
                break
            # Memory falls about as the parts rise, edges faster.
            parts = max(2 * parts, int(parts * min(over, MOST_PARTS) ** 0.9))


def _fewer_parts(run: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Half of the parts from disk in a step, over and over: drawn parts would need the whole graph in memory."""
    parts = run.loader.parts_per_batch or 1
    while parts > 1:
        parts //= 2
        fewer = replace(run, loader=replace(run.loader, parts_per_batch=parts))
        if room.share(estimate(fewer, shape)) <= 1.0:
            yield f"{parts} part{'s' if parts > 1 else ''} in a step", (f"loader.parts_per_batch={parts}",), "model"
            break


def _mode(run: Experiment, start: Experiment) -> Changes:
    if start.model == run.model or not isinstance(start.model, ModelConfig):
        return ()
    return (f"model.backprop={start.model.backprop}",)


def _smaller(run: Experiment, model: ModelConfig, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Fewer layers where they cost memory, and half the width, over and over."""
    if room.share(estimate(run, shape)) <= 1.0:
        return
    if model.backprop in ("store", "checkpoint"):
        layers = model.num_layers
        while layers > 4:
            layers = max(layers // 2, 4)
            shallow = replace(run, model=replace(model, num_layers=layers))
            if room.share(estimate(shallow, shape)) <= 1.0:
                yield f"{layers} layers", (f"model.num_layers={layers}",), "nothing"
                break
    width = model.hidden_channels
    unit = model.gat.heads if model.conv == "gat" else 1
    unit *= model.num_groups if model.coupling == "grouped" else 1
    while width > 8 * unit:
        width = width // 2 // unit * unit
        narrow = _changed(run, (f"model.hidden_channels={width}",))
        if room.share(estimate(narrow, shape)) <= 1.0:
            yield f"{width} channels", (f"model.hidden_channels={width}",), "nothing"
            break


def _changed(run: Experiment, changes: Sequence[str]) -> Experiment:
    return override(run, changes, fixed=frozenset({"paper"}))


__all__ = ["Prediction", "Suggestion", "what_fits"]
