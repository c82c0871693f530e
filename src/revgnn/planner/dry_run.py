"""Small trials of a run: the very program, on made-up data and at depths of its stack that take a moment."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..data import Batches, Dataset, LoaderConfig, induced, make_batches
from ..data.sampling.partition import RandomPartition
from ..experiment import Experiment, make_model, training_trace, ways_of
from ..implicit.fixed_point import ConvergenceWarning
from ..measure import AllocationEvent
from ..nn.model import ModelConfig
from ..stack import fused_head
from ..stack.budget import parse_bytes
from ..train import dry_run
from ..train.distill import save_logits
from .synthetic import GraphShape, made_up

WORK = 2**20
"""Numbers in the largest tensor of a trial, about: a width for every edge of a step."""
LEAST_NODES, NODES_PER_CHANNEL = 128, 1
"""Of a step of the smaller trial: below, what does not grow with the graph hides what does."""
MOST_WORK = 2**24
"""Numbers in that tensor at the most, however few nodes are left: a peer may keep dozens of its size."""
WHOLE = 0.4
"""Factor from which the run itself is tried."""
STEPS = 4
"""Of an epoch of a trial on small graphs."""
KEPT = 0.5
"""Share of the edges that batches of METIS clusters keep, where it is not known: 0.51 of ogbn-arxiv's, by 32 of 512."""

Moments = dict[tuple[int, str], list[AllocationEvent]]
"""(Which way of its epochs, phase) -> bytes that are allocated, and gradients' among them, after every change."""


@dataclass(frozen=True)
class Size:
    """How far a trial is scaled down."""

    factor: float
    """Of everything that grows with the data set, in (0, 1]."""
    layers: int | None
    """Of the network; ``None``: as many as it has."""


def measure_trial(run: Experiment, shape: GraphShape, size: Size) -> Moments:
    """Run a trial.

    Args:
        run, shape: what `estimate` takes.
        size: of the trial.
    Returns: its memory, moment by moment.
    """
    found: Moments = {}
    with as_tried(run, shape, size) as (trial, data):
        for way, one in enumerate(ways_of_trial(trial)):
            for phase, allocation_trace in training_trace(one, data).items():
                found[way, phase] = allocation_trace
    return found


@contextmanager
def as_tried(run: Experiment, shape: GraphShape, size: Size) -> Iterator[tuple[Experiment, Dataset]]:
    """Give a run at a size, and its made-up data."""
    small = shape.scaled(size.factor)
    trial = _with_layers(_scaled(run, size.factor), size.layers)
    # Both directions and loops are in the edges of a shape already; and so small a rate that no loss runs away.
    trial = replace(
        trial,
        dataset=replace(trial.dataset, undirected=False, self_loops=False),
        train=replace(trial.train, lr=1e-9),
    ).for_data(shape.info)
    with _in_proportion(size.factor), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", ConvergenceWarning)
        if trial.train.teacher.path is not None:
            path = save_logits(Path(folder), torch.zeros(small.rows, small.info.num_outputs))
            teacher = replace(trial.train.teacher, path=str(path))
            trial = replace(trial, train=replace(trial.train, teacher=teacher))
        if trial.loader.kind in ("random", "clusters"):
            parts, kept = steps_by_parts(trial.loader, shape), kept_share(trial.loader, shape)
            # What METIS would make of a random graph is nothing like its clusters: a batch is a run of nodes instead.
            loader = LoaderConfig(kind="random", num_parts=parts, prefetch=trial.loader.prefetch)
            yield replace(trial, loader=loader), made_up(small, runs=parts, kept=kept)
        else:
            yield trial, made_up(small)


def sizes_of_trials(run: Experiment, shape: GraphShape) -> tuple[list[float], list[int | None]]:
    """Choose two factors, or 1 alone; and two depths, or ``None`` alone: all layers."""
    return _factors(run, shape), _depths(run)


def step_size(run: Experiment, shape: GraphShape) -> tuple[int, int]:
    """Nodes and edges that a training step sees, as expected."""
    loader = run.loader
    if shape.info.task_spec.has_many_graphs:
        share = min((run.batch_size or shape.graphs) / shape.graphs, 1.0)
        return max(round(shape.nodes * share), 1), round(shape.edges * share)
    if loader.kind in ("random", "clusters", "stored"):
        parts = steps_by_parts(loader, shape)
        loops = shape.nodes if shape.info.self_loops else 0
        kept = kept_share(loader, shape) * (shape.edges - loops)
        return max(shape.nodes // parts, 1), loops // parts + round(kept / parts)
    if loader.kind == "khop":
        return _reached(loader, shape)
    return shape.nodes, shape.edges


def _reached(loader: LoaderConfig, shape: GraphShape) -> tuple[int, int]:
    """Nodes that sampled neighbourhoods reach and edges between them, were degrees equal and ends random.

    Real ones meet more often, and nodes with few edges draw fewer: the counts are rather too large.
    """
    roots = shape.train or round(0.6 * shape.rows)
    degree = shape.edges / shape.nodes
    drawn, newest = 0.0, min(loader.batch_size or roots, roots) / shape.nodes
    reached = newest
    for fanout in loader.fanouts or ():
        draws = newest * (degree if fanout == -1 else min(fanout, degree))
        drawn += draws / degree
        newest = (1 - reached) * -math.expm1(-draws)
        reached += newest
    # Kept are edges that were drawn or whose reverse was, and of the others those with both ends among the nodes.
    either = 1 - (1 - min(drawn, 1.0)) ** 2
    kept = either + (1 - either) * reached**2
    return max(round(reached * shape.nodes), 1), round(kept * shape.edges)


def kept_share(loader: LoaderConfig, shape: GraphShape) -> float:
    """Share of the edges, loops apart, that lie within a part of an epoch."""
    if loader.kind == "random":
        return 1 / steps_by_parts(loader, shape)
    if loader.kind == "clusters":
        return KEPT if shape.kept is None else shape.kept
    within = 1 / shape.parts if shape.kept is None else shape.kept
    # Parts come together by chance: to the edges within each come those between them.
    return within + (1 - within) * ((loader.parts_per_batch or 1) - 1) / max(shape.parts - 1, 1)


def kept_by(batches: Batches, shape: GraphShape) -> float:
    """Count the share of the edges, loops apart, that the batches of an epoch keep; batches left out count as others.

    Cost: the batches of an epoch.
    """
    sizes = [(batch.graph.num_nodes, batch.graph.num_edges) for batch in batches.train(1)]
    nodes, edges = (sum(counts) for counts in zip(*sizes, strict=True))
    loops = (shape.nodes, nodes) if shape.info.self_loops else (0, 0)
    return float((edges - loops[1]) / max((shape.edges - loops[0]) * nodes / shape.nodes, 1))


def steps_by_parts(loader: LoaderConfig, shape: GraphShape) -> int:
    """Steps of an epoch by parts that are drawn, or read from disk."""
    parts = shape.parts if loader.kind == "stored" else loader.num_parts
    assert parts is not None, "LoaderConfig has checked it"
    return -(-parts // (loader.parts_per_batch or 1))


def ways_of_trial(run: Experiment) -> Iterator[Experiment]:
    """The ways that a run's steps take; a fixed point is given all its iterations: sizes do not tell what it needs."""
    for way in ways_of(run):
        if not isinstance(way.model, ModelConfig) or way.model.backprop != "implicit":
            yield way
            continue
        unsolved = replace(way.model.equilibrium, tol=1e-12, backward_tol=1e-12)
        yield replace(way, model=replace(way.model, equilibrium=unsolved))


@contextmanager
def _in_proportion(factor: float) -> Iterator[None]:
    """Scale the blocks in which rows and edges are gone through, as the data set is; leave no size to chance."""
    before = fused_head.ROWS, induced.EDGES_AT_ONCE, RandomPartition.even
    fused_head.ROWS, induced.EDGES_AT_ONCE = (max(round(size * factor), 1) for size in before[:2])
    RandomPartition.even = True
    try:
        yield
    finally:
        fused_head.ROWS, induced.EDGES_AT_ONCE, RandomPartition.even = before


def _scaled(run: Experiment, factor: float) -> Experiment:
    """Scale the numbers of a run that count rows of the data set."""
    loader = run.loader
    if loader.batch_size is not None:
        loader = replace(loader, batch_size=max(round(loader.batch_size * factor), 1))
    # The evaluation is no part of a training step.
    loader = replace(loader, eval_parts=1, eval_views=1, final_parts=None, final_views=1)
    model = run.model
    if isinstance(model, ModelConfig) and model.memory_budget is not None:
        model = replace(model, memory_budget=max(round(parse_bytes(model.memory_budget) * factor), 1))
    return replace(run, loader=loader, model=model)


def _factors(run: Experiment, shape: GraphShape) -> list[float]:
    step_nodes, step_edges = step_size(run, shape)
    width = max(run.model.hidden_channels, 8)
    largest = max((step_edges + step_nodes) * width, 1)
    factor = max(WORK / largest, max(LEAST_NODES, NODES_PER_CHANNEL * width) / step_nodes)
    factor = min(factor, MOST_WORK / largest)
    # Blocks of rows must come out whole: trials of equally many blocks can be compared moment by moment.
    factor = math.ceil(factor * fused_head.ROWS) / fused_head.ROWS
    return [1.0] if factor >= WHOLE else [factor, 2 * factor]


def _depths(run: Experiment) -> list[int | None]:
    model = run.model
    if not isinstance(model, ModelConfig) or model.backprop == "implicit" or model.memory_budget is not None:
        return [None]
    stack = model.stack_arguments()
    outside = model.num_layers - stack["num_layers"]
    step = max(2, stack["num_distinct"])
    if model.segments is not None:
        step = max(step, 32 if model.segments == "auto" else model.segments)
    # Layers that share weights: only from the second on is a gradient added to what is there.
    least = 2 * step if model.weight_tied else step
    return [None] if stack["num_layers"] <= least + step else [outside + least, outside + least + step]


def _with_layers(run: Experiment, layers: int | None) -> Experiment:
    if layers is None:
        return run
    assert isinstance(run.model, ModelConfig), "a peer keeps its layers"
    return replace(run, model=replace(run.model, num_layers=layers))


# ------------------------------------------------------------------ holding predictions against measurements
def at_most(
    run: Experiment, shape: GraphShape, times: float, deeper: int | None = None
) -> tuple[Experiment, GraphShape]:
    """Scale a run and its data down to a size that can be measured, beyond that of the trials of its prediction.

    Args:
        run, shape: what `estimate` takes.
        times: nodes and edges, of the larger trial's.
        deeper: layers, of the deeper trial's, at most; ``None``: all that the net has.
    """
    factors, depths = sizes_of_trials(run, shape)
    if depths[-1] is not None and deeper is not None:
        run = _with_layers(run, min(run.model.num_layers, deeper * depths[-1]))
    return _scaled(run, min(times * factors[-1], 1.0)), shape.scaled(min(times * factors[-1], 1.0))


def measured_peak(run: Experiment, shape: GraphShape) -> int:
    """Measure what `estimate` predicts: the peak of training steps on a made-up data set of the whole shape."""
    allocation_trace = measure_trial(run, enough(run, shape), Size(1.0, None)).values()
    return max(max(phase)[0] for phase in allocation_trace)


def measured_seconds(
    run: Experiment, shape: GraphShape, *, steps: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the median time of training steps on a made-up data set of the whole shape.

    Args:
        run, shape: what `estimate` takes.
        steps: that count, at least 1; one before them, which makes what graphs derive and keep, does not.
        clock: tells the seconds; `time.process_time` where other programs run, and with one thread.
    Returns: seconds; the making of batches is not in them.
    """
    with as_tried(run, enough(run, shape), Size(1.0, None)) as (whole, data):
        batches = make_batches(data, whole.batch_size, whole.train.seed, whole.loader)
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
    """As many graphs as some steps see."""
    if not shape.info.task_spec.has_many_graphs or run.batch_size is None:
        return shape
    return shape.scaled(min(2 * STEPS * run.batch_size / shape.graphs, 1.0))
