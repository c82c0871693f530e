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


def cross_entropy_rows(logits: Tensor, y: Tensor) -> Tensor:
    """[n] the terms of `cross_entropy`."""
    check_classes(logits, y)
    return F.cross_entropy(logits, y, reduction="none")


def log_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the rows of the log-shifted cross-entropy, which is robust to rows with a large error.

    ``log(eps + CE_i) - log(eps)`` with ``eps = 1 - ln 2``, natural logarithms.

    Args: as `cross_entropy`.
    Returns: a scalar in the dtype of ``logits``; 0 if every row's cross-entropy is 0.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    Source: Wang et al. 2021, Bag of Tricks for Node Classification (arXiv:2103.13355).
    """
    return log_cross_entropy_rows(logits, y).mean()


def log_cross_entropy_rows(logits: Tensor, y: Tensor) -> Tensor:
    """[n] the terms of `log_cross_entropy`."""
    return torch.log(_EPS + cross_entropy_rows(logits, y)) - math.log(_EPS)


def bce(logits: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of independent tasks over the entries that have a label.

    Args:
        logits: [n, T] floating point.
        y: [n, T] floating point, 0 or 1, NaN where a label is missing.
    Returns: a scalar in the dtype of ``logits``; 0, with zero gradients, where nothing is labelled.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    entries, labelled = _bce_entries(logits, y)
    return entries.sum() / labelled.sum().clamp(min=1)


def bce_rows(logits: Tensor, y: Tensor) -> Tensor:
    """[n] the terms of `bce`, summed over the labelled entries of a row."""
    return _bce_entries(logits, y)[0].sum(1)


def _bce_entries(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    labelled, target = labelled_entries(logits, y)
    return torch.where(labelled, F.binary_cross_entropy_with_logits(logits, target, reduction="none"), 0.0), labelled


def mse(logits: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over the entries that have a label.

    Args: as `bce`, with any real labels.
    Returns: a scalar in the dtype of ``logits``; 0, with zero gradients, where nothing is labelled.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    entries, labelled = _mse_entries(logits, y)
    return entries.sum() / labelled.sum().clamp(min=1)


def mse_rows(logits: Tensor, y: Tensor) -> Tensor:
    """[n] the terms of `mse`, summed over the labelled entries of a row."""
    return _mse_entries(logits, y)[0].sum(1)


def _mse_entries(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    labelled, target = labelled_entries(logits, y)
    return torch.where(labelled, (logits - target).square(), 0.0), labelled


@dataclass(frozen=True)
class Loss:
    """A loss function and the tasks that it fits.

    Examples:
        >>> import torch
        >>> from revgnn.train import Loss
        >>> loss = Loss(lambda logits, y: (logits - y).abs().mean(), ("regression",))
        >>> loss.compute(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        tensor(2.)
    """

    compute: Callable[[Tensor, Tensor], Tensor]
    """Logits and labels of a split -> a scalar."""
    tasks: tuple[str, ...]
    """Names of the tasks that the loss fits."""
    rows: Callable[[Tensor, Tensor], Tensor] | None = None
    """Logits and labels -> [n] the terms of each row, of which ``compute`` is the sum over the number of labels;
    ``None``: samplers that weigh rows cannot use this loss."""

    def __call__(self, logits: Tensor, y: Tensor, row_weight: Tensor | None = None) -> Tensor:
        """Compute the loss, `weighted` if rows have weights."""
        return self.compute(logits, y) if row_weight is None else self.weighted(logits, y, row_weight)

    def weighted(self, logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Compute ``sum_i weight_i loss_i`` over the rows.

        Args:
            weight: [n].
        Raises: ValueError: the loss has no terms of rows.
        """
        if self.rows is None:
            raise ValueError(
                "the sampler weighs rows, and this loss does not give the terms of each row; set Loss.rows, or choose "
                f"one of {', '.join(name for name, loss in LOSSES.items() if loss.rows is not None)}"
            )
        return (self.rows(logits, y) * weight.to(logits.dtype)).sum()


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, ("multiclass",), cross_entropy_rows),
    "log_cross_entropy": Loss(log_cross_entropy, ("multiclass",), log_cross_entropy_rows),
    "bce": Loss(bce, ("binary", "multilabel"), bce_rows),
    "mse": Loss(mse, ("regression",), mse_rows),
}
"""Losses by name: the values of ``train.loss``.

Examples:
    >>> import torch
    >>> from revgnn.train import LOSSES
    >>> LOSSES["mse"].compute(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    tensor(4.)
"""


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
