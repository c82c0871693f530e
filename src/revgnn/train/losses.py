"""The table of losses, and the tasks that each loss fits.

A loss takes the logits and labels of one split's rows and returns a differentiable scalar. Missing labels are NaN and
are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.task import Task
from .labels import check_classes, labelled_entries

_EPS = 1.0 - math.log(2.0)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean of ``-log softmax(logits)[y]`` over the rows.

    Args:
        logits: [n, T] floating point.
        y: [n] int64 class of each row, in 0..T-1.
    Returns: a scalar in the dtype of ``logits``.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    check_classes(logits, y)
    return F.cross_entropy(logits, y)


def log_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the rows of the log-shifted cross-entropy, which is robust to rows with a large error.

    ``log(eps + CE_i) - log(eps)`` with ``eps = 1 - ln 2``, natural logarithms.

    Args: as `cross_entropy`.
    Returns: a scalar in the dtype of ``logits``; 0 if every row's cross-entropy is 0.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    Source: Wang et al. 2021, Bag of Tricks for Node Classification (arXiv:2103.13355).
    """
    check_classes(logits, y)
    per_row = F.cross_entropy(logits, y, reduction="none")
    return (torch.log(_EPS + per_row) - math.log(_EPS)).mean()


def bce(logits: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of independent tasks over the entries that have a label.

    Args:
        logits: [n, T] floating point.
        y: [n, T] floating point, 0 or 1, NaN where a label is missing.
    Returns: a scalar in the dtype of ``logits``; 0, with zero gradients, where nothing is labelled.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    labelled, target = labelled_entries(logits, y)
    entries = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean_over(entries, labelled)


def mse(logits: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over the entries that have a label.

    Args: as `bce`, with any real labels.
    Returns: a scalar in the dtype of ``logits``; 0, with zero gradients, where nothing is labelled.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    labelled, target = labelled_entries(logits, y)
    return _mean_over((logits - target).square(), labelled)


@dataclass(frozen=True)
class Loss:
    """A loss function and the tasks that it fits."""

    compute: Callable[[Tensor, Tensor], Tensor]
    """Logits and labels of a split -> a scalar."""
    tasks: tuple[str, ...]
    """Names of the tasks that the loss fits."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Compute the loss."""
        return self.compute(logits, y)


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, ("multiclass",)),
    "log_cross_entropy": Loss(log_cross_entropy, ("multiclass",)),
    "bce": Loss(bce, ("binary", "multilabel")),
    "mse": Loss(mse, ("regression",)),
}


def choose_loss(tasks: Sequence[Task], asked: str | None) -> str:
    """Choose the loss of a run.

    Args:
        tasks: possible tasks of the labels; the first one's default loss is used if ``asked`` is ``None``.
        asked: a key of `LOSSES`, or ``None``.
    Raises: ValueError: the loss fits none of the tasks; the message lists those that do.
    """
    name = tasks[0].loss if asked is None else asked
    names = [task.name for task in tasks]
    allowed = [key for key, loss in LOSSES.items() if not set(names).isdisjoint(loss.tasks)]
    if name not in allowed:
        raise ValueError(
            f"loss={name!r} does not go with a {' or '.join(names)} task; choose one of {', '.join(allowed)}"
        )
    return name


def _mean_over(entries: Tensor, labelled: Tensor) -> Tensor:
    return torch.where(labelled, entries, 0.0).sum() / labelled.sum().clamp(min=1)
