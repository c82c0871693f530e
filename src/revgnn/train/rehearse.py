"""The first steps of a run for whoever measures them: the steps that `fit` takes, and nothing around them."""

from __future__ import annotations

import itertools

from accelerate.utils import set_seed
from torch import nn

from ..data.batch import Batches
from ..measure import StepMemory
from .config import TrainConfig
from .distributed import Ranks
from .optim import learning_rate, make_optimizer, set_learning_rate
from .step import Stepper
from .watched import Watched

EPOCHS = 2
"""The second finds the optimizer's state, and in an epoch of one step what the first left."""


def rehearse(
    model: nn.Module, batches: Batches, config: TrainConfig, memory: StepMemory, *, num_outputs: int | None = None
) -> None:
    """Take the first steps of two epochs on the CPU, as many as a recording of memory wants; evaluate and keep nothing.

    Args:
        model, batches, config, num_outputs: as `fit`; how many epochs are configured does not matter.
        memory: records the steps.
    Raises: FloatingPointError: a loss or gradient is not finite.
    """
    ranks = Ranks.open(cpu=True, bf16=config.precision == "bf16", accumulate=config.accumulate)
    set_seed(config.seed)
    optimizer = make_optimizer(config.optimizer, model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    stepper = Stepper(model, optimizer, config, ranks, num_outputs or 0)
    model.train()
    try:
        for epoch in range(1, EPOCHS + 1):
            set_learning_rate(optimizer, learning_rate(epoch, lr=config.lr, epochs=max(config.epochs, EPOCHS)))
            if isinstance(model, Watched):
                model.begin_epoch(epoch)
            memory()
            steps = itertools.islice(ranks.share(batches.train(epoch), 0), memory.RECORDED_STEPS // EPOCHS)
            for step, together in enumerate(steps, start=1):
                stepper.step(together, epoch=epoch, step=step, asked=lambda: False)
                memory.step()
            memory()
    finally:
        memory.close()
