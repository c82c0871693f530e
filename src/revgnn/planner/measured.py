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
        run: its epochs do not matter: the first steps of two are taken, so that the optimizer's state is there; and of
            a fixed point that is unrolled at first, solved ones too.
        dataset: the data of the run.
    """

    def peak(way: Experiment) -> int:
        batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
        return max(step_peaks(way, batches, dataset).values())

    return max(peak(way) for way in ways_of(run))


def ways_of(run: Experiment) -> Iterator[Experiment]:
    """A run and, where its first epochs unroll a fixed point, the same run that solves it from the first on."""
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
        run: what is trained and how.
        batches: of the steps.
        dataset: that they are of.
        held: tensors of the batches that are there before the first step; ``None``: what the loader's kind holds.
    Returns: the phases of `dry_run`, gradients cut into `pieces`; and "first batch", where batches are made ahead.
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
    """Cut a phase by the gradients that it leaves, and give the peak of each piece.

    Each piece grows with depth along a line of its own. Before the first gradient all activations are there. While
    gradients come, the highest moment is near the head (all activations, gradients apart) or near the encoder (all
    gradients). After the last gradient there are no activations. A small trial is highest in another piece than the
    whole run, so that one peak for all of them would be carried on along the wrong line.
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
