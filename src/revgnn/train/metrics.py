"""The table of metrics, and the tasks that each metric fits.

A metric takes the logits and labels of one split's rows and returns a float. Missing labels are NaN and are ignored.
torchmetrics computes the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.task import TASKS, Task
from .labels import check_classes, labelled_entries

# The metrics import torchmetrics when they are called, because its import is slow and a command line that only prints
# its help does not need it.


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of rows whose largest logit is the label's; logits [n, T], y [n] int64; NaN for no rows."""
    from torchmetrics.functional.classification import multiclass_accuracy

    check_classes(logits, y)
    if not y.numel():
        return math.nan
    predicted = logits.argmax(1)
    return float(multiclass_accuracy(predicted, y, num_classes=logits.size(1), average="micro", validate_args=False))


def balanced_accuracy(logits: Tensor, y: Tensor) -> float:
    """Mean recall over the classes that occur; shapes and NaN as in `accuracy`."""
    from torchmetrics.functional.classification import multiclass_recall

    check_classes(logits, y)
    if not y.numel():
        return math.nan
    classes = logits.size(1)
    recall = multiclass_recall(logits.argmax(1), y, num_classes=classes, average="none", validate_args=False)
    return float(recall[torch.bincount(y, minlength=classes) > 0].mean())


def macro_f1(logits: Tensor, y: Tensor) -> float:
    """Mean F1 over the classes that occur or are predicted; shapes and NaN as in `accuracy`."""
    from torchmetrics.functional.classification import multiclass_f1_score

    check_classes(logits, y)
    if not y.numel():
        return math.nan
    found = multiclass_f1_score(logits.argmax(1), y, num_classes=logits.size(1), average="macro", validate_args=False)
    return float(found)


def rocauc(logits: Tensor, y: Tensor) -> float:
    """Mean over tasks of the area under the ROC curve, as in OGB's evaluator.

    Each task uses its labelled entries; a task with only one class among them is skipped.

    Args:
        logits: [n, T] floating point.
        y: [n, T] floating point, 0 or 1, NaN where a label is missing.
    Returns: the mean in 0..1; NaN if no task has both classes.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    from torchmetrics.functional.classification import binary_auroc

    def area(scores: Tensor, truth: Tensor) -> float | None:
        if not 0 < int(truth.sum()) < truth.numel():
            return None
        return float(binary_auroc(_ranks(scores), truth.long(), validate_args=False))

    return _of_columns(logits, y, area)


def average_precision(logits: Tensor, y: Tensor) -> float:
    """Mean over tasks of the average precision, as in OGB's evaluator; skipped tasks and NaN as in `rocauc`."""
    from torchmetrics.functional.classification import binary_average_precision

    def precision(scores: Tensor, truth: Tensor) -> float | None:
        if not 0 < int(truth.sum()) < truth.numel():
            return None
        return float(binary_average_precision(_ranks(scores), truth.long(), validate_args=False))

    return _of_columns(logits, y, precision)


def f1(logits: Tensor, y: Tensor) -> float:
    """Mean over tasks of the F1 of the positive class (logit above 0); a task without positive labels is skipped.

    Args, Returns, Raises: as `rocauc`.
    """
    from torchmetrics.functional.classification import binary_f1_score

    def harmonic(scores: Tensor, truth: Tensor) -> float | None:
        if not bool(truth.any()):
            return None
        return float(binary_f1_score((scores > 0).long(), truth.long(), validate_args=False))

    return _of_columns(logits, y, harmonic)


def rmse(logits: Tensor, y: Tensor) -> float:
    """Root mean squared error over labelled entries; logits and y [n, T]; NaN if nothing is labelled."""
    from torchmetrics.functional.regression import mean_squared_error

    labelled, _ = labelled_entries(logits, y)
    if not bool(labelled.any()):
        return math.nan
    return float(mean_squared_error(logits[labelled], y[labelled], squared=False))


def mae(logits: Tensor, y: Tensor) -> float:
    """Mean absolute error over labelled entries; logits and y [n, T]; NaN if nothing is labelled."""
    from torchmetrics.functional.regression import mean_absolute_error

    labelled, _ = labelled_entries(logits, y)
    if not bool(labelled.any()):
        return math.nan
    return float(mean_absolute_error(logits[labelled], y[labelled]))


def r2(logits: Tensor, y: Tensor) -> float:
    """Mean over columns of the coefficient of determination R^2, each over its labelled entries.

    Args:
        logits, y: [n, T] floating point, NaN where a label is missing.
    Returns: at most 1; a column with fewer than two different labels is skipped; NaN if all columns are skipped.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    from torchmetrics.functional.regression import r2_score

    def explained(values: Tensor, truth: Tensor) -> float | None:
        return float(r2_score(values.double(), truth.double())) if bool((truth != truth[:1]).any()) else None

    return _of_columns(logits, y, explained)


@dataclass(frozen=True)
class Metric:
    """A metric, the tasks that it fits, and whether higher values are better.

    Examples:
        >>> from revgnn.train import METRICS, Metric
        >>> isinstance(METRICS["rmse"], Metric), METRICS["rmse"].larger_is_better
        (True, False)
    """

    compute: Callable[[Tensor, Tensor], float]
    """Logits and labels of a split -> value; NaN if it is undefined."""
    larger_is_better: bool
    combine: Callable[[Sequence[float], Sequence[int]], float] | None
    """Values and counts of labelled entries of batches -> value over all; ``None``: it needs all rows at once."""
    tasks: tuple[str, ...]
    """Names of the tasks that the metric fits."""
    title: str
    """Name in reports."""
    in_percent: bool = False
    """Whether reports show the value in percent."""
    decimals: int | None = None
    """Decimals in reports of a value that has no unit and is not in percent; ``None``: four digits."""


def mean(figures: Sequence[float], weights: Sequence[int]) -> float:
    """Weighted mean of the values with a weight above 0; NaN if there are none."""
    total = sum(weights)
    kept = [(figure, weight) for figure, weight in zip(figures, weights, strict=True) if weight]
    return math.fsum(figure * weight for figure, weight in kept) / total if total else math.nan


def root_mean_square(figures: Sequence[float], weights: Sequence[int]) -> float:
    """Root of the weighted mean of squares."""
    return math.sqrt(mean([figure**2 for figure in figures], weights))


_FLAGS = ("binary", "multilabel")

METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, True, mean, ("multiclass",), "accuracy", in_percent=True),
    "balanced_accuracy": Metric(balanced_accuracy, True, None, ("multiclass",), "balanced accuracy", in_percent=True),
    "macro_f1": Metric(macro_f1, True, None, ("multiclass",), "macro F1", in_percent=True),
    "rocauc": Metric(rocauc, True, None, _FLAGS, "ROC-AUC", in_percent=True),
    "average_precision": Metric(average_precision, True, None, _FLAGS, "average precision", in_percent=True),
    "f1": Metric(f1, True, None, _FLAGS, "F1", in_percent=True),
    "rmse": Metric(rmse, False, root_mean_square, ("regression",), "RMSE"),
    "mae": Metric(mae, False, mean, ("regression",), "MAE"),
    "r2": Metric(r2, True, None, ("regression",), "R2", decimals=4),
}
"""Metrics by name: the values of ``train.metric``.

Examples:
    >>> import torch
    >>> from revgnn.train import METRICS
    >>> METRICS["accuracy"].compute(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
"""


def check_metric(task: Task, name: str) -> None:
    """Check that a metric fits a task.

    Raises: ValueError: it does not; the message lists those that do.
    """
    allowed = [key for key, metric in METRICS.items() if task.name in metric.tasks]
    if name not in allowed:
        raise ValueError(f"metric={name!r} does not go with a {task.name} task; choose one of {', '.join(allowed)}")


def tasks_of(name: str) -> list[Task]:
    """Return the tasks that a metric fits, each once.

    Raises: ValueError: there is no such metric; the message lists the metrics.
    """
    if name not in METRICS:
        raise ValueError(f"metric={name!r} is unknown; choose one of {', '.join(METRICS)}")
    return list({task.name: task for task in TASKS.values() if task.name in METRICS[name].tasks}.values())


def _of_columns(logits: Tensor, y: Tensor, figure: Callable[[Tensor, Tensor], float | None]) -> float:
    """Mean of a metric over label columns, each over its labelled entries; NaN if it is undefined for all columns.

    Args:
        logits, y: [n, T], NaN where a label is missing.
        figure: logits and labels of a column's labelled entries -> value; ``None``: undefined.
    """
    labelled, target = labelled_entries(logits, y)
    columns = (figure(logits[rows, column], target[rows, column]) for column, rows in enumerate(labelled.unbind(1)))
    figures = [found for found in columns if found is not None]
    return sum(figures) / len(figures) if figures else math.nan


def _ranks(scores: Tensor) -> Tensor:
    # torchmetrics applies a float32 sigmoid to scores outside 0..1, which makes all large logits equal. The area
    # depends on the order only, so pass ranks.
    distinct: Tensor
    place: Tensor
    distinct, place = torch.unique(scores, return_inverse=True)
    return place.double() / max(distinct.numel() - 1, 1)
