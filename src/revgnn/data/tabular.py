"""Takes labelled rows of a data set as a table: their features without edges, and their labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dataset import Dataset
from .induced import ranges
from .info import GraphInfo
from .ondisk.store import Store
from .task import SPLITS

_GRAPHS_AT_ONCE = 1024


def rows_of(dataset: Dataset | Store, split: str) -> NDArray[np.int64]:
    """Return the row numbers of a split, ascending."""
    if isinstance(dataset, Dataset):
        return np.sort(dataset.splits.get(split, torch.empty(0, dtype=torch.int64)).numpy())
    code = SPLITS.index(split)
    found = [
        np.flatnonzero(dataset.array(part, "split.npy") == code) + dataset.starts[part]
        for part in range(dataset.num_parts)
    ]
    return np.concatenate(found).astype(np.int64)


def take_rows(dataset: Dataset | Store, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], Tensor]:
    """Return the features and labels of some rows.

    Args:
        rows: [n] row numbers of nodes or graphs, ascending.
    Returns: [n, F'] features: numbers, or one column per category; of a graph the mean over its nodes. And the labels.
    """
    if isinstance(dataset, Dataset):
        numbers = torch.from_numpy(rows)
        y = dataset.y[numbers]
        if dataset.node_ptr is None:
            return _numbers(dataset.x[numbers].numpy(), dataset.info), y
        groups = torch.split(numbers, _GRAPHS_AT_ONCE)
        means = [_graph_means(dataset.x, dataset.node_ptr, group, dataset.info) for group in groups]
        return np.concatenate(means) if means else np.empty((0, table_width(dataset.info)), np.float32), y
    where = np.searchsorted(dataset.starts, rows, side="right") - 1
    features, labels = [], []
    for part in np.unique(where).tolist():
        local = rows[where == part] - dataset.starts[part]
        features.append(np.array(dataset.array(part, "x.npy")[local]))
        labels.append(torch.from_numpy(np.array(dataset.array(part, "y.npy")[local])))
    return np.concatenate(features), torch.cat(labels)


def table_width(info: GraphInfo) -> int:
    """Return F', the number of columns of `take_rows`."""
    return info.in_channels if info.categories is None else sum(info.categories)


def _numbers(x: NDArray[np.float32], info: GraphInfo) -> NDArray[np.float32]:
    if info.categories is None:
        return x
    return np.concatenate([np.eye(size, dtype=np.float32)[x[:, k]] for k, size in enumerate(info.categories)], axis=1)


def _graph_means(x: Tensor, node_ptr: Tensor, graphs: Tensor, info: GraphInfo) -> NDArray[np.float32]:
    nodes, counts = ranges(node_ptr, graphs)
    values = torch.from_numpy(_numbers(x[nodes].numpy(), info))
    owner = torch.repeat_interleave(torch.arange(graphs.numel()), counts)
    sums = torch.zeros(graphs.numel(), values.size(1)).index_add_(0, owner, values)
    means: NDArray[np.float32] = (sums / counts.clamp(min=1)[:, None]).numpy()
    return means
