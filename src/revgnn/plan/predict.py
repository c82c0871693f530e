"""Peak memory of a run before it runs, from the sizes of its data set alone.

``peak(N, L) = a + b N + c L + d N L``, for the first gradient, later ones and the optimizer's update apart; the
largest is the peak.
The four numbers of bytes come from small trials of the very program that will run: made-up data in which everything
that grows with the data set (nodes, edges, graphs, training rows, rows of a head's block) is scaled by one factor, and
two depths of the same stack. So no formula can fall behind the code, and every convolution, peer and loader is covered.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..data import Dataset
from ..models import ModelConfig
from ..run import Run, make_model, training_peaks
from ..stack import tail
from ..stack.budget import parse_bytes
from ..stack.implicit import ConvergenceWarning
from ..train.distill import save_logits
from .shape import GraphShape, made_up, shape_of_dataset

WORK = 2**22
"""Numbers in the largest tensor of a trial, about: a width for every edge of a step."""
LEAST_NODES, NODES_PER_CHANNEL = 384, 2
"""Of a step of the smaller trial: below, what does not grow with the graph hides what does."""
STEPS = 4
"""Of an epoch of a trial on small graphs."""
BYTES = 4
"""Of a float32."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a training step will take at its peak, in bytes."""

    peak: int
    """All of it."""
    kinds: dict[str, int]
    """Kind -> bytes; they add up to the peak."""
    phase: str
    """When the peak is: "first gradient", "gradient" or "update"."""
    how: str
    """"fitted", from smaller trials, or "measured", where the data set is no larger than a trial."""
    parameters: int
    """Trained numbers."""


@dataclass(frozen=True)
class Size:
    """How far a trial is scaled down."""

    factor: float
    """Of everything that grows with the data set, in (0, 1]."""
    layers: int | None
    """Of the network; ``None``: as many as it has."""


def predict(run: Run, shape: GraphShape) -> Prediction:
    """Predict the peak memory of a run's training steps.

    Args:
        run: what will run; where it lies on the CPU, in this process's choice of kernels.
        shape: of its data set, whole.
    Raises: ValueError: network and data do not go together.
    Cost: up to four small trainings of two steps, seconds in all; none for what was asked before.
    """
    return _predict(replace(run, paper=None), shape)


@lru_cache(maxsize=256)
def _predict(run: Run, shape: GraphShape) -> Prediction:
    if shape.level == "graph" and run.batch_size is not None and shape.graphs > STEPS * run.batch_size:
        # A step sees so many graphs, however many there are.
        shape = shape.scaled(STEPS * run.batch_size / shape.graphs)
    factors, depths = _factors(run, shape), _depths(run)
    points = {(f, l): _trial(run, shape, Size(f, l)) for f in factors for l in depths}
    full = _layers(run)
    peaks = {
        phase: _extend({at: found[phase] for at, found in points.items()}, factors, depths, full)
        for phase in set.intersection(*(set(found) for found in points.values()))
    }
    phase = max(peaks, key=lambda name: peaks[name])
    parameters = num_parameters(run, shape)
    return Prediction(
        peak=round(peaks[phase]),
        kinds=_kinds(run, shape, parameters, round(peaks[phase])),
        phase=phase,
        how="measured" if factors == [1.0] and depths == [None] else "fitted",
        parameters=parameters,
    )


def predicted(run: Run, dataset: Dataset) -> dict[str, Any]:
    """Say what to expect of a run over data that are loaded, as reports keep it."""
    found = predict(run, shape_of_dataset(dataset))
    return {"peak_bytes": found.peak, "how": found.how, "kinds": found.kinds}


def num_parameters(run: Run, shape: GraphShape) -> int:
    """Count the trained numbers of a run's network, without making it."""
    dataset = made_up(shape.scaled(64 / shape.rows) if shape.rows > 64 else shape)
    with torch.device("meta"):
        model: nn.Module = make_model(run, dataset)
    return sum(parameter.numel() for parameter in model.parameters())


def _extend(
    peaks: dict[tuple[float, int | None], int], factors: list[float], depths: list[int | None], layers: int
) -> float:
    """Carry a bilinear function of two factors and two depths on to factor 1 and the whole depth."""
    along = []
    for factor in factors:
        values = [peaks[factor, depth] for depth in depths]
        if len(depths) == 1:
            along.append(float(values[0]))
            continue
        low, high = (depth for depth in depths if depth is not None)
        along.append(values[0] + (values[1] - values[0]) / (high - low) * (layers - low))
    if len(factors) == 1:
        return along[0]
    return along[0] + (along[1] - along[0]) / (factors[1] - factors[0]) * (1.0 - factors[0])


def _trial(run: Run, shape: GraphShape, size: Size) -> dict[str, int]:
    small = shape.scaled(size.factor)
    trial = _with_layers(_scaled(run, size.factor), size.layers)
    data = made_up(small)
    # Both directions and loops are in the edges of a shape already.
    dataset = replace(trial.dataset, undirected=False, self_loops=False)
    found: dict[str, int] = {}
    with _fewer_rows(size.factor), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", ConvergenceWarning)
        if trial.train.teacher.path is not None:
            path = save_logits(Path(folder), torch.zeros(small.rows, small.outputs))
            teacher = replace(trial.train.teacher, path=str(path))
            trial = replace(trial, train=replace(trial.train, teacher=teacher))
        for one in _modes(replace(trial, dataset=dataset)):
            for phase, peak in training_peaks(one, data).items():
                found[phase] = max(peak, found.get(phase, 0))
    return found


def _modes(run: Run) -> Iterator[Run]:
    """A run, and where its first epochs take another way than its later ones, each of the two.

    A fixed point is given all its iterations: how many it will need, sizes do not tell.
    """
    # So small a rate that no loss runs away.
    train = replace(run.train, lr=1e-9, warmup_epochs=0, patience=None, keep_logits=False)
    run = replace(run, train=train)
    if not isinstance(run.model, ModelConfig) or run.model.backprop != "implicit":
        yield run
        return
    options = run.model.equilibrium
    yield replace(
        run, model=replace(run.model, equilibrium=replace(options, pretrain_epochs=0, tol=1e-12, backward_tol=1e-12))
    )
    if options.pretrain_epochs:
        yield run


@contextmanager
def _fewer_rows(factor: float) -> Iterator[None]:
    """Scale the blocks of rows in which a stack's tail is evaluated, as the data set is."""
    rows = tail.ROWS
    tail.ROWS = max(round(rows * factor), 1)
    try:
        yield
    finally:
        tail.ROWS = rows


def _scaled(run: Run, factor: float) -> Run:
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


def _factors(run: Run, shape: GraphShape) -> list[float]:
    """Two factors, the second twice the first; or 1 alone, where the data set is small."""
    step_nodes, step_edges = step_size(run, shape)
    width = _width(run)
    by_work = WORK / max((step_edges + step_nodes) * width, 1)
    factor = max(by_work, max(LEAST_NODES, NODES_PER_CHANNEL * width) / step_nodes)
    return [1.0] if factor >= 0.4 else [factor, 2 * factor]


def step_size(run: Run, shape: GraphShape) -> tuple[int, int]:
    """Nodes and edges that a training step sees, as expected."""
    loader = run.loader
    if shape.level == "graph":
        share = min((run.batch_size or shape.graphs) / shape.graphs, 1.0)
        return max(round(shape.nodes * share), 1), round(shape.edges * share)
    if loader.kind in ("random", "clusters") and loader.num_parts is not None:
        parts = -(-loader.num_parts // (loader.parts_per_batch or 1))
        loops = shape.nodes if shape.self_loops else 0
        # Clusters keep more edges than random parts; the bound is all of them.
        kept = 1 if loader.kind == "clusters" else parts
        return max(shape.nodes // parts, 1), loops // parts + (shape.edges - loops) // (parts * kept)
    return shape.nodes, shape.edges


def _width(run: Run) -> int:
    return max(run.model.hidden_channels, 8)


def _layers(run: Run) -> int:
    return run.model.num_layers


def _depths(run: Run) -> list[int | None]:
    """Two depths of the stack, or ``None`` alone for all layers."""
    model = run.model
    if not isinstance(model, ModelConfig) or model.backprop == "implicit" or model.memory_budget is not None:
        return [None]
    stack = model.stack_arguments()
    outside = model.num_layers - stack["num_layers"]
    step = max(2, stack["num_distinct"])
    if model.segments is not None:
        step = max(step, 32 if model.segments == "auto" else model.segments)
    return [None] if stack["num_layers"] <= 2 * step else [outside + step, outside + 2 * step]


def _with_layers(run: Run, layers: int | None) -> Run:
    if layers is None:
        return run
    assert isinstance(run.model, ModelConfig), "a peer keeps its layers"
    return replace(run, model=replace(run.model, num_layers=layers))


MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1}
"""Numbers that an optimizer keeps for each parameter."""


def _kinds(run: Run, shape: GraphShape, parameters: int, peak: int) -> dict[str, int]:
    """Tell the kinds apart that closed forms give; the rest is work space and what waits for the backward."""
    nodes, edges = step_size(run, shape)
    weights = parameters * BYTES
    kinds = {
        "parameters": weights,
        "gradients": weights,
        "optimizer": MOMENTS[run.train.optimizer] * weights,
        "batch": nodes * shape.features * BYTES,
        "graph": edges * BYTES + nodes * BYTES,
        "edge features": edges * sum(shape.edge_categories or (shape.edge_channels or 0,)) * BYTES,
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


def stored_states(run: Run, nodes: int) -> int:
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


# ------------------------------------------------------------------ holding predictions against measurements
def at_most(run: Run, shape: GraphShape, times: float, deeper: int) -> tuple[Run, GraphShape]:
    """Scale a run and its data down to a size that can be measured, beyond that of the trials of its prediction.

    Args:
        run, shape: what `predict` takes.
        times: nodes and edges, of the larger trial's.
        deeper: layers, of the deeper trial's.
    """
    depths, factors = _depths(run), _factors(run, shape)
    if depths[-1] is not None:
        run = _with_layers(run, min(run.model.num_layers, deeper * depths[-1]))
    return _scaled(run, min(times * factors[-1], 1.0)), shape.scaled(min(times * factors[-1], 1.0))


def measured_peak(run: Run, shape: GraphShape) -> int:
    """Measure what `predict` predicts: the peak of training steps on a made-up data set of the whole shape."""
    if shape.level == "graph" and run.batch_size is not None:
        shape = shape.scaled(min(2 * STEPS * run.batch_size / shape.graphs, 1.0))
    return max(_trial(run, shape, Size(1.0, None)).values())
