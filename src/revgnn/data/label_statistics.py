"""Statistics of the training labels: the scale of numbers, and balanced weights of classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .info import GraphInfo
from .ondisk.store import Store
from .task import SPLITS, TargetScale


def with_target_scale(dataset: Dataset | Store) -> GraphInfo:
    """Return the metadata of a data set with the scale of its training labels, if its task is standardised.

    Cost: one pass over the training labels, in float64.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.data import with_target_scale
        >>> data = revgnn.Dataset(
        ...     info=revgnn.GraphInfo(task="regression", num_outputs=1),
        ...     x=torch.randn(2, 3),
        ...     edge_index=torch.tensor([[0], [1]]),
        ...     y=torch.tensor([[8.0], [12.0]]),
        ...     splits={"train": torch.tensor([0, 1])},
        ... )
        >>> with_target_scale(data).target_scale
        TargetScale(mean=(10.0,), std=(2.0,))
    """
    info = dataset.info
    if not info.task_spec.is_standardised:
        return info
    count = torch.zeros(info.num_outputs, dtype=torch.float64)
    mean, squares = torch.zeros_like(count), torch.zeros_like(count)
    for y in training_labels(dataset):
        known = ~y.isnan()
        values, rows = torch.where(known, y, 0.0).double(), known.sum(0)
        own = values.sum(0) / rows.clamp(min=1)
        own_squares = torch.where(known, values - own, 0.0).square().sum(0)
        # Chan's formula merges mean and squared deviations of two sets without cancellation.
        total = count + rows
        squares += own_squares + (own - mean).square() * count * rows / total.clamp(min=1)
        mean, count = mean + (own - mean) * rows / total.clamp(min=1), total
    std = (squares / count.clamp(min=1)).sqrt()
    # The rounding of float32 labels is no spread.
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    # Rounded, so that the order of a sum, which parts and threads decide, does not show.
    rounded = [float(f"{value:.6g}") for value in std.tolist()]
    centre = tuple(round(value / width, 4) * width for value, width in zip(mean.tolist(), rounded, strict=True))
    return replace(info, target_scale=TargetScale(mean=centre, std=tuple(rounded)))


def class_weights(dataset: Dataset | Store) -> Tensor:
    """Return the weights that balance the classes: ``n / (classes * n_c)`` over the training rows; 0 for no rows.

    Returns: [T] float32 for classes; [2, T] for flags, whose two classes are balanced in each column.
    Raises: ValueError: the labels are numbers.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import class_weights
        >>> class_weights(revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data"))
        tensor([1., 1., 1., 1.])
    """
    info = dataset.info
    if info.task_spec.labels == "numbers":
        raise ValueError(f"{info.name} has numbers as labels, no classes to balance; choose train.class_weight=none")
    if info.task_spec.has_classes:
        counts = torch.zeros(info.num_outputs, dtype=torch.int64)
        for y in training_labels(dataset):
            counts += torch.bincount(y, minlength=info.num_outputs)
    else:
        counts = torch.zeros(2, info.num_outputs, dtype=torch.int64)
        for y in training_labels(dataset):
            counts += torch.stack([(y == value).sum(0) for value in (0.0, 1.0)])
    present = counts > 0
    weights = counts.sum(0) / (present.sum(0).clamp(min=1) * counts.clamp(min=1))
    return torch.where(present, weights, 0.0).float()


def training_labels(dataset: Dataset | Store) -> Iterator[Tensor]:
    """Yield the labels of the training rows: of a data set at once, of a prepared graph part by part."""
    if isinstance(dataset, Dataset):
        yield dataset.y[dataset.splits["train"]]
        return
    for part in range(dataset.num_parts):
        is_training = dataset.array(part, "split.npy") == SPLITS.index("train")
        yield torch.from_numpy(np.array(dataset.array(part, "y.npy")[is_training]))
