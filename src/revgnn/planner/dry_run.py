"""Dry runs: takes training steps with the real program on synthetic data of any size and at any depth."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..data import Batch, Batches, Dataset, FullBatch, Prefetched, Series, make_batches
from ..experiment import Experiment, make_model
from ..graph import Graph
from ..implicit.fixed_point import ConvergenceWarning
from ..nn.model import ModelConfig
from ..stack.budget import parse_bytes
from ..stack.choices import num_segments
from ..train import dry_run
from ..train.distill import save_logits
from .making import partitioned_batches, partitioned_data, scaled_loader
from .measured import Peaks, step_peaks, ways_of
from .model_size import size_of
from .step_size import step_shape
from .synthetic import GraphShape, made_up

WORK = 2**20
"""Numbers in the largest tensor of the larger trial, about: a width for every edge of a step."""
LEAST_NODES, NODES_PER_CHANNEL = 128, 1
"""Least nodes of a step of the smaller trial; with fewer, constant memory dominates memory that grows."""
MOST_WORK = 2**24
"""Numbers in that tensor at the most, however few nodes are left: a peer may keep dozens of its size."""
WHOLE = 0.4
"""Factor from which the full step is tried instead of a scaled one."""
STEPS = 2
"""Steps per epoch of a trial."""
FEW, FEW_SEGMENTS = 3, 8
"""Additional layers per segment of the deeper trial, with at most ``FEW_SEGMENTS`` segments; otherwise one."""


class RepeatedBatch:
    """A source that returns the same batch in every step of an epoch.

    Args:
        batch: the batch.
        count: steps per epoch.
        is_new: whether each step's graph has empty caches, as with batches that are made per step.
    """

    def __init__(self, batch: Batch, count: int, *, is_new: bool) -> None:
        self._batch, self._count, self._is_new = batch, count, is_new

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._count

    def train(self, epoch: int) -> Series:
        """Yield the batch ``count`` times."""
        return Series(self._count, lambda number: self._underived() if self._is_new else self._batch)

    def evaluate(self) -> Series:
        """Yield the batch once."""
        return Series(1, lambda number: self._batch)

    def _underived(self) -> Batch:
        graph = self._batch.graph
        return replace(self._batch, graph=Graph(num_nodes=graph.num_nodes, indptr=graph.indptr, indices=graph.indices))


def trial_peaks(run: Experiment, shape: GraphShape, factor: float, layers: int | None) -> Peaks:
    """Take the first steps of a run at a scaled size, and measure the peak of each phase, without making batches.

    Args:
        run, shape: as in `estimate`.
        factor: scale of the step's sizes, in (0, 1].
        layers: number of layers; ``None``: the configured number.
    """
    small = step_shape(run, shape).scaled(factor)
    if shape.info.task_spec.has_many_graphs:
        # Use enough graphs for an epoch of several steps.
        graphs = small.graphs
        run = replace(run, batch_size=graphs)
        small = small.scaled(2.0 * STEPS).counted(train=STEPS * graphs)
    trial = with_layers(_scaled(run, factor), layers)
    found: Peaks = {}
    with as_tried(trial, small) as trial:
        data = made_up(small)
        for number, way in enumerate(ways_of_trial(trial)):
            if shape.info.task_spec.has_many_graphs:
                peaks = step_peaks(way, make_batches(data, run.batch_size, 0), data)
            else:
                batch = FullBatch(data).batch
                batches = RepeatedBatch(batch, STEPS * run.train.accumulate, is_new=run.loader.kind != "full")
                peaks = step_peaks(way, batches, data, held=batch.tensors())
            found |= {f"{phase}{f' ({number})' if number else ''}": peak for phase, peak in peaks.items()}
    return found


@contextmanager
def as_tried(run: Experiment, shape: GraphShape) -> Iterator[Experiment]:
    """Return the run, adapted to synthetic data of a shape."""
    # The learning rate is so small that the loss does not diverge; the shape's edges include reverse edges and loops.
    trial = replace(
        run,
        dataset=replace(run.dataset, undirected=False, self_loops=False),
        train=replace(run.train, lr=1e-9),
    ).for_data(shape.info)
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", ConvergenceWarning)
        if trial.train.teacher.path is not None:
            path = save_logits(Path(folder), torch.zeros(shape.rows, shape.info.num_outputs))
            teacher = replace(trial.train.teacher, path=str(path))
            trial = replace(trial, train=replace(trial.train, teacher=teacher))
        yield trial


def made_up_data(run: Experiment, shape: GraphShape) -> Dataset:
    """Make a synthetic data set of a shape, for `made_up_batches`."""
    if shape.info.task_spec.has_many_graphs or run.loader.kind == "full":
        return made_up(shape)
    return partitioned_data(run.loader, shape, shape)


def made_up_batches(run: Experiment, shape: GraphShape, data: Dataset) -> Batches:
    """Return the batches of a run on synthetic data; parts are consecutive nodes, of equal size."""
    if shape.info.task_spec.has_many_graphs or run.loader.kind == "full":
        return make_batches(data, run.batch_size, run.train.seed, run.loader)
    batches = partitioned_batches(run.loader, shape, data)
    return Prefetched(batches, run.loader.prefetch) if run.loader.prefetch else batches


def ways_of_trial(run: Experiment) -> Iterator[Experiment]:
    """Return the runs whose steps are measured; a fixed point takes all its iterations, because sizes do not say how
    many it needs."""
    for way in ways_of(run):
        if not isinstance(way.model, ModelConfig) or way.model.backprop != "implicit":
            yield way
            continue
        unsolved = replace(way.model.equilibrium, tol=1e-12, backward_tol=1e-12)
        yield replace(way, model=replace(way.model, equilibrium=unsolved))


def _scaled(run: Experiment, factor: float) -> Experiment:
    """Scale the fields of a run's model that are numbers of rows, or bytes of rows."""
    run = with_budget(run, factor)
    if not isinstance(run.model, ModelConfig):
        return run
    return replace(run, model=replace(run.model, head_rows=max(math.ceil(run.model.head_rows * factor), 1)))


def with_budget(run: Experiment, factor: float) -> Experiment:
    """Scale the memory budget of a run, if it has one."""
    model = run.model
    if not isinstance(model, ModelConfig) or model.memory_budget is None:
        return run
    return replace(run, model=replace(model, memory_budget=max(round(parse_bytes(model.memory_budget) * factor), 1)))


def factors_of_trials(run: Experiment, shape: GraphShape) -> list[float]:
    """Choose the factors by which trials scale a step: two, or 1 alone for a small step."""
    step = step_shape(run, shape)
    width = max(size_of(run.model).width, 8)
    largest = max((step.edges + step.nodes) * width, 1)
    factor = max(WORK / 2 / largest, max(LEAST_NODES, NODES_PER_CHANNEL * width) / step.nodes)
    factor = min(factor, MOST_WORK / largest)
    return [1.0] if factor >= WHOLE else [factor, 2 * factor]


def depths_of_trials(run: Experiment) -> list[int | None]:
    """Choose the depths of trials: two, or ``None`` alone, which means all layers."""
    model = run.model
    if not isinstance(model, ModelConfig) or model.backprop == "implicit" or model.memory_budget is not None:
        return [None]
    stack = model.stack_arguments()
    outside = model.num_layers - stack["num_layers"]
    step = max(2, stack["num_distinct"])
    # Layers that share weights: only from the second on is a gradient added to what is there.
    least = 2 * step if model.weight_tied else step
    if model.segments is not None:
        # As many segments as the run has, of some layers each: what is taken at their ends shows only then.
        segments = num_segments(model.segments, stack["num_layers"], model.backprop)
        step = max(step, segments * (FEW if segments <= FEW_SEGMENTS else 1))
        least = 2 * step
    return [None] if stack["num_layers"] <= least + step else [outside + least, outside + least + step]


def with_layers(run: Experiment, layers: int | None) -> Experiment:
    """Return the run with another depth and the same number of segments; ``None``: unchanged."""
    model = run.model
    if layers is None:
        return run
    assert isinstance(model, ModelConfig), "a peer keeps its layers"
    segments = model.segments
    if segments is not None:
        segments = num_segments(segments, model.stack_arguments()["num_layers"], model.backprop)
    return replace(run, model=replace(model, num_layers=layers, segments=segments))


# ------------------------------------------------------------------ holding predictions against measurements
def at_most(
    run: Experiment, shape: GraphShape, times: float, deeper: int | None = None
) -> tuple[Experiment, GraphShape]:
    """Scale a run and its data down to a size that can be measured, but is larger than the trials of its prediction.

    Args:
        run, shape: as in `estimate`.
        times: factor of the nodes and edges of the larger trial.
        deeper: largest factor of the layers of the deeper trial; ``None``: all layers.
    """
    factor = min(times * factors_of_trials(run, shape)[-1], 1.0)
    return at_size(run, shape, factor, deeper)


def at_size(
    run: Experiment, shape: GraphShape, factor: float, deeper: int | None = None
) -> tuple[Experiment, GraphShape]:
    """Scale a run and its data down by a factor; `at_most` says how deep it stays."""
    deepest = depths_of_trials(run)[-1]
    if deepest is not None and deeper is not None and isinstance(run.model, ModelConfig):
        run = replace(run, model=replace(run.model, num_layers=min(run.model.num_layers, deeper * deepest)))
    run = replace(with_budget(run, factor), loader=scaled_loader(run.loader, factor))
    return run, shape.scaled(factor)


def measured_peak(run: Experiment, shape: GraphShape) -> int:
    """Measure the peak of training steps on a synthetic data set of the whole shape, which `estimate` predicts."""
    shape = enough(run, shape)
    with as_tried(run, shape) as whole:
        data = made_up_data(whole, shape)
        ways = ways_of_trial(whole)
        return max(max(step_peaks(way, made_up_batches(way, shape, data), data).values()) for way in ways)


def measured_seconds(
    run: Experiment, shape: GraphShape, *, steps: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the median time of training steps on a synthetic data set of the whole shape.

    Args:
        run, shape: as in `estimate`.
        steps: number of measured steps, at least 1; a step before them fills the caches of the graphs.
        clock: returns seconds; use `time.process_time` with one thread on a busy machine.
    Returns: seconds, without the making of batches.
    """
    shape = enough(run, shape)
    with as_tried(run, shape) as whole:
        data = made_up_data(whole, shape)
        batches = made_up_batches(whole, shape, data)
        each = min(len(batches), steps + 1)
        seconds = dry_run(
            make_model(whole, data.info),
            batches,
            whole.train,
            epochs=-(-(steps + 1) // each),
            steps=each,
            num_outputs=data.info.num_outputs,
            clock=clock,
        )
        return statistics.median(seconds[1 : steps + 1])


def enough(run: Experiment, shape: GraphShape) -> GraphShape:
    """Return the number of graphs in some steps."""
    if not shape.info.task_spec.has_many_graphs or run.batch_size is None:
        return shape
    return shape.scaled(min(4 * STEPS * run.batch_size / shape.graphs, 1.0))
