"""The memory of a run's first training steps, measured on the CPU by the definition that reports use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..data import Dataset, Store, make_batches
from ..experiment import Experiment, make_model
from ..measure import FIRST_BATCH, AllocationEvent
from ..nn.model import ModelConfig
from ..train import dry_run
from ..train.callbacks.memory import step_memory


def training_memory(run: Experiment, dataset: Dataset | Store) -> int:
    """Measure the peak bytes of training steps on the CPU, by the definition that reports use.

    Args:
        run: its epochs do not matter: the first steps of two are taken, so that the optimizer's state is there; and of
            a fixed point that is unrolled at first, solved ones too.
        dataset: the data of the run.
    """
    return max(max(events)[0] for way in ways_of(run) for events in training_trace(way, dataset).values())


def ways_of(run: Experiment) -> Iterator[Experiment]:
    """A run and, where its first epochs unroll a fixed point, the same run that solves it from the first on."""
    yield run
    if _unrolled_epochs(run):
        assert isinstance(run.model, ModelConfig), "a peer has no fixed point"
        solved = replace(run.model.equilibrium, pretrain_epochs=0)
        yield replace(run, model=replace(run.model, equilibrium=solved))


def training_trace(run: Experiment, dataset: Dataset | Store) -> dict[str, list[AllocationEvent]]:
    """Measure as `training_memory`, moment by moment.

    Returns: the phases of `dry_run` and, where batches are made ahead, "first batch" -> all bytes that are alive, and
        those of gradients among them where gradients are made, after every allocation and every release.
    """
    batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
    model = make_model(run, dataset.info)
    memory = step_memory("cpu", model, batches, run.train.accumulate, detailed=True)
    assert memory is not None, "the CPU is always measured"
    dry_run(
        model,
        batches,
        run.train,
        memory,
        epochs=2,
        steps=memory.RECORDED_STEPS // 2,
        num_outputs=dataset.info.num_outputs,
    )
    return {
        phase: [(size + (memory.beside if phase != FIRST_BATCH else 0), left) for size, left in allocation_trace]
        for phase, allocation_trace in memory.allocation_trace.items()
    }


def _unrolled_epochs(run: Experiment) -> int:
    """Epochs in which a fixed point is unrolled, before the first that solves it."""
    if not isinstance(run.model, ModelConfig) or run.model.backprop != "implicit":
        return 0
    return run.model.equilibrium.pretrain_epochs
