"""Searches for settings that fit a memory limit: backpropagation, groups, parts, fewer layers or channels.

Each suggestion is a set of ``--set`` assignments with its own predicted peak and time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..data import LoaderConfig
from ..experiment import Experiment
from ..meter import interpreter_bytes
from ..nn.model import ModelConfig
from ..overrides import override
from .estimate import Prediction, estimate
from .process import STORED_SLACK, process_bytes
from .roofline import MachineRates, rates_of, step_work
from .step_size import step_size, steps_of
from .synthetic import GraphShape

MOST_PARTS = 1024
"""Largest number of parts to try."""
BUDGET_LAYERS = 64
"""Deepest stack for which a memory budget is tried, because the trial contains all its layers."""
HELPS = 0.95
"""Times what fewer parts take, that more parts take at most where they help."""
MARGIN = 1.1
"""Safety factor on a prediction, for its error."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A set of settings with its predicted memory and time."""

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


def what_fits(
    run: Experiment,
    shape: GraphShape,
    memory: int,
    rates: MachineRates | None = None,
    *,
    progress: Callable[[str], None] = lambda what: None,
) -> list[Suggestion]:
    """Search for settings that fit a memory limit, those closest to the original run first.

    Args:
        run: the run.
        shape: shape of its data: `shape_of_dataset` of loaded data, `shape_of_config` without data.
        memory: limit in bytes, for the process with its interpreter; or for tensors on a GPU.
        rates: of the machine that will train; ``None`` measures this CPU.
        progress: called with a description of each trial.
    Returns: the run as it is, first; then every tried suggestion that fits. If the run fits as it is, only a budget for
        stored layers is suggested, which saves time; if its data alone do not fit, nothing is tried.
    Cost: about a second of small trials for each way.
    """
    rates = rates_of("cpu") if rates is None else rates
    room = _Room(memory, rates, progress)
    found = [_suggestion("as it is", (), "gradient", run, shape, room)]
    ways = _budget(run, shape, room) if found[0].fits else _ways(run, shape, room)
    for what, changes, same in ways:
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
    """A memory limit."""

    memory: int
    rates: MachineRates
    progress: Callable[[str], None]

    def holds_data(self, run: Experiment, shape: GraphShape) -> bool:
        """Whether the data of a run and the interpreter fit, without any step."""
        return self.rates.device != "cpu" or MARGIN * process_bytes(run, shape, 0) <= self.memory

    def predict(self, what: str, run: Experiment, shape: GraphShape) -> Prediction:
        """Predict the memory of a run and report progress."""
        self.progress(what)
        return estimate(run, shape)

    def share(self, prediction: Prediction) -> float:
        """Return the share of the memory that is used, without the interpreter; at most 1 if it fits."""
        fixed = interpreter_bytes() if self.rates.device == "cpu" else 0
        there = self.memory / MARGIN - fixed
        needed = (prediction.process if self.rates.device == "cpu" else prediction.peak) - fixed
        return needed / there if there > 0 else math.inf

    def left(self, prediction: Prediction) -> float:
        """Return the bytes of tensors that could be added; negative if it does not fit."""
        if self.rates.device == "cpu":
            return (self.memory / MARGIN - prediction.process) / STORED_SLACK
        return self.memory / MARGIN - prediction.peak


def _suggestion(what: str, changes: Changes, same: str, run: Experiment, shape: GraphShape, room: _Room) -> Suggestion:
    prediction = room.predict(what, run, shape)
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


def _ways(run: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Yield suggestions that need less memory, as (description, assignments, what stays the same)."""
    if not room.holds_data(run, shape):
        return
    model = run.model
    lean = run
    if isinstance(model, ModelConfig):
        yield from _other_modes(model)
        lean = _leanest(run)
    if run.loader.kind == "ondisk":
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
    """Return the run with the least memory that has the same gradient."""
    model = run.model
    if not isinstance(model, ModelConfig) or model.backprop != "store":
        return run
    return replace(run, model=replace(model, backprop="reversible" if model.coupling == "grouped" else "checkpoint"))


def _budget(run: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Suggest a memory budget that stores layers in the remaining memory instead of recomputing them."""
    model = run.model
    if not isinstance(model, ModelConfig) or model.backprop != "reversible" or model.memory_budget is not None:
        return
    if model.num_layers > BUDGET_LAYERS:
        return
    prediction = estimate(run, shape)
    left = room.left(prediction)
    if left > 0.1 * prediction.peak:
        stack = prediction.kinds.get("states", 0) + prediction.kinds.get("work space", 0)
        megabytes = int((stack + left) / 1e6)
        yield f"{megabytes} MB for stored layers", (f"model.memory_budget={megabytes}MB",), "gradient"


def _parts(run: Experiment, lean: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Suggest about the fewest random parts that fit, with the run's own backpropagation and with the leanest one."""
    for start in [run] if lean == run else [run, lean]:
        now = start.loader.num_parts if start.loader.kind == "random" else None
        parts = 2 if now is None else 2 * now
        before = room.share(estimate(start, shape))
        while parts <= min(MOST_PARTS, shape.nodes // 8):
            tried = replace(start, loader=LoaderConfig(kind="random", num_parts=parts))
            if not room.holds_data(tried, shape):
                break
            over = room.share(room.predict(f"{parts} random parts", tried, shape))
            if over <= 1.0:
                changes = ("loader.kind=random", f"loader.num_parts={parts}", *_mode(run, start))
                yield f"{parts} random parts", changes, "model"
                break
            if over > HELPS * before:
                # What is left are weights, or what no part is smaller by.
                break
            before = over
            # Memory falls about as the parts rise, edges faster.
            parts = max(2 * parts, int(parts * min(over, MOST_PARTS) ** 0.9))


def _fewer_parts(run: Experiment, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Suggest fewer parts from disk per step, halved repeatedly; random parts would need the whole graph in memory."""
    parts = run.loader.parts_per_batch or 1
    while parts > 1:
        parts //= 2
        fewer = replace(run, loader=replace(run.loader, parts_per_batch=parts))
        if room.share(room.predict(f"{parts} parts in a step", fewer, shape)) <= 1.0:
            yield f"{parts} part{'s' if parts > 1 else ''} in a step", (f"loader.parts_per_batch={parts}",), "model"
            break


def _mode(run: Experiment, start: Experiment) -> Changes:
    if start.model == run.model or not isinstance(start.model, ModelConfig):
        return ()
    return (f"model.backprop={start.model.backprop}",)


def _smaller(run: Experiment, model: ModelConfig, shape: GraphShape, room: _Room) -> Iterator[tuple[str, Changes, str]]:
    """Suggest fewer layers, if they save memory, and repeatedly half the width."""
    if model.backprop in ("store", "checkpoint"):
        layers = model.num_layers
        while layers > 4:
            layers = max(layers // 2, 4)
            shallow = replace(run, model=replace(model, num_layers=layers))
            if room.share(room.predict(f"{layers} layers", shallow, shape)) <= 1.0:
                yield f"{layers} layers", (f"model.num_layers={layers}",), "nothing"
                break
    width = model.hidden_channels
    unit = model.gat.heads if model.conv == "gat" else 1
    unit *= model.num_groups if model.coupling == "grouped" else 1
    while width > 8 * unit:
        width = width // 2 // unit * unit
        narrow = _changed(run, (f"model.hidden_channels={width}",))
        if room.share(room.predict(f"{width} channels", narrow, shape)) <= 1.0:
            yield f"{width} channels", (f"model.hidden_channels={width}",), "nothing"
            break


def _changed(run: Experiment, changes: Sequence[str]) -> Experiment:
    return override(run, changes)


__all__ = ["Prediction", "Suggestion", "what_fits"]
