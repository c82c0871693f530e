"""What a run is judged by: the table of metrics, and which of them go with which task.

A metric takes logits and labels of the rows of one split and returns a float. Missing labels are NaN and never count.
torchmetrics computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.task import TASKS, Task
from .labels import check_classes, labelled_entries

# torchmetrics takes longer to import than everything else here together, and a command line that only prints its help
# has no use for it: hence the imports inside the metrics.


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of rows whose largest logit is the label: logits [n, T], y [n] int64; NaN for no rows."""
    from torchmetrics.functional.classification import multiclass_accuracy

    check_classes(logits, y)
    if not y.numel():
        return math.nan
    predicted = logits.argmax(1)
    return float(multiclass_accuracy(predicted, y, num_classes=logits.size(1), average="micro", validate_args=False))


def balanced_accuracy(logits: Tensor, y: Tensor) -> float:
    """Mean over the classes that occur of the share of their rows that are right: shapes and NaN as in `accuracy`."""
    from torchmetrics.functional.classification import multiclass_recall

    check_classes(logits, y)
    if not y.numel():
        return math.nan
    classes = logits.size(1)
    recall = multiclass_recall(logits.argmax(1), y, num_classes=classes, average="none", validate_args=False)
    return float(recall[torch.bincount(y, minlength=classes) > 0].mean())


def macro_f1(logits: Tensor, y: Tensor) -> float:
    """Mean of F1 over the classes that occur or are predicted: shapes and NaN as in `accuracy`."""
    from torchmetrics.functional.classification import multiclass_f1_score

    check_classes(logits, y)
    if not y.numel():
        return math.nan
    found = multiclass_f1_score(logits.argmax(1), y, num_classes=logits.size(1), average="macro", validate_args=False)
    return float(found)


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

    def area(scores: Tensor, truth: Tensor) -> float | None:
        if not 0 < int(truth.sum()) < truth.numel():
            return None
        return float(binary_auroc(_ranks(scores), truth.long(), validate_args=False))

    return _of_columns(logits, y, area)


def average_precision(logits: Tensor, y: Tensor) -> float:
    """Mean over tasks of the average precision, as OGB's evaluator counts it; skipped tasks and NaN as in `rocauc`."""
    from torchmetrics.functional.classification import binary_average_precision

    def precision(scores: Tensor, truth: Tensor) -> float | None:
        if not 0 < int(truth.sum()) < truth.numel():
            return None
        return float(binary_average_precision(_ranks(scores), truth.long(), validate_args=False))

    return _of_columns(logits, y, precision)


def f1(logits: Tensor, y: Tensor) -> float:
    """Mean over tasks of F1 of the answer yes (a logit above 0); a task without a labelled yes is skipped.

    Args, Returns, Raises: as `rocauc`.
    """
    from torchmetrics.functional.classification import binary_f1_score

    def harmonic(scores: Tensor, truth: Tensor) -> float | None:
        if not bool(truth.any()):
            return None
        return float(binary_f1_score((scores > 0).long(), truth.long(), validate_args=False))

    return _of_columns(logits, y, harmonic)


def rmse(logits: Tensor, y: Tensor) -> float:
    """Root of the mean squared error over labelled entries; logits and y [n, T]; NaN where nothing is labelled."""
    from torchmetrics.functional.regression import mean_squared_error

    labelled, _ = labelled_entries(logits, y)
    if not bool(labelled.any()):
        return math.nan
    return float(mean_squared_error(logits[labelled], y[labelled], squared=False))


def mae(logits: Tensor, y: Tensor) -> float:
    """Mean absolute error over labelled entries; logits and y [n, T]; NaN where nothing is labelled."""
    from torchmetrics.functional.regression import mean_absolute_error

    labelled, _ = labelled_entries(logits, y)
    if not bool(labelled.any()):
        return math.nan
    return float(mean_absolute_error(logits[labelled], y[labelled]))


def r2(logits: Tensor, y: Tensor) -> float:
    """Mean over columns of the share of the labels' variance that is explained, each over its labelled entries.

    Args:
        logits, y: [n, T] floating point, NaN where a label is missing.
    Returns: at most 1; a column with fewer than two different labels is skipped, and NaN where all are.
    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    from torchmetrics.functional.regression import r2_score

    def explained(values: Tensor, truth: Tensor) -> float | None:
        return float(r2_score(values.double(), truth.double())) if bool((truth != truth[:1]).any()) else None

    return _of_columns(logits, y, explained)


@dataclass(frozen=True)
class Metric:
    """A figure of merit and its direction."""

    compute: Callable[[Tensor, Tensor], float]
    """Logits and labels of a split -> the figure; NaN where it is undefined."""
    larger_is_better: bool
    combine: Callable[[Sequence[float], Sequence[int]], float] | None
    """Figures of batches and the labelled entries of each -> the figure of all; ``None``: it needs all rows at once."""
    tasks: tuple[str, ...]
    """Names of the tasks that it goes with."""
    title: str
    """How reports call it."""
    in_percent: bool = False
    """Whether reports write it times 100."""


def mean(figures: Sequence[float], weights: Sequence[int]) -> float:
    """Weighted mean of figures that have a weight; NaN where none has."""
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
    "r2": Metric(r2, True, None, ("regression",), "R2"),
}


def check_metric(task: Task, name: str) -> None:
    """Refuse a metric that does not go with a task.

    Raises: ValueError: with those that do.
    """
    allowed = [key for key, metric in METRICS.items() if task.name in metric.tasks]
    if name not in allowed:
        raise ValueError(f"metric={name!r} does not go with a {task.name} task; choose one of {', '.join(allowed)}")


def tasks_of(name: str) -> list[Task]:
    """Give the tasks that a metric goes with, each once.

    Raises: ValueError: there is no such metric, with those that there are.
    """
    if name not in METRICS:
        raise ValueError(f"metric={name!r} is unknown; choose one of {', '.join(METRICS)}")
    return list({task.name: task for task in TASKS.values() if task.name in METRICS[name].tasks}.values())


def _of_columns(logits: Tensor, y: Tensor, figure: Callable[[Tensor, Tensor], float | None]) -> float:
    """Mean of a figure over the columns of labels, each over its labelled entries; NaN where no column has one.

    Args:
        logits, y: [n, T], NaN where a label is missing.
        figure: logits and labels of the labelled entries of a column -> the figure; ``None``: it has none.
    """
    labelled, target = labelled_entries(logits, y)
    columns = (figure(logits[rows, column], target[rows, column]) for column, rows in enumerate(labelled.unbind(1)))
    figures = [found for found in columns if found is not None]
    return sum(figures) / len(figures) if figures else math.nan


def _ranks(scores: Tensor) -> Tensor:
    # torchmetrics squashes scores outside 0..1 by a float32 sigmoid, which ties all large logits; the area depends on
    # the order alone, so give it the order.
    distinct: Tensor
    place: Tensor
    distinct, place = torch.unique(scores, return_inverse=True)
    return place.double() / max(distinct.numel() - 1, 1)
