"""Makes a data set from PyG's ``Data`` or ``Batch``: one to train on, or one that a trained model is applied to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from ..edge_index import refuse_typed
from .dataset import Dataset, label_dtype
from .edges import prepare_edges
from .encodings import NumberEncoding
from .info import Feature, GraphInfo
from .sampling.pyg import split_rows
from .task import Task, find_task

if TYPE_CHECKING:
    from torch_geometric.data import Data


def dataset_from_pyg(
    data: Data,
    *,
    name: str = "data",
    task: str | None = None,
    metric: str = "",
    split: int | None = None,
    splits: Mapping[str, Tensor | Sequence[int]] | None = None,
) -> Dataset:
    """Make a data set of PyG's ``Data``, or of a ``Batch`` of many graphs, to train on.

    Args:
        data: ``x``, ``edge_index`` and ``y``; optional ``edge_weight`` or ``edge_attr``, and masks. In a ``Batch`` with
            a row of ``y`` for each graph, graphs carry the labels.
        name: name in reports.
        task: a name in `TASKS`; ``None``: multiclass if ``y`` holds integers in one column, multilabel if it holds 0, 1
            and NaN in several, else regression.
        metric: selects the best epoch; empty: the default of the task.
        split: column of masks that have several, such as the ten of heterophilous graphs; ``None``: they have one.
        splits: ``train``, ``valid`` and ``test`` -> rows, as numbers or as masks; ``None``: by ``train_mask``,
            ``val_mask`` and ``test_mask``.
    Returns: the data set; features and labels as they come, edges as they are.
    Raises: ValueError, TypeError: something is missing, or is not as said here.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from torch_geometric.data import Data
        >>> data = Data(x=torch.randn(3, 4), edge_index=torch.tensor([[0, 1], [1, 2]]), y=torch.tensor([0, 1, 0]))
        >>> splits = {"train": torch.tensor([0, 1]), "valid": torch.tensor([2])}
        >>> revgnn.dataset_from_pyg(data, splits=splits).info.task
        'multiclass'
    """
    if isinstance(data, list | tuple):
        raise TypeError("several graphs are one data set as a batch: give Batch.from_data_list(graphs)")
    refuse_typed(data)
    for field in ("x", "edge_index", "y"):
        if not isinstance(getattr(data, field, None), Tensor):
            raise ValueError(f"data.{field} is missing: a data set needs features x, edges edge_index and labels y")
    x, edge_index, y = data.x, data.edge_index, data.y
    assert x is not None and edge_index is not None and isinstance(y, Tensor), "checked above"
    graphs = data.num_graphs if isinstance(data.batch, Tensor) else None
    level = "graph" if graphs is not None and len(y) == graphs != len(x) else "node"
    info = _info_of(y, level, task)
    info = replace(info, name=name, metric=metric, edge_weight=isinstance(data.edge_weight, Tensor))
    if info.edge_weight and data.edge_attr is not None:
        raise ValueError("data has edge_weight and edge_attr, and one of them is read; leave the other out")
    edge_attr = _edge_attr(data, info)
    return Dataset(
        info=info,
        x=x.float(),
        y=_labels(y, len(y), info),
        splits=_splits(data, len(y), split, splits),
        **_edges(data, info, None if edge_attr is None else edge_attr.float()),
    )


def _info_of(y: Tensor, level: str, task: str | None) -> GraphInfo:
    """Infer the task of labels, and count its outputs."""
    columns = 1 if y.dim() < 2 else y.size(1)
    if task is None:
        is_flags = columns > 1 and bool((y.isnan() | (y == 0) | (y == 1)).all())
        task = "multilabel" if is_flags else "regression" if y.is_floating_point() or columns > 1 else "multiclass"
    found = find_task(level, task)
    if found.has_one_column and columns > 1:
        raise ValueError(f"data.y of a {task} task must have one column, got {list(y.shape)}")
    known = y[~y.isnan()]
    if not known.numel() or (found.has_classes and bool((known < 0).all())):
        raise ValueError("data.y has no known label: there is nothing to learn")
    if found.has_classes:
        _check_whole(y, found)
    others = known[(known != 0) & (known != 1)]
    if found.labels == "flags" and others.numel():
        raise ValueError(f"data.y of a {task} task must hold 0 and 1, got {others[0].item()}")
    classes = int(known.max()) + 1 if found.has_classes else columns
    return GraphInfo(level=level, task=task, num_outputs=classes)


def _splits(
    data: Data, rows: int, split: int | None, splits: Mapping[str, Tensor | Sequence[int]] | None
) -> dict[str, Tensor]:
    if splits is not None:
        return {key: _rows(ids, rows, f"splits[{key!r}]") for key, ids in splits.items()}
    train = getattr(data, "train_mask", None)
    if split is None and isinstance(train, Tensor) and train.dim() == 2:
        raise ValueError(f"data.train_mask has {train.size(1)} columns, a split each; choose one, such as split=0")
    found = split_rows(data, rows, split)
    if "train" not in found:
        raise ValueError(
            "data.train_mask is missing: apply torch_geometric.transforms.RandomNodeSplit, or give the rows by splits="
        )
    return found


def _rows(chosen: Tensor | Sequence[int], count: int, name: str) -> Tensor:
    """Return the numbers of rows that are given as numbers or as a mask of ``count`` rows."""
    rows = torch.as_tensor(chosen)
    if rows.dtype != torch.bool:
        return _numbers(rows, name)
    if rows.shape != (count,):
        raise ValueError(f"{name} is a mask and must be [{count}], one per row of y, got {list(rows.shape)}")
    return rows.nonzero()[:, 0]


def _numbers(values: Tensor, name: str) -> Tensor:
    """Return whole numbers as int64; an empty tensor may have any type."""
    if values.numel() and (values.dtype == torch.bool or values.is_floating_point() or values.is_complex()):
        raise TypeError(f"{name} must hold whole numbers, got {values.dtype}; convert it, by .long()")
    return values.long()


def _edge_attr(data: Data, info: GraphInfo) -> Tensor | None:
    """Return [E, K] features of edges, or their weights [E, 1] where ``info`` has weights and ``data`` brings them."""
    found: Tensor | None = data.edge_weight if info.edge_weight and data.edge_weight is not None else data.edge_attr
    return found if found is None or found.dim() > 1 else found[:, None]


def dataset_of(data: Data, info: GraphInfo) -> Dataset:
    """Return the data set of a graph that a trained model is to be applied to.

    Args:
        data: ``x`` and ``edge_index``; optional ``edge_attr``, ``y`` and masks, all as they come: numbers are scaled as
            those of the training data were, and edges get reverse edges and self loops as they did. For a graph-level
            model one graph, or a ``Batch`` of several.
        info: metadata of the training data.
    Returns: the data set; without ``y`` or without masks no row is in a split.
    Raises: ValueError, TypeError: ``x`` or ``edge_index`` is missing, or they are not what the model reads; the
        features were made of texts, times or lists, which tensors do not hold.
    """
    if not hasattr(data, "edge_index"):
        raise TypeError(
            "a prediction needs a data set, a prepared graph (revgnn.data.Store), or PyG's Data, of several graphs "
            f"Batch.from_data_list(graphs); got {type(data).__name__}"
        )
    for name in ("x", "edge_index"):
        if not isinstance(getattr(data, name, None), Tensor):
            raise ValueError(
                f"data.{name} is missing: a prediction needs features x and edges edge_index, of one Data or, by "
                "Batch.from_data_list, of several"
            )
    x, edge_index, edge_attr = data.x, data.edge_index, _edge_attr(data, info)
    assert x is not None and edge_index is not None, "checked above"
    if edge_attr is not None:
        edge_attr = _encoded(_values(edge_attr, info.edge_categories, "edge_attr"), info.edge_features, "edge_attr")
    edges = _edges(data, info, edge_attr if info.edge_channels is not None else None)
    rows = x.size(0) if edges["node_ptr"] is None else edges["node_ptr"].numel() - 1
    y = _labels(data.y if isinstance(data.y, Tensor) else None, rows, info)
    splits = split_rows(data, rows) if isinstance(data.y, Tensor) else {}
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
        x=_encoded(_values(x, info.categories, "x"), info.features, "x"),
        y=y,
        splits={"train": torch.empty(0, dtype=torch.int64), **splits},
        **edges,
    )
    return prepare_edges(made, undirected=info.undirected, self_loops=info.self_loops)


class _Edges(TypedDict):
    """The fields of a `Dataset` about edges, and about which graph they are of."""

    edge_index: Tensor
    edge_attr: Tensor | None
    node_ptr: Tensor | None
    edge_ptr: Tensor | None


def _edges(data: Data, info: GraphInfo, edge_attr: Tensor | None) -> _Edges:
    """Return the edges with their features, graph by graph where there are many."""
    assert data.edge_index is not None and data.x is not None, "checked by the callers"
    edge_index = _numbers(data.edge_index, "data.edge_index")
    if not info.task_spec.has_many_graphs:
        return _Edges(edge_index=edge_index, edge_attr=edge_attr, node_ptr=None, edge_ptr=None)
    node_ptr, edge_ptr, order = _graphs(data, edge_index, data.x.size(0))
    edge_attr = None if edge_attr is None else edge_attr[order]
    return _Edges(edge_index=edge_index[:, order], edge_attr=edge_attr, node_ptr=node_ptr, edge_ptr=edge_ptr)


def _graphs(data: Data, edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``node_ptr`` and ``edge_ptr`` of one graph or of a batch, and the order in which edges lie by graph."""
    batch = data.batch if isinstance(data.batch, Tensor) else torch.zeros(num_nodes, dtype=torch.int64)
    if batch.shape != (num_nodes,) or bool((batch.diff() < 0).any()):
        raise ValueError(
            f"data.batch must ascend, with the graph of each of {num_nodes} nodes, got {list(batch.shape)}; make it by "
            "Batch.from_data_list"
        )
    count = data.num_graphs if hasattr(data, "num_graphs") else int(batch.max()) + 1 if num_nodes else 0
    of_edge = batch[edge_index[0]]
    node_ptr, edge_ptr = (
        torch.cat([one.new_zeros(1), torch.bincount(one, minlength=count).cumsum(0)]) for one in (batch, of_edge)
    )
    return node_ptr, edge_ptr, torch.argsort(of_edge, stable=True)


def _values(values: Tensor, categories: tuple[int, ...] | None, name: str) -> Tensor:
    if categories is None:
        return values.float()
    if values.numel() and not 0 <= float(values.min()) <= float(values.max()) < 256:
        raise ValueError(
            f"data.{name} must hold category codes of 0 to 255, got {values.min().item()} to {values.max().item()}"
        )
    return values.to(torch.uint8)


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
        return torch.full(shape, -1 if task.has_classes else torch.nan, dtype=label_dtype(task))
    if y.numel() != math.prod(shape):
        raise ValueError(
            f"data.y must be {list(shape)}, a row for each {info.level} of a {info.level}-level {task.name} task, got "
            f"{list(y.shape)}"
        )
    if task.has_classes:
        _check_whole(y, task)
        y = y.nan_to_num(nan=-1)
    return y.reshape(shape).to(label_dtype(task))


def _check_whole(y: Tensor, task: Task) -> None:
    """Check that classes which are written as floating point numbers are whole ones; NaN is an unknown class."""
    odd = y[~y.isnan() & (y.frac() != 0)] if y.is_floating_point() else y[:0]
    if odd.numel():
        raise ValueError(
            f"data.y of a {task} task must hold classes, numbered from 0, got {odd[0].item():g} ({odd.numel()} "
            "such rows); number them, or take the task regression"
        )
