"""The first steps of a run for whoever measures them: the steps that `fit` takes, and nothing around them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from accelerate.utils import set_seed
from torch import nn
from torch.optim import Optimizer

from ..data.batch import Batches
from ..measure import StepMemory
from .config import TrainConfig
from .distributed.ranks import Ranks
from .model_hooks import ModelHooks
from .optim import make_optimizer
from .step import Stepper

BETWEEN, FIRST, GRADIENT, UPDATE = "making of a batch", "first gradient", "gradient", "update"
"""Phases of a recording: a batch is made, where none is made ahead; the first gradient (forward, backward), which also
makes what graphs derive and keep; those of later steps; the optimizer's update. Each grows in its own way."""


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
    """Take the first steps of some epochs on the CPU; evaluate and keep nothing.

    Args:
        model, batches, config, num_outputs: as `fit`; how many epochs are configured does not matter.
        memory: records the steps, cut into `BETWEEN`, `FIRST`, `GRADIENT` and `UPDATE`; ``None``: nothing does.
        epochs: that are begun.
        steps: of each, at most.
        clock: tells the seconds.
    Returns: seconds that each step took, without making its batch.
    Raises: FloatingPointError: a loss or gradient is not finite.
    """
    ranks = Ranks.open(cpu=True, bf16=config.precision == "bf16", accumulate=config.accumulate)
    set_seed(config.seed)
    trained = ranks.wrap(model)
    optimizer = make_optimizer(config.optimizer, model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    stepper = Stepper(model, trained, optimizer, config, ranks, num_outputs or 0)
    model.train()
    mark = _marks(memory, model, optimizer)
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
                stepper.step(rank_batches, epoch=epoch, step=step, asked=lambda: False, due=lambda: False)
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
    """Give what begins a phase; updates begin and end theirs by themselves."""
    if memory is None:
        return lambda phase: None
    optimizer.register_step_pre_hook(
        lambda *_: memory.phase(UPDATE, left=[one.grad for one in model.parameters() if one.grad is not None])
    )
    optimizer.register_step_post_hook(lambda *_: memory.phase(BETWEEN))
    return memory.phase
