"""Peak memory of a run before it runs, from the sizes of its data set alone.

``bytes(N, L) = a + b N + c L + d N L`` in every phase of a step; the largest phase is the peak. The four coefficients
are fitted to trials of the real program: steps on one batch in which all sizes (nodes, edges, graphs, training rows,
rows of a head's block) are scaled by one factor, at two factors and two depths of the same stack. So the estimate
follows the code and covers every convolution, peer and loader. The memory for making batches is measured separately
(`making`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from ..data import Batches, Dataset, Store
from ..experiment import Experiment, make_model
from ..measure import FIRST_BATCH
from ..nn.model import ModelConfig
from ..report.facts import Predicted
from ..stack.choices import num_segments
from ..train.dry_run import BETWEEN
from .dry_run import depths_of_trials, factors_of_trials, trial_peaks, with_layers
from .making import batch_memory
from .measured import Peaks
from .model_size import size_of
from .process import process_bytes
from .step_size import kept_by, step_size, steps_of
from .synthetic import GraphShape, made_up, shape_of_dataset

BYTES = 4
"""Of a float32."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted peak memory of a training step on the CPU, in bytes."""

    peak: int
    """Bytes of all tensors."""
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
    """Bytes of the process: see `process_bytes`."""


def estimate(run: Experiment, shape: GraphShape) -> Prediction:
    """Predict the peak memory of a run's training steps.

    Args:
        run: the experiment, on the CPU with this process's kernels and libraries.
        shape: shape of its whole data set.
    Raises: ValueError: the network does not fit the data.
    Cost: up to four small trainings of four steps, about a second in total; repeated calls are cached.
    """
    found = _predict(run, shape)
    return replace(found, process=process_bytes(run, shape, found.peak))


@lru_cache(maxsize=256)
def _predict(run: Experiment, shape: GraphShape) -> Prediction:
    factors, depths, layers = factors_of_trials(run, shape), depths_of_trials(run), size_of(run.model).layers
    peaks = fitted(
        [[trial_peaks(run, shape, factor, depth) for factor in factors] for depth in depths],
        factors,
        [layers if depth is None else depth for depth in depths],
        layers,
    )
    parameters, tensors = count_weights(run, shape)
    weights = weight_kinds(run, parameters, tensors)
    if not shape.info.task_spec.has_many_graphs and run.loader.kind != "full":
        peaks = _with_batches(run, shape, peaks)
    highest = max(peaks, key=lambda phase: peaks[phase])
    peak = round(peaks[highest])
    return Prediction(
        peak=peak,
        kinds=_kinds(run, shape, weights, peak),
        phase=highest.partition(",")[0],
        how="measured" if factors == [1.0] and depths == [None] else "fitted",
        parameters=parameters,
    )


def fitted(
    trials: Sequence[Sequence[Peaks]], factors: Sequence[float], depths: Sequence[int], layers: int
) -> dict[str, float]:
    """Extrapolate peaks linearly to the full size and depth.

    Args:
        trials: the peaks of each phase, at each depth and of each factor.
        factors, depths: of the trials, one or two of each.
        layers: of the whole depth.
    """
    common = set.intersection(*(set(peaks) for row in trials for peaks in row))
    found = {}
    for phase in common:
        at_depths = [_along(factors, [peaks[phase] for peaks in row], 1.0) for row in trials]
        found[phase] = _along(depths, at_depths, layers)
    return found


def _along(places: Sequence[float], values: Sequence[float], where: float) -> float:
    """Evaluate the line through one or two points."""
    first, last = values[0], values[-1]
    return first if len(places) == 1 else first + (last - first) * (where - places[0]) / (places[1] - places[0])


def _with_batches(run: Experiment, shape: GraphShape, peaks: dict[str, float]) -> dict[str, float]:
    """Add the memory of batches, and of making them, to the peaks of steps."""
    memory, prefetch = batch_memory(run.loader, shape), run.loader.prefetch
    waiting = min(prefetch, steps_of(run, shape) - 1) * memory.batch
    beside = memory.kept + (waiting + memory.later if prefetch else 0.0)
    found = {phase: peak + beside for phase, peak in peaks.items()}
    # The first batch of an epoch is waited for, while the last step's is still there.
    found[FIRST_BATCH if prefetch else BETWEEN] = peaks[BETWEEN] + memory.first
    return found


def predicted(run: Experiment, dataset: Dataset | Store, batches: Batches) -> Predicted | None:
    """Predict the memory of a run on loaded data, for its report; ``None`` for a graph on disk."""
    if isinstance(dataset, Store):
        return None
    shape = shape_of_dataset(dataset)
    if run.loader.kind == "clusters":
        shape = replace(shape, kept=round(kept_by(batches, shape), 3))
    found = estimate(run, shape)
    return {"peak_bytes": found.peak, "process_bytes": found.process, "how": found.how, "kinds": found.kinds}


def count_weights(run: Experiment, shape: GraphShape) -> tuple[int, int]:
    """Count the trainable parameters of a run's network, and their tensors, without building it at full depth."""
    dataset = made_up(shape.scaled(64 / shape.rows) if shape.rows > 64 else shape)

    def count(layers: int | None) -> tuple[int, int]:
        with torch.device("meta"):
            model: nn.Module = make_model(with_layers(run, layers), dataset.info)
        trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
        return sum(trained), len(trained)

    depths = depths_of_trials(run)
    if len(depths) == 1:
        return count(None)
    low, high = (depth for depth in depths if depth is not None)
    one, two = count(low), count(high)
    numbers, tensors = (
        first + (last - first) * (size_of(run.model).layers - low) // (high - low)
        for first, last in zip(one, two, strict=True)
    )
    return numbers, tensors


MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1}
"""Numbers that an optimizer keeps for each parameter."""


def weight_kinds(run: Experiment, parameters: int, tensors: int) -> dict[str, int]:
    """Return the bytes of parameters, gradients and optimizer state.

    Args:
        run: the run; a moving average of its weights counts as optimizer state.
        parameters: number of trainable parameters.
        tensors: number of their tensors; the optimizer has a float32 step counter for each.
    """
    weights = parameters * BYTES
    kept = MOMENTS[run.train.optimizer] + (run.train.ema_decay is not None)
    optimizer = kept * weights + tensors * BYTES
    return {"parameters": weights, "gradients": weights, "optimizer": optimizer}


def _kinds(run: Experiment, shape: GraphShape, weights: dict[str, int], peak: int) -> dict[str, int]:
    """Split a peak into kinds: those that have closed forms, and the rest, which is work space and activations."""
    nodes, edges = step_size(run, shape)
    kinds = {
        **weights,
        "batch": nodes * shape.info.in_channels * BYTES,
        "graph": edges * BYTES + nodes * BYTES,
        "edge features": edges * sum(shape.info.edge_categories or (shape.info.edge_channels or 0,)) * BYTES,
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
    """Return the bytes of the streams [N, D] that are saved for the backward, and of their gradient."""
    model, size = run.model, size_of(run.model)
    stream = nodes * size.width * BYTES
    if not isinstance(model, ModelConfig):
        return size.layers * stream
    if model.backprop in ("reversible", "checkpoint"):
        runs = num_segments(model.segments, model.stack_arguments()["num_layers"], model.backprop)
        return (runs + 1) * stream
    return model.num_layers * stream if model.backprop == "store" else 2 * stream
