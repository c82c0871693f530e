"""Peak memory of a run before it runs, from the sizes of its data set alone.

``bytes(N, L) = a + b N + c L + d N L`` at every moment of a step; the largest is the peak.
The numbers come from small trials of the very program that will run: made-up data in which everything that grows with
the data set (nodes, edges, graphs, training rows, rows of a head's block) is scaled by one factor, and two depths of
the same stack. So no formula can fall behind the code, and every convolution, peer and loader is covered. Moments of
two trials of one depth are matched allocation by allocation: which of them will be the highest at the whole size, the
trials need not have shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..data import Batches, Dataset, LoaderConfig, Store
from ..experiment import Experiment, make_model
from ..measure import AllocationEvent
from ..nn.model import ModelConfig
from .dry_run import STEPS, Size, kept_by, measure_trial, sizes_of_trials, step_size, steps_by_parts
from .process import process_bytes
from .synthetic import GraphShape, made_up, shape_of_dataset

Floats = NDArray[np.float64]
BYTES = 4
"""Of a float32."""
SMALL = 1024
"""Bytes below which an allocation need not be the same in two trials."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a training step on the CPU will take at its peak, in bytes."""

    peak: int
    """All that tensors take."""
    kinds: dict[str, int]
    """Kind -> bytes; they add up to the peak."""
    phase: str
    """When the peak is: "first batch" (of an epoch, while nothing else is done), or as `dry_run` calls it: "making of
    a batch" (where none is made ahead), "first gradient", "gradient", "update"."""
    how: str
    """"fitted", from smaller trials, or "measured", where the data set is no larger than a trial."""
    parameters: int
    """Trained numbers."""
    process: int = 0
    """All that the process takes: see `process_bytes`."""


def estimate(run: Experiment, shape: GraphShape) -> Prediction:
    """Predict the peak memory of a run's training steps.

    Args:
        run: what will run on the CPU, with this process's choice of kernels and about its libraries.
        shape: of its data set, whole.
    Raises: ValueError: network and data do not go together.
    Cost: up to four small trainings of two steps, seconds in all; none for what was asked before.
    """
    run = replace(run, paper=None)
    found = _predict(*_in_memory(run, shape))
    return replace(found, process=process_bytes(run, shape, found.peak))


@lru_cache(maxsize=256)
def _predict(run: Experiment, shape: GraphShape) -> Prediction:
    if shape.info.task_spec.has_many_graphs and run.batch_size is not None and shape.graphs > STEPS * run.batch_size:
        # A step sees so many graphs, however many there are.
        shape = shape.scaled(STEPS * run.batch_size / shape.graphs)
    factors, depths = sizes_of_trials(run, shape)
    along = []
    for depth in depths:
        trials = [measure_trial(run, shape, Size(factor, depth)) for factor in factors]
        common = set.intersection(*(set(trial) for trial in trials))
        along.append({key: _at_whole_size([trial[key] for trial in trials], factors) for key in common})
    peaks = {
        key: _at_depth([values[key] for values in along], depths, run.model.num_layers)
        for key in set.intersection(*(set(values) for values in along))
    }
    highest = max(peaks, key=lambda key: peaks[key])
    peak = round(peaks[highest])
    parameters, tensors = count_weights(run, shape)
    return Prediction(
        peak=peak,
        kinds=_kinds(run, shape, weight_kinds(run, parameters, tensors), peak),
        phase=highest[1],
        how="measured" if factors == [1.0] and depths == [None] else "fitted",
        parameters=parameters,
    )


def predicted(run: Experiment, dataset: Dataset | Store, batches: Batches) -> dict[str, Any] | None:
    """Say what to expect of a run over data that are loaded, as reports keep it; ``None``: over a graph on disk."""
    if isinstance(dataset, Store):
        return None
    shape = shape_of_dataset(dataset)
    if run.loader.kind == "clusters":
        shape = replace(shape, kept=round(kept_by(batches, shape), 3))
    found = estimate(run, shape)
    return {"peak_bytes": found.peak, "process_bytes": found.process, "how": found.how, "kinds": found.kinds}


def count_weights(run: Experiment, shape: GraphShape) -> tuple[int, int]:
    """Count the trained numbers of a run's network, and the tensors that they are in, without making it."""
    dataset = made_up(shape.scaled(64 / shape.rows) if shape.rows > 64 else shape)
    with torch.device("meta"):
        model: nn.Module = make_model(run, dataset.info)
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    return sum(trained), len(trained)


class _Phase(NamedTuple):
    """The moments of a phase at factor 1 and one depth."""

    size: Floats
    """Bytes that are allocated."""
    gradients: Floats
    """Bytes of gradients among them."""


def _at_whole_size(trials: Sequence[Sequence[AllocationEvent]], factors: Sequence[float]) -> _Phase:
    """The moments of a phase at factor 1, from those of one or two trials."""
    first, *others = (np.asarray(allocation_trace, np.float64).T for allocation_trace in trials)
    if not others:
        return _Phase(*first)
    (second,) = others
    if not _alike(first, second):
        # Torch gives every thread a number to reduce into where a tensor has more than so many.
        first, second = _without_small(first), _without_small(second)
    if not _alike(first, second):
        # The program took another way at another size: only the peaks can be compared.
        first, second = (np.array([[allocation_trace[0].max()], [0.0]]) for allocation_trace in (first, second))
    grown = (second[0] - first[0]) / (factors[1] - factors[0])
    return _Phase(first[0] + grown * (1.0 - factors[0]), second[1])


def _alike(first: Floats, second: Floats) -> bool:
    """Whether moments follow upon each other by the same steps up and down."""
    return first.shape == second.shape and np.array_equal(np.diff(first[0]) > 0, np.diff(second[0]) > 0)


def _without_small(allocation_trace: Floats) -> Floats:
    """The moments that more than a few numbers lead to."""
    return allocation_trace[:, np.abs(np.diff(allocation_trace[0], prepend=np.inf)) >= SMALL]


def _at_depth(phases: Sequence[_Phase], depths: Sequence[int | None], layers: int) -> float:
    """The highest moment at a depth, from a phase at two.

    A place in the program that both depths have is known by the gradients that are there (so many layers are done), or
    by those still to come (so many are left); the highest moment at each place is carried on by itself. Some gradients
    of all layers come together at the end, and hide places: so the highest moments of the first half, and of all that
    follows the first gradient, are carried on too. Each of these is at most what it will be, for a later place may be
    higher at more layers; the highest of them is closest.
    """
    if len(phases) == 1:
        return float(phases[0].size.max())
    low, high = (depth for depth in depths if depth is not None)
    there = [phase.gradients for phase in phases]
    to_come = [one.max() - one for one in there]
    total = there[0].max()
    matched = [
        [one <= total / 2 for one in there],
        [one <= max(total - 1, 0) for one in to_come],
        *_common(*there),
        *_common(*to_come),
    ]
    peaks = []
    for places in matched:
        one, two = (phase.size[at].max() for phase, at in zip(phases, places, strict=True))
        peaks.append(one + (two - one) / (high - low) * (layers - low))
    return float(max(peaks))


def _common(first: Floats, second: Floats) -> Iterator[list[NDArray[np.bool_]]]:
    """The moments of each place that two depths have in common, from the smallest gradients on.

    Places after the first follow while both have as many moments there: then one is at what surrounds the stack, and
    the other within it. At the first, all layers are still to come, or done, and deeper nets have more moments.
    """
    for count, values in enumerate(zip(np.unique(first), np.unique(second), strict=False)):
        places = [first == values[0], second == values[1]]
        if count and (values[0] != values[1] or places[0].sum() != places[1].sum()):
            return
        yield places


def _in_memory(run: Experiment, shape: GraphShape) -> tuple[Experiment, GraphShape]:
    """Parts on disk as clusters in memory, of as few steps as can be: of a graph on disk only batches are there."""
    if run.loader.kind != "stored":
        return run, shape
    steps, prefetch = steps_by_parts(run.loader, shape), run.loader.prefetch
    few = min(max(prefetch + 1, 2), steps)
    _, edges = step_size(run, shape)
    loader = LoaderConfig() if steps == 1 else LoaderConfig(kind="clusters", num_parts=few, prefetch=prefetch)
    shape = replace(shape.scaled(few / steps).counted(edges=few * edges), kept=1.0, parts=1)
    return replace(run, loader=loader), shape


MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1}
"""Numbers that an optimizer keeps for each parameter."""


def weight_kinds(run: Experiment, parameters: int, tensors: int) -> dict[str, int]:
    """Bytes of a network's numbers, of their gradients, and of what the optimizer keeps of them.

    Args:
        run: whose optimizer; a mean of the weights is a part of what it keeps.
        parameters: trained numbers.
        tensors: that they are in; of each the optimizer counts the steps, in a float32.
    """
    weights = parameters * BYTES
    kept = MOMENTS[run.train.optimizer] + (run.train.ema_decay is not None)
    optimizer = kept * weights + tensors * BYTES
    return {"parameters": weights, "gradients": weights, "optimizer": optimizer}


def _kinds(run: Experiment, shape: GraphShape, weights: dict[str, int], peak: int) -> dict[str, int]:
    """Tell the kinds apart that closed forms give; the rest is work space and what waits for the backward."""
    nodes, edges = step_size(run, shape)
    kinds = {
        **weights,
        "batch": nodes * shape.info.in_channels * BYTES,
        "graph": edges * BYTES + nodes * BYTES,
        "edge features": edges * (shape.info.edge_channels or 0) * BYTES,
        "states": stored_states(run, nodes),
    }
    batch = kinds["batch"] + kinds["graph"] + kinds["edge features"]
    if run.loader.prefetch and run.loader.kind != "full":
        kinds["waiting batches"] = run.loader.prefetch * batch
    left = peak - sum(kinds.values())
    if left < 0:
        # At the peak not all gradients are there yet.
        kinds["gradients"] = max(kinds["gradients"] + left, 0)
        left = max(peak - sum(kinds.values()), 0)
    return {name: size for name, size in {**kinds, "work space": left}.items() if size}


def stored_states(run: Experiment, nodes: int) -> int:
    """Bytes of the streams [N, D] that wait for the backward, or are its gradient."""
    model = run.model
    stream = nodes * model.hidden_channels * BYTES
    if not isinstance(model, ModelConfig):
        return model.num_layers * stream
    if model.backprop == "reversible":
        runs = model.segments if isinstance(model.segments, int) else 1
        runs = -(-model.num_layers // 32) if model.segments == "auto" else runs
        return (runs + 1) * stream
    if model.backprop == "checkpoint":
        runs = model.segments if isinstance(model.segments, int) else model.num_layers
        return (runs + 1) * stream
    return model.num_layers * stream if model.backprop == "store" else 2 * stream
