"""What can be learned: how labels look, which loss and metric go with them, which head answers, what predictions say.

`TASKS` is the one table. A task names its default loss and metric by their keys in `train.losses.LOSSES` and
`train.metrics.METRICS`; the entries there say which tasks they go with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

Names = tuple[str, ...] | None
"""Of the classes or columns of an answer; ``None``: they are numbered."""
Answers = Callable[[Tensor, Names], Mapping[str, Any]]
"""Logits [n, T] and names -> the columns of a table of predictions, Arrow arrays [n]."""


def _class_columns(logits: Tensor, names: Names) -> dict[str, Any]:
    values = pa.array(names or list(range(logits.size(1))))
    return {"prediction": values.take(pa.array(logits.argmax(1).numpy())), "probabilities": lists(logits.softmax(1))}


def _binary_columns(logits: Tensor, names: Names) -> dict[str, Any]:
    probability = logits[:, 0].sigmoid()
    values = pa.array(names or [0, 1])
    chosen = values.take(pa.array((probability > 0.5).long().numpy()))
    return {"prediction": chosen, "probability": pa.array(probability.float().numpy())}


def _probability_columns(logits: Tensor, names: Names) -> dict[str, Any]:
    return {"probabilities": lists(logits.sigmoid())}


def _value_columns(logits: Tensor, names: Names) -> dict[str, Any]:
    return {"prediction": pa.array(logits[:, 0].numpy()) if logits.size(1) == 1 else lists(logits)}


def lists(values: Tensor) -> Any:
    """[n, m] as an Arrow array of n lists of m float32."""
    flat = pa.array(np.ascontiguousarray(values.numpy(), np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.size(1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned of a data set, and all that follows from it."""

    name: str
    """What is predicted; the second half of its key in `TASKS`."""
    level: str = "node"
    """What carries a label; the first half of its key."""
    labels: Literal["classes", "flags", "numbers"]
    """``classes``: [n] int64, the number of a class, -1 where it is missing; ``flags``: [n, T] float32, 0 or 1;
    ``numbers``: [n, T] float32; NaN where one of either is missing."""
    loss: str
    """Key of the loss that a run minimises where it names none."""
    metric: str
    """Key of the metric that selects the best epoch where a data set names none."""
    answers: Answers
    """What a table of predictions says."""
    num_outputs: int | None = None
    """T, where the task fixes it; ``None``: as many as there are classes or columns of labels."""
    num_names: int | None = None
    """How many classes have a name, where they are not T."""
    head: str = "node"
    """Key of the head in `nn.heads.HEADS` that a network answers by."""
    has_many_graphs: bool = False
    """Whether a data set is many small graphs, told apart by ``node_ptr`` and ``edge_ptr``; else it is one graph."""

    @property
    def has_classes(self) -> bool:
        """Whether a label is the number of a class."""
        return self.labels == "classes"

    @property
    def has_one_column(self) -> bool:
        """Whether labels stand in one column of a table."""
        return self.has_classes or self.num_outputs == 1

    @property
    def label_dtype(self) -> torch.dtype:
        """Of y."""
        return torch.int64 if self.has_classes else torch.float32

    def label_shape(self, rows: int, num_outputs: int) -> tuple[int, ...]:
        """Of y: [n], or [n, T]."""
        return (rows,) if self.has_classes else (rows, num_outputs)

    def labelled(self, y: Tensor) -> Tensor:
        """[n] bool: the rows that count, because they have a label."""
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
    Task(name="multilabel", labels="flags", loss="bce", metric="rocauc", answers=_probability_columns),
    Task(name="regression", labels="numbers", loss="mse", metric="rmse", answers=_value_columns),
)
_OF_GRAPHS = tuple(replace(task, level="graph", head="graph", has_many_graphs=True) for task in _OF_NODES)

TASKS: dict[tuple[str, str], Task] = {(task.level, task.name): task for task in (*_OF_NODES, *_OF_GRAPHS)}
"""(What carries a label, what is predicted) -> all that follows.

``multiclass``: one class of several; ``binary``: yes or no, as one logit; ``multilabel``: T of those; ``regression``: T
numbers.
"""


def find_task(level: str, name: str) -> Task:
    """Give a row of `TASKS`.

    Raises: ValueError: there is none, with those that there are.
    """
    names = [task for at, task in TASKS if at == level]
    if not names:
        raise ValueError(f"level must be one of {', '.join(dict.fromkeys(at for at, _ in TASKS))}, got {level!r}")
    if name not in names:
        raise ValueError(f"task must be one of {', '.join(names)}, got {name!r}")
    return TASKS[level, name]
