"""Labels as an input: some are given, the loss is of the others, and predictions fill what is not given.

In training each training row tosses a coin: given, or predicted. A first pass in the mode of training, without
gradients, predicts everything that is not given; the pass that counts reads those predictions. In evaluation all
training labels are given. Source: Wang et al. 2021, Bag of Tricks for Node Classification (arXiv:2103.13355).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batch import Batch

_COIN, _PASS = 1, 2  # draws of a step, apart from the step's own


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels serve as an input."""

    reuse: bool = False
    """Whether labels of training rows are appended to the features, T columns."""
    rate: float = 0.5
    """Probability that a training row's label is given in a step; the loss is of the rows that tossed otherwise."""
    refine: int = 1
    """Passes whose predictions fill the labels that are not given, before the pass that counts; 0 leaves zeros."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"labels.rate must lie in [0, 1), so that something is left to predict; got {self.rate}")
        if self.refine < 0:
            raise ValueError(f"labels.refine must be 0 or more, got {self.refine}")


def reuse_labels(
    forward: Callable[[Batch, int | None], Tensor],
    batch: Batch,
    options: LabelOptions,
    *,
    model: nn.Module,
    num_outputs: int,
    seed: int | None,
) -> tuple[Tensor, Batch]:
    """Run a model on features with labels appended.

    Args:
        forward: (a batch, the seed of its random choices) -> logits [n, T].
        batch: node-level, its features without labels.
        options: see `LabelOptions`.
        model: what ``forward`` runs; its mode decides between training and evaluation, and its buffers (running
            statistics) move in the last pass alone.
        num_outputs: T.
        seed: of the step; ``None`` in evaluation.
    Returns: the logits of the last pass, and the batch with labels appended whose ``rows["train"]`` are those that the
        loss is of.
    Cost: ``refine`` forward passes more.
    """
    train = batch.rows.get("train", batch.y.new_empty(0, dtype=torch.int64))
    given, rows = train, dict(batch.rows)
    if model.training:
        assert seed is not None, "a training step has a seed"
        given, rows["train"] = toss(train, options.rate, seed)
    is_given = torch.zeros(batch.x.size(0), 1, dtype=torch.bool, device=batch.x.device)
    is_given[given] = True
    labels = _as_features(batch.y, is_given, num_outputs).to(batch.x.dtype)
    for number in range(options.refine):
        with torch.no_grad(), _buffers_kept(model) if model.training else nullcontext():
            logits = forward(_appended(batch, labels), None if seed is None else _fold(seed, _PASS, number))
        labels = torch.where(is_given, labels, _predicted(logits, batch.y).to(labels.dtype))
    last = replace(_appended(batch, labels), rows=rows)
    return forward(last, seed), last


def toss(train: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split training rows by independent coins into those whose label is given and those to predict.

    Args:
        train: [n] int64 rows.
        rate: probability of being given.
        seed: of the coins, which are a pure function of it.
    Returns: the given and the predicted; at least one row is predicted, where there are any.
    """
    generator = torch.Generator().manual_seed(_fold(seed, _COIN))
    coin = torch.rand(train.numel(), generator=generator) < rate
    if bool(coin.all()):
        coin[:1] = False
    coin = coin.to(train.device)
    return train[coin], train[~coin]


def _as_features(y: Tensor, is_given: Tensor, num_outputs: int) -> Tensor:
    """[n, T]: one-hot classes, or labels of tasks with missing ones as 0; zeros where a row is not given."""
    if y.is_floating_point():
        return y.nan_to_num(0.0) * is_given
    one_hot = torch.zeros(y.size(0), num_outputs, device=y.device)
    one_hot.scatter_(1, y.clamp(min=0).unsqueeze(1), 1.0)
    return one_hot * is_given


def _predicted(logits: Tensor, y: Tensor) -> Tensor:
    return logits.sigmoid() if y.is_floating_point() else logits.softmax(dim=-1)


def _appended(batch: Batch, labels: Tensor) -> Batch:
    return replace(batch, x=torch.cat([batch.x, labels], dim=1))


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, value in before:
        buffer.copy_(value)


def _fold(seed: int, *path: int) -> int:
    return int(np.random.SeedSequence((seed, *path)).generate_state(1, np.uint64)[0] >> np.uint64(1))
