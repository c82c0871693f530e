"""An exponential moving average of the weights along the steps, which is evaluated, selected and kept in their place.

A step of parts sees a few of the classes, and while the rate is high the weights swing with it; their mean does not.
The mean lies in the optimizer's state, beside the moments: checkpoints, shards and resuming carry it as those.

Source: Polyak and Juditsky 1992; with decay and its warm-up, Tarvainen and Valpola 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.hooks import RemovableHandle

from .callback import Callback, TrainState

_MEAN = "mean_weight"


class WeightAverage(Callback):
    """Keeps the mean of the weights, and holds it in their place while they are evaluated and selected.

    Args:
        decay: in (0, 1); some ``1 / (1 - decay)`` steps are remembered.
    """

    every_rank = True

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._hook: RemovableHandle | None = None

    def on_start(self, run: TrainState) -> None:
        """Take part in every step of the optimizer."""
        self._hook = average_steps(run.optimizer, self._decay)

    def around_evaluation(self, run: TrainState) -> AbstractContextManager[None]:
        """Give the context in which the model has the means."""
        return averaged(run.optimizer)

    def on_end(self, run: TrainState) -> None:
        """Leave the optimizer as it was."""
        if self._hook is not None:
            self._hook.remove()


def average_steps(optimizer: torch.optim.Optimizer, decay: float) -> RemovableHandle:
    """Let every step of an optimizer end with `follow`, until the handle is removed."""
    return optimizer.register_step_post_hook(lambda stepped, *_: follow(stepped, decay))


@torch.no_grad()
def follow(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Take the weights of the t-th step into their mean: ``mean = d mean + (1 - d) weight``.

    The mean begins as the first weights, and ``d = min(decay, (1 + t) / (10 + t))``, so that it forgets them.

    Args:
        optimizer: has just taken a step; its state receives the mean.
        decay: in (0, 1); some ``1 / (1 - decay)`` steps are remembered.
    Cost: one tensor as large as the weights, for good; one pass over both.
    """
    stepped = list(_stepped(optimizer))
    for parameter, state in stepped:
        if _MEAN not in state:
            state[_MEAN] = parameter.detach().clone()
    if stepped:
        taken = float(stepped[0][1]["step"])
        average = get_ema_multi_avg_fn(min(decay, (1.0 + taken) / (10.0 + taken)))  # type: ignore[no-untyped-call]
        average([state[_MEAN] for _, state in stepped], [parameter for parameter, _ in stepped], None)


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Hold the means in place of the weights, to the bit those of before afterwards; without means, change nothing.

    Buffers stay: BatchNorm has its own running statistics, which are those of the weights.

    Cost: one more copy of the largest weight, twice for a moment; no memory that stays.
    """
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


@torch.no_grad()
def _swap(optimizer: torch.optim.Optimizer) -> None:
    for parameter, state in _stepped(optimizer):
        if _MEAN in state:
            # In place, for shards are views.
            weight = parameter.detach().clone()
            parameter.copy_(state[_MEAN])
            state[_MEAN].copy_(weight)


def _stepped(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The parameters that have taken a step, each with what the optimizer keeps of it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state.get(parameter):
                yield parameter, optimizer.state[parameter]
