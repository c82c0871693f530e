"""Measures the peak memory of a run's first training steps on given data, for each phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from ..data import Batches, Dataset, Store, make_batches
from ..experiment import Experiment, make_model
from ..measure import FIRST_BATCH, AllocationEvent, StepMemory
from ..nn.model import ModelConfig
from ..train import dry_run
from ..train.callbacks.memory import step_memory

Peaks = dict[str, int]
"""Phase of a training step -> the most bytes of tensors that are allocated in it."""


def training_memory(run: Experiment, dataset: Dataset | Store) -> int:
    """Measure the peak bytes of training steps on the CPU, by the definition that reports use.

    Args:
        run: the run; the first steps of two epochs are measured, so that the optimizer has its state. If the run first
            unrolls a fixed point, steps that solve it are measured too.
        dataset: the data of the run.
    """

    def peak(way: Experiment) -> int:
        batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
        return max(step_peaks(way, batches, dataset).values())

    return max(peak(way) for way in ways_of(run))


def ways_of(run: Experiment) -> Iterator[Experiment]:
    """Return a run and, if its first epochs unroll a fixed point, also the run that solves it from the start."""
    yield run
    if (
        isinstance(run.model, ModelConfig)
        and run.model.backprop == "implicit"
        and run.model.equilibrium.pretrain_epochs
    ):
        yield replace(run, model=replace(run.model, equilibrium=replace(run.model.equilibrium, pretrain_epochs=0)))


def step_peaks(
    run: Experiment, batches: Batches, dataset: Dataset | Store, held: Iterable[Tensor] | None = None
) -> Peaks:
    """Measure the peaks of the phases of a run's first steps: two of each of two epochs.

    Args:
        run: the run.
        batches: its batches.
        dataset: its data.
        held: tensors of batches that exist before the first step; ``None``: those that the loader holds.
    Returns: the peak of each phase of `dry_run`, with gradients cut into `pieces`; and of "first batch", if batches are
        prefetched.
    """
    run = run.for_data(dataset.info)
    model = make_model(run, dataset.info)
    if held is None:
        memory = step_memory("cpu", model, batches, run.train.accumulate, detailed=True)
        assert memory is not None, "the CPU is always measured"
    else:
        memory = StepMemory("cpu", [*model.parameters(), *model.buffers(), *held])
    steps = memory.RECORDED_STEPS // 2
    dry_run(model, batches, run.train, memory, epochs=2, steps=steps, num_outputs=dataset.info.num_outputs)
    return {
        piece: peak + (0 if phase == FIRST_BATCH else memory.beside)
        for phase, trace in memory.allocation_trace.items()
        for piece, peak in pieces(phase, trace).items()
    }


def pieces(phase: str, trace: Sequence[AllocationEvent]) -> Peaks:
    """Cut a phase where gradients appear, and return the peak of each piece.

    Each piece grows with depth along a line of its own. Before the first gradient all activations are there. While
    gradients come, the highest moment is near the head (all activations, gradients apart) or near the encoder (all
    gradients). After the last gradient there are no activations. The peak of a small trial may lie in another piece
    than that of the whole run, so each piece is extrapolated by itself.
    """
    total = max(there for _, there in trace)
    if not total:
        return {phase: max(size for size, _ in trace)}
    before = [size for size, there in trace if not there]
    coming = [(size, there) for size, there in trace if 0 < there < total]
    after = [size for size, there in trace if there == total]
    return {
        f"{phase}, {piece}": max(sizes)
        for piece, sizes in {
            "before": before,
            "near the head": [size - there for size, there in coming],
            "near the encoder": [size for size, _ in coming],
            "after": after,
        }.items()
        if sizes
    }
