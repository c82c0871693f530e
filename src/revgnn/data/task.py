"""The table of tasks: label format, default loss and metric, head, and columns of predictions; the names of splits.

A task names its default loss and metric by their keys in `train.losses.LOSSES` and `train.metrics.METRICS`; the entries
there list the tasks that they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    # Tables are prepared by their task without torch.
    from torch import Tensor

SPLITS = ("train", "valid", "test")
"""The splits of a data set, in OGB's words.

Examples:
    >>> from revgnn.data import SPLITS
    >>> SPLITS
    ('train', 'valid', 'test')
"""
Names = tuple[str, ...] | None
"""Names of classes or output columns; ``None``: they are numbered."""
Answers = Callable[["Tensor", Names], Mapping[str, pa.Array]]
"""Logits [n, T] and names -> the columns of a table of predictions, Arrow arrays [n]."""


def _class_columns(logits: Tensor, names: Names) -> dict[str, pa.Array]:
    values = pa.array(names or list(range(logits.size(1))))
    chosen = values.take(pa.array(logits.argmax(1).numpy()))
    return {"prediction": chosen, "probabilities": _by_name(logits.softmax(1).unbind(1), names)}


def _binary_columns(logits: Tensor, names: Names) -> dict[str, pa.Array]:
    probability = logits[:, 0].sigmoid()
    values = pa.array(names or [0, 1])
    chosen = values.take(pa.array((probability > 0.5).long().numpy()))
    return {"prediction": chosen, "probabilities": _by_name((1.0 - probability, probability), names)}


def _flag_columns(logits: Tensor, names: Names) -> dict[str, pa.Array]:
    probabilities = logits.sigmoid().unbind(1)
    return {
        "prediction": _by_name([(column > 0.5).long() for column in probabilities], names),
        "probabilities": _by_name(probabilities, names),
    }


def _value_columns(logits: Tensor, names: Names) -> dict[str, pa.Array]:
    columns = logits.unbind(1)
    return {"prediction": pa.array(columns[0].numpy()) if len(columns) == 1 else _by_name(columns, names)}


def _by_name(columns: Sequence[Tensor], names: Names) -> pa.Array:
    """Make an Arrow array of n structures with a field per name from columns [n]; without names their numbers."""
    fields = names or tuple(map(str, range(len(columns))))
    return pa.StructArray.from_arrays([pa.array(column.numpy()) for column in columns], names=fields)


def lists(values: Tensor) -> pa.Array:
    """Convert [n, m] to an Arrow array of n lists of m float32."""
    flat = pa.array(np.ascontiguousarray(values.numpy(), np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.size(1))


@dataclass(frozen=True, kw_only=True)
class TargetScale:
    """Mean and standard deviation of T label columns over the labelled training rows.

    A network learns ``z = (y - mean) / std``, and ``y = z std + mean`` is given back in the user's unit.

    Examples:
        >>> import torch
        >>> from revgnn.data import TargetScale
        >>> scale = TargetScale(mean=(10.0,), std=(2.0,))
        >>> scale.standardise(torch.tensor([[14.0]])), scale.restore(torch.tensor([[2.0]]))
        (tensor([[2.]]), tensor([[14.]]))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Above 0; 1 for a constant column."""

    def standardise(self, y: Tensor) -> Tensor:
        """Convert labels [n, T] in the user's unit to the network's outputs; NaN stays NaN."""
        return (y - y.new_tensor(self.mean)) / y.new_tensor(self.std)

    def restore(self, logits: Tensor) -> Tensor:
        """Convert the network's outputs [n, T] to the user's unit."""
        return logits * logits.new_tensor(self.std) + logits.new_tensor(self.mean)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A learning task: label format, default loss and metric, head and predictions.

    Examples:
        >>> from revgnn.data import TASKS
        >>> TASKS["node", "multiclass"].labels, TASKS["node", "multiclass"].loss  # each is a Task
        ('classes', 'cross_entropy')
    """

    name: str
    """Name; the second half of the key in `TASKS`."""
    level: str = "node"
    """What has labels, "node" or "graph"; the first half of the key."""
    labels: Literal["classes", "flags", "numbers"]
    """``classes``: [n] int64, the number of a class, -1 where it is missing; ``flags``: [n, T] float32, 0 or 1;
    ``numbers``: [n, T] float32; NaN where one of either is missing."""
    loss: str
    """Key of the default loss."""
    metric: str
    """Key of the default metric, which selects the best epoch."""
    answers: Answers
    """Columns of a table of predictions."""
    num_outputs: int | None = None
    """T, if the task fixes it; ``None``: the number of classes or label columns."""
    num_names: int | None = None
    """Number of named classes, if it is not T."""
    head: str = "node"
    """Key of the network's head in `nn.heads.HEADS`."""
    has_many_graphs: bool = False
    """Whether a data set consists of many small graphs, separated by ``node_ptr`` and ``edge_ptr``."""
    is_standardised: bool = False
    """Whether a network learns the labels standardised, by a `TargetScale`."""

    @property
    def has_classes(self) -> bool:
        """Whether labels are class numbers."""
        return self.labels == "classes"

    @property
    def has_one_column(self) -> bool:
        """Whether a table has one label column."""
        return self.has_classes or self.num_outputs == 1

    def label_shape(self, rows: int, num_outputs: int) -> tuple[int, ...]:
        """Shape of y: [n] or [n, T]."""
        return (rows,) if self.has_classes else (rows, num_outputs)

    def labelled(self, y: Tensor) -> Tensor:
        """Return the mask [n] bool of rows with a label."""
        return y >= 0 if self.has_classes else ~y.isnan().all(1)

    def __str__(self) -> str:
        return f"{self.level}-level {self.name}"


_OF_NODES = (
    Task(name="multiclass", labels="classes", loss="cross_entropy", metric="accuracy", answers=_class_columns),
    Task(
        name="binary",
        labels="flags",
        loss="bce",
        metric="rocauc",
        answers=_binary_columns,
        num_outputs=1,
        num_names=2,
    ),
    Task(name="multilabel", labels="flags", loss="bce", metric="rocauc", answers=_flag_columns),
    Task(name="regression", labels="numbers", loss="mse", metric="rmse", answers=_value_columns, is_standardised=True),
)
_OF_GRAPHS = tuple(replace(task, level="graph", head="graph", has_many_graphs=True) for task in _OF_NODES)

TASKS: dict[tuple[str, str], Task] = {(task.level, task.name): task for task in (*_OF_NODES, *_OF_GRAPHS)}
"""(Level, name) -> task.

``multiclass``: one of several classes; ``binary``: one binary label, as one logit; ``multilabel``: T binary labels;
``regression``: T numbers.

Examples:
    >>> from revgnn.data import TASKS
    >>> TASKS["node", "regression"].metric
    'rmse'
"""


def find_task(level: str, name: str) -> Task:
    """Return a task of `TASKS`.

    Raises: ValueError: there is no such task; the message lists the tasks.
    """
    names = [task for at, task in TASKS if at == level]
    if not names:
        raise ValueError(f"level must be one of {', '.join(dict.fromkeys(at for at, _ in TASKS))}, got {level!r}")
    if name not in names:
        raise ValueError(f"task must be one of {', '.join(names)}, got {name!r}")
    return TASKS[level, name]
