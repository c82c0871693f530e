"""What a run minimises and what it is judged by: one table of losses, one of metrics.

Losses take logits and labels of the rows of one split and return a scalar that can be differentiated; metrics return a
float. Missing labels are NaN and never count. Metrics are computed by torchmetrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross_entropy", "log_cross_entropy", "bce", "mse"]
MetricName = Literal["accuracy", "rocauc", "rmse", "mae"]

_EPS = 1.0 - math.log(2.0)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean of ``-log softmax(logits)[y]`` over the rows.

    Args:
        logits: [n, T] floating point.
        y: [n] int64 class of each row, in 0..T-1.
    Returns: a scalar in the dtype of ``logits``.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    _check_classes(logits, y)
    return F.cross_entropy(logits, y)


def log_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the rows of the log-shifted cross-entropy, which grows slowly on rows that are badly wrong.

    ``log(eps + CE_i) - log(eps)`` with ``eps = 1 - ln 2``, natural logarithms.

    Args: as `cross_entropy`.
    Returns: a scalar in the dtype of ``logits``; 0 where every row is certain and right.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    Source: Wang et al. 2021, Bag of Tricks for Node Classification (arXiv:2103.13355).
    """
    _check_classes(logits, y)
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
    labelled, target = _labelled(logits, y)
    entries = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean_over(entries, labelled)


def mse(logits: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over the entries that have a label.

    Args: as `bce`, with any real labels.
    Returns: a scalar in the dtype of ``logits``; 0, with zero gradients, where nothing is labelled.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    labelled, target = _labelled(logits, y)
    return _mean_over((logits - target).square(), labelled)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "log_cross_entropy": log_cross_entropy,
    "bce": bce,
    "mse": mse,
}


# torchmetrics takes longer to import than everything else here together, and a command line that only prints its help
# has no use for it: hence the imports inside the metrics.


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of rows whose largest logit is the label: logits [n, T], y [n] int64; NaN for no rows."""
    from torchmetrics.functional.classification import multiclass_accuracy

    _check_classes(logits, y)
    if not y.numel():
        return math.nan
    predicted = logits.argmax(1)
    return float(multiclass_accuracy(predicted, y, num_classes=logits.size(1), average="micro", validate_args=False))


def rocauc(logits: Tensor, y: Tensor) -> float:
    """Mean over tasks of the area under the ROC curve, as OGB's evaluator counts it.

    Per task over its labelled entries; a task without both classes among them is skipped.

    Args:
        logits: [n, T] floating point.
        y: [n, T] floating point, 0 or 1, NaN where a label is missing.
    Returns: the mean in 0..1; NaN where no task has both classes.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    from torchmetrics.functional.classification import binary_auroc

    labelled, target = _labelled(logits, y)
    areas = []
    for task in range(y.size(1)):
        rows = labelled[:, task]
        truth = target[rows, task].long()
        if 0 < int(truth.sum()) < truth.numel():
            areas.append(float(binary_auroc(_ranks(logits[rows, task]), truth, validate_args=False)))
    return sum(areas) / len(areas) if areas else math.nan


def rmse(logits: Tensor, y: Tensor) -> float:
    """Root of the mean squared error over labelled entries; logits and y [n, T]; NaN where nothing is labelled."""
    from torchmetrics.functional.regression import mean_squared_error

    labelled, _ = _labelled(logits, y)
    if not bool(labelled.any()):
        return math.nan
    return float(mean_squared_error(logits[labelled], y[labelled], squared=False))


def mae(logits: Tensor, y: Tensor) -> float:
    """Mean absolute error over labelled entries; logits and y [n, T]; NaN where nothing is labelled."""
    from torchmetrics.functional.regression import mean_absolute_error

    labelled, _ = _labelled(logits, y)
    if not bool(labelled.any()):
        return math.nan
    return float(mean_absolute_error(logits[labelled], y[labelled]))


@dataclass(frozen=True)
class Metric:
    """A figure of merit and its direction."""

    compute: Callable[[Tensor, Tensor], float]
    """Logits and labels of a split -> the figure; NaN where it is undefined."""
    larger_is_better: bool
    combine: Callable[[Sequence[float], Sequence[int]], float] | None
    """Figures of batches and the labelled entries of each -> the figure of all; ``None``: it needs all rows at once."""


def num_labelled(y: Tensor) -> int:
    """Count the labels of rows: one for each row of classes, and those of [n, T] that are not NaN."""
    return int((~torch.isnan(y)).sum()) if y.is_floating_point() else y.size(0)


def mean(figures: Sequence[float], weights: Sequence[int]) -> float:
    """Weighted mean of figures that have a weight; NaN where none has."""
    total = sum(weights)
    kept = [(figure, weight) for figure, weight in zip(figures, weights, strict=True) if weight]
    return math.fsum(figure * weight for figure, weight in kept) / total if total else math.nan


def root_mean_square(figures: Sequence[float], weights: Sequence[int]) -> float:
    """Root of the weighted mean of squares."""
    return math.sqrt(mean([figure**2 for figure in figures], weights))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, larger_is_better=True, combine=mean),
    "rocauc": Metric(rocauc, larger_is_better=True, combine=None),
    "rmse": Metric(rmse, larger_is_better=False, combine=root_mean_square),
    "mae": Metric(mae, larger_is_better=False, combine=mean),
}


def _check_classes(logits: Tensor, y: Tensor) -> None:
    if y.dtype != torch.int64:
        raise TypeError(f"classes must be int64, got {y.dtype}; for labels of independent tasks use bce and rocauc")
    if logits.dim() != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"classes must have shape [n] beside logits [n, T], got {list(y.shape)} beside {list(logits.shape)}"
        )


def _labelled(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Split [n, T] labels into where they exist and their values with 0 elsewhere."""
    if not y.is_floating_point():
        raise TypeError(f"labels of tasks must be floating point, got {y.dtype}; for classes use cross_entropy")
    if logits.dim() != 2 or y.shape != logits.shape:
        raise ValueError(f"labels must have the shape of the logits {list(logits.shape)}, got {list(y.shape)}")
    labelled = ~torch.isnan(y)
    return labelled, torch.where(labelled, y, 0.0).to(logits.dtype)


def _mean_over(entries: Tensor, labelled: Tensor) -> Tensor:
    return torch.where(labelled, entries, 0.0).sum() / labelled.sum().clamp(min=1)


def _ranks(scores: Tensor) -> Tensor:
    # torchmetrics squashes scores outside 0..1 by a float32 sigmoid, which ties all large logits; the area depends on
    # the order alone, so give it the order.
    distinct: Tensor
    place: Tensor
    distinct, place = torch.unique(scores, return_inverse=True)
    return place.double() / max(distinct.numel() - 1, 1)
