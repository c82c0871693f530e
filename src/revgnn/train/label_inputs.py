"""Label reuse: some training labels are added to the input, and predictions replace the missing ones.

In training a random subset of the training rows has its labels in the input; the loss covers the other training rows. A
first pass in training mode, without gradients, predicts the missing labels; the last pass reads those predictions. In
evaluation all training labels are in the input. Source: Wang et al. 2021, Bag of Tricks for Node Classification
(arXiv:2103.13355).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..data.batch import Batch

_COIN, _PASS = 1, 2  # random streams of a step, separate from the step's own


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are used as an input.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import LabelOptions
        >>> config = revgnn.TrainConfig(labels=LabelOptions(reuse=True, rate=0.5))
    """

    reuse: bool = False
    """Whether to append the labels of training rows to the features, as T columns."""
    rate: float = 0.5
    """Probability that a training row's label is in a step's input; the loss covers the other training rows."""
    refine: int = 1
    """Passes before the last one whose predictions replace missing labels in the input; 0: missing labels are zeros."""

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
        forward: (batch, seed) -> logits [n, T].
        batch: node-level, features without labels.
        options: see `LabelOptions`.
        model: the model that ``forward`` runs; its mode selects training or evaluation, and only the last pass updates
            its buffers (running statistics).
        num_outputs: T.
        seed: the step's seed; ``None`` in evaluation.
    Returns: the logits of the last pass, and the batch with labels appended; its ``rows["train"]`` are the rows that
        the loss covers.
    Cost: ``refine`` additional forward passes.
    """
    train = batch.rows.get("train", batch.y.new_empty(0, dtype=torch.int64))
    given, rows = train, dict(batch.rows)
    if model.training:
        assert seed is not None, "a training step has a seed"
        given, rows["train"] = toss(train, options.rate, seed)
    if batch.hops is not None and options.refine:
        raise ValueError(
            f"labels.refine={options.refine} needs predictions of all nodes of a batch, and loader.layer_wise gives "
            "those of its training nodes; choose labels.refine=0, or loader.layer_wise=false"
        )
    is_given = torch.zeros(batch.y.size(0), 1, dtype=torch.bool, device=batch.x.device)
    is_given[given] = True
    labels = _as_features(batch.y, is_given, num_outputs).to(batch.x.dtype)
    for number in range(options.refine):
        with torch.no_grad(), _buffers_kept(model) if model.training else nullcontext():
            logits = forward(_appended(batch, labels), None if seed is None else _fold(seed, _PASS, number))
        labels = torch.where(is_given, labels, _predicted(logits, batch.y).to(labels.dtype))
    last = replace(_appended(batch, labels), rows=rows)
    return forward(last, seed), last


def toss(train: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split training rows at random into rows whose label is given and rows to predict, each row independently.

    Args:
        train: [n] int64 rows.
        rate: probability of being given.
        seed: determines the split.
    Returns: given rows and rows to predict; if there are rows, at least one is to predict.
    """
    generator = torch.Generator().manual_seed(_fold(seed, _COIN))
    coin = torch.rand(train.numel(), generator=generator) < rate
    if bool(coin.all()):
        coin[:1] = False
    coin = coin.to(train.device)
    return train[coin], train[~coin]


def _as_features(y: Tensor, is_given: Tensor, num_outputs: int) -> Tensor:
    """Labels as [n, T] features: one-hot classes, or task labels with 0 for missing ones; zeros in rows not given."""
    if y.is_floating_point():
        return y.nan_to_num(0.0) * is_given
    one_hot = torch.zeros(y.size(0), num_outputs, device=y.device)
    one_hot.scatter_(1, y.clamp(min=0).unsqueeze(1), 1.0)
    return one_hot * is_given


def _predicted(logits: Tensor, y: Tensor) -> Tensor:
    return logits.sigmoid() if y.is_floating_point() else logits.softmax(dim=-1)


def _appended(batch: Batch, labels: Tensor) -> Batch:
    if batch.hops is not None:  # more nodes than labels: the others' labels are not given
        labels = pad(labels, (0, 0, 0, batch.x.size(0) - labels.size(0)))
    return replace(batch, x=torch.cat([batch.x, labels], dim=1))


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, value in before:
        buffer.copy_(value)


def _fold(seed: int, *path: int) -> int:
    return int(np.random.SeedSequence((seed, *path)).generate_state(1, np.uint64)[0] >> np.uint64(1))
