"""An exponential moving average (EMA) of the weights, which is evaluated, selected and saved in their place.

When a step sees one part of a graph, with only some of the classes, the weights fluctuate while the learning rate is
high; their average is more stable. The average is in the optimizer's state, next to the moments, so checkpoints,
sharding and resuming handle it in the same way.

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
    """Averages the weights over steps, and replaces them by the average during evaluation and selection.

    Args:
        decay: in (0, 1); the average covers about ``1 / (1 - decay)`` steps.
    """

    every_rank = True

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._hook: RemovableHandle | None = None

    def on_start(self, run: TrainState) -> None:
        """Update the average after every optimizer step."""
        self._hook = average_steps(run.optimizer, self._decay)

    def around_evaluation(self, run: TrainState) -> AbstractContextManager[None]:
        """Return a context in which the model has the averaged weights."""
        return averaged(run.optimizer)

    def on_end(self, run: TrainState) -> None:
        """Remove the hook from the optimizer."""
        if self._hook is not None:
            self._hook.remove()


def average_steps(optimizer: torch.optim.Optimizer, decay: float) -> RemovableHandle:
    """Call `follow` after every step of an optimizer, until the returned handle is removed."""
    return optimizer.register_step_post_hook(lambda stepped, *_: follow(stepped, decay))


@torch.no_grad()
def follow(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Update the average after step t: ``mean = d mean + (1 - d) weight``.

    The average starts at the initial weights; the warm-up ``d = min(decay, (1 + t) / (10 + t))`` removes them quickly.

    Args:
        optimizer: has just taken a step; its state holds the average.
        decay: in (0, 1); the average covers about ``1 / (1 - decay)`` steps.
    Cost: permanent memory as large as the weights; one pass over weights and averages.
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
    """Context that swaps weights and averages; the weights are restored bit for bit. Without averages it does nothing.

    Buffers are unchanged: BatchNorm's running statistics remain those of the weights.

    Cost: a temporary copy of one weight at a time, at entry and exit; no permanent memory.
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
            # In place, because shards are views.
            weight = parameter.detach().clone()
            parameter.copy_(state[_MEAN])
            state[_MEAN].copy_(weight)


def _stepped(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield each parameter that has been updated, with its optimizer state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state.get(parameter):
                yield parameter, optimizer.state[parameter]
