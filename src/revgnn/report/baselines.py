"""Reference models without a graph: the majority class or the mean, and a linear model on the features alone.

Both are fitted to the training rows and give logits as a network does, so that every metric judges them alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Dataset, Store
from ..data.label_statistics import training_labels
from ..data.tabular import rows_of, table_width, take_rows
from ..malloc import trim

MOST_ROWS = 20_000
"""Largest number of training rows of the linear model."""
_WORK = 2**25
"""Rows times features times outputs that the linear model is fitted to at most, some seconds of one core."""
_NUMBERS = 2**20
"""Rows times features that it is fitted to at most, 4 MiB in each of a few copies."""
_NEVER = -100.0
"""Logit of a class that no training row has."""

Features = NDArray[np.float32]
"""[n, F]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A linear function of the features: ``logits = (x - mean) / std @ weight + bias``."""

    name: str
    """Name in reports."""
    rows: int
    """Training rows that it was fitted to."""
    bias: Tensor
    """[T]."""
    weight: Tensor
    """[F, T]; zeros for a constant."""
    mean: Tensor
    """[F] of the training rows."""
    std: Tensor
    """[F]; 1 for a constant column."""

    def predict(self, x: Features) -> Tensor:
        """Return logits [n, T] of features [n, F]; for numbers as labels, values in the user's unit."""
        table: Tensor = (torch.from_numpy(x) - self.mean) / self.std
        return table @ self.weight + self.bias


def fit_baselines(dataset: Dataset | Store) -> list[Baseline]:
    """Fit the constant and the linear model to the training rows of a data set.

    Cost: the constant reads all training labels. The linear model is fitted to at most `MOST_ROWS` rows, fewer with
    many features and outputs, drawn from seed 0.
    """
    info, rows = dataset.info, rows_of(dataset, "train")
    labels, count = info.task_spec.labels, len(rows)
    bias = _CONSTANTS[labels](torch.cat(list(training_labels(dataset))), info.num_outputs)
    width = table_width(info)
    most = min(MOST_ROWS, max(min(_WORK // (width * info.num_outputs), _NUMBERS // max(width, 1)), 1000))
    # The pass before this one leaves holes, in which what is read here does not fit.
    trim()
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    features, y = take_rows(dataset, rows)
    x = torch.from_numpy(features)
    # By column, so that a table in float64 never exists.
    moments = [torch.std_mean(column.double(), correction=0) for column in x.unbind(1)]
    std, mean = (torch.tensor([float(pair[k]) for pair in moments]) for k in range(2))
    scale = {"mean": mean, "std": torch.where(std > 0, std, 1.0)}
    weight = torch.zeros(x.size(1), info.num_outputs)
    constant = Baseline(name=CONSTANT_NAMES[labels], rows=count, bias=bias, weight=weight, **scale)
    table = ((x - scale["mean"]) / scale["std"]).numpy()
    weight, bias = _LINEAR[labels](table, y, bias)
    return [constant, Baseline(name=LINEAR_NAME, rows=len(rows), bias=bias, weight=weight, **scale)]


# ---------------------------------------------------------------------- constants


def _class_constant(y: Tensor, num_outputs: int) -> Tensor:
    share = torch.bincount(y, minlength=num_outputs) / max(y.numel(), 1)
    return torch.where(share > 0, share.log(), _NEVER)


def _flag_constant(y: Tensor, num_outputs: int) -> Tensor:
    return y.nanmean(0).nan_to_num(0.5).logit(eps=1e-6)


def _number_constant(y: Tensor, num_outputs: int) -> Tensor:
    return y.double().nanmean(0).nan_to_num(0.0).float()


_CONSTANTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "classes": _class_constant,
    "flags": _flag_constant,
    "numbers": _number_constant,
}
CONSTANT_NAMES = {"classes": "majority class", "flags": "majority class", "numbers": "mean of the training rows"}
LINEAR_NAME = "linear model on the features alone"


# ---------------------------------------------------------------------- linear models


def _linear_classes(x: Features, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the classes that the rows have; others are never predicted."""
    weight, classes = torch.zeros(x.shape[1], len(bias)), torch.unique(y)
    if len(classes) < 2:
        return weight, bias
    own_weight, own_bias = _logistic(x, y.numpy())
    if len(classes) == 2:
        own_weight, own_bias = torch.cat([-own_weight, own_weight], 1) / 2, torch.cat([-own_bias, own_bias]) / 2
    weight[:, classes], bias = own_weight, torch.full_like(bias, _NEVER)
    bias[classes] = own_bias
    return weight, bias


def _linear_columns(x: Features, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fit every column of flags to its labelled rows; a column without two different labels keeps the constant."""
    weight, bias = torch.zeros(x.shape[1], len(bias)), bias.clone()
    for column, labels in enumerate(y.unbind(1)):
        known = ~labels.isnan()
        if len(torch.unique(labels[known])) == 2:
            weight[:, column : column + 1], bias[column : column + 1] = _logistic(
                x[known.numpy()], labels[known].numpy()
            )
    return weight, bias


def _linear_numbers(x: Features, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fit every column of numbers to its labelled rows, around the constant."""
    from sklearn.linear_model import Ridge

    weight, bias = torch.zeros(x.shape[1], len(bias)), bias.clone()
    for column, labels in enumerate(y.unbind(1)):
        known = ~labels.isnan()
        if int(known.sum()) > 1:
            model = Ridge().fit(x[known.numpy()], (labels[known] - bias[column]).numpy())
            weight[:, column] = torch.from_numpy(model.coef_).float()
            bias[column] += float(model.intercept_)
    return weight, bias


_LINEAR: dict[str, Callable[[Features, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "classes": _linear_classes,
    "flags": _linear_columns,
    "numbers": _linear_numbers,
}


def _logistic(x: Features, y: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression; return weight [F, K] and bias [K], one column for two classes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # A reference point needs no optimum: a hundred iterations are enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=100).fit(x, y)
    return torch.from_numpy(model.coef_.T).float(), torch.from_numpy(model.intercept_).float()
