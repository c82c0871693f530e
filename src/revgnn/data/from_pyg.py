"""Makes a data set from PyG's ``Data``, as the metadata of a trained model describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .dataset import Dataset
from .edges import prepare_edges
from .encodings import NumberEncoding
from .info import Feature, GraphInfo
from .sampling.pyg import split_rows

if TYPE_CHECKING:
    from torch_geometric.data import Data


def dataset_of(data: Data, info: GraphInfo) -> Dataset:
    """Return the data set of a graph that a trained model is to be applied to.

    Args:
        data: ``x`` and ``edge_index``; optional ``edge_attr``, ``y`` and masks, all as they come: numbers are scaled as
            those of the training data were, and edges get reverse edges and self loops as they did.
        info: metadata of the training data.
    Returns: the data set; without ``y`` or without masks no row is in a split.
    Raises: ValueError, TypeError: ``x`` or ``edge_index`` is missing, or they are not what the model reads; the
        features were made of texts, times or lists, which tensors do not hold.
    """
    if info.task_spec.has_many_graphs:
        raise ValueError(
            f"the model was trained on many graphs ({info.name}), got one of PyG; make a Dataset of level 'graph' of "
            "them"
        )
    for name in ("x", "edge_index"):
        if not isinstance(getattr(data, name, None), Tensor):
            raise ValueError(f"data.{name} is missing: a prediction needs features x and edges edge_index")
    x, edge_attr = data.x, data.edge_attr
    assert x is not None and data.edge_index is not None, "checked above"
    if edge_attr is not None:
        edge_attr = edge_attr if edge_attr.dim() > 1 else edge_attr[:, None]
        edge_attr = _encoded(_values(edge_attr, info.edge_categories), info.edge_features, "edge_attr")
    y = _labels(data.y if isinstance(data.y, Tensor) else None, x.size(0), info)
    splits = split_rows(data, x.size(0)) if isinstance(data.y, Tensor) else {}
    made = Dataset(
        info=GraphInfo(
            name="data",
            level=info.level,
            task=info.task,
            metric=info.metric,
            num_outputs=info.num_outputs,
            class_names=info.class_names,
            categories=info.categories,
            edge_categories=info.edge_categories,
            edge_weight=info.edge_weight,
        ),
        x=_encoded(_values(x, info.categories), info.features, "x"),
        edge_index=data.edge_index.long(),
        edge_attr=edge_attr if info.edge_channels is not None else None,
        y=y,
        splits={"train": torch.empty(0, dtype=torch.int64), **splits},
    )
    return prepare_edges(made, undirected=info.undirected, self_loops=info.self_loops)


def _values(values: Tensor, categories: tuple[int, ...] | None) -> Tensor:
    return values.float() if categories is None else values.to(torch.uint8)


def _encoded(values: Tensor, features: tuple[Feature, ...], name: str) -> Tensor:
    """Scale and fill numbers as the training data were; values without encodings stay as they are."""
    encodings = {each.name: each.encoding for each in features}
    numbers = [each for each in encodings.values() if isinstance(each, NumberEncoding)]
    if not any(encodings.values()):
        return values
    if len(numbers) < len(features):
        others = ", ".join(column for column, each in encodings.items() if not isinstance(each, NumberEncoding))
        raise ValueError(
            f"data.{name} holds numbers, and the model reads the columns {others}, which are encoded from a table; "
            "predict from tables, by revgnn predict --data FOLDER"
        )
    if values.size(1) != sum(each.size for each in numbers):
        raise ValueError(
            f"data.{name} must have {sum(each.size for each in numbers)} columns ({', '.join(encodings)}), got "
            f"{values.size(1)}"
        )
    parts = torch.split(values.double(), [each.size for each in numbers], dim=1)
    done = [torch.from_numpy(each.apply(part.numpy())) for each, part in zip(numbers, parts, strict=True)]
    return torch.cat(done, dim=1)


def _labels(y: Tensor | None, rows: int, info: GraphInfo) -> Tensor:
    """Return labels in the format of the task; unknown ones without ``y``."""
    task = info.task_spec
    shape = task.label_shape(rows, info.num_outputs)
    if y is None:
        return torch.full(shape, -1 if task.has_classes else torch.nan, dtype=task.label_dtype)
    return y.reshape(shape).to(task.label_dtype)
