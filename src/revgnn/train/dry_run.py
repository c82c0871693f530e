"""Takes the first training steps of a run, as `fit` does, to measure their memory and time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from accelerate.utils import set_seed
from torch import nn
from torch.optim import Optimizer

from ..data.batch import Batches
from ..measure import StepMemory
from .callbacks.ema import average_steps
from .config import TrainConfig
from .distributed.ranks import Ranks
from .forward import Forward
from .losses import LOSSES
from .model_hooks import ModelHooks
from .step import Stepper, optimizer_for

BETWEEN, FIRST, GRADIENT, UPDATE = "making of a batch", "first gradient", "gradient", "update"
"""Phases of a memory recording: making a batch (if no thread prefetches it); the first forward and backward, which also
fill the graphs' caches; later forwards and backwards; the optimizer's update. Each phase scales differently."""


def dry_run(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    memory: StepMemory | None = None,
    *,
    epochs: int,
    steps: int,
    num_outputs: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Take the first steps of some epochs on the CPU, without evaluation and without writing files.

    Args:
        model, batches, config, num_outputs: as in `fit`; ``config.epochs`` is ignored.
        memory: records the steps in the phases `BETWEEN`, `FIRST`, `GRADIENT` and `UPDATE`; ``None``: no recording.
        epochs: number of epochs to begin.
        steps: largest number of steps per epoch.
        clock: returns the time in seconds.
    Returns: seconds per step, without the time to make its batch.
    Raises: FloatingPointError: a loss or gradient is not finite.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import dry_run
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2), data.info)
        >>> config = revgnn.TrainConfig(loss="cross_entropy")
        >>> len(dry_run(model, revgnn.make_batches(data), config, epochs=2, steps=1))
        2
    """
    if config.loss is None:
        raise ValueError("train.loss must be named here, where nothing says what the task of the data is")
    ranks = Ranks.open(cpu=True, bf16=config.precision == "bf16", accumulate=config.accumulate)
    set_seed(config.seed)
    forward = Forward(model, labels=config.labels, num_outputs=num_outputs, precision=config.precision)
    optimizer = optimizer_for(model, config)
    stepper = Stepper(forward, optimizer, config, ranks, LOSSES[config.loss])
    model.train()
    mark = _marks(memory, model, optimizer)
    if config.ema_decay is not None:
        average_steps(optimizer, config.ema_decay)
    seconds: list[float] = []
    try:
        for epoch in range(1, epochs + 1):
            if isinstance(model, ModelHooks):
                model.begin_epoch(epoch)
            if memory is not None:
                memory()
            mark(BETWEEN)
            shared = ranks.place.training(batches.train(epoch), accumulate=config.accumulate, done=0)
            for step, rank_batches in enumerate(itertools.islice(shared, steps), start=1):
                mark(GRADIENT if seconds else FIRST)
                started = clock()
                stepper.step(rank_batches, epoch=epoch, step=step)
                seconds.append(clock() - started)
                if memory is not None:
                    memory.step()
            if memory is not None:
                memory()
    finally:
        if memory is not None:
            memory.close()
    return seconds


def _marks(memory: StepMemory | None, model: nn.Module, optimizer: Optimizer) -> Callable[[str], None]:
    """Return a function that begins a phase; optimizer hooks begin and end the update phase."""
    if memory is None:
        return lambda phase: None
    optimizer.register_step_pre_hook(
        lambda *_: memory.phase(UPDATE, left=[one.grad for one in model.parameters() if one.grad is not None])
    )
    optimizer.register_step_post_hook(lambda *_: memory.phase(BETWEEN))
    return memory.phase
