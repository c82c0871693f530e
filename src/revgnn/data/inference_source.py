"""Iterates a graph for inference and yields each row with the user's id.

The graph may be in memory or on disk, and its batches may come in another order than the user's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from .batch import Batch, Batches, Series
from .dataset import Dataset
from .ondisk.batches import StoredViews
from .ondisk.store import Store
from .sampling.full_batch import evaluation_order
from .task import SPLITS


@dataclass(frozen=True, kw_only=True, eq=False)
class RowKeys:
    """The user's ids and the splits of some rows.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.data import DatasetSource
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> keys = DatasetSource(data, revgnn.make_batches(data)).keys(torch.tensor([5]))  # RowKeys
        >>> keys.ids.to_pylist()
        [5]
    """

    ids: pa.Array
    """[n] Arrow array of the user's own ids."""
    split: Tensor
    """[n] int8 number of each row's split in `SPLITS`; -1: no split."""


class DatasetSource:
    """A data set in memory; graph-level data sets are iterated in `evaluation_order`.

    Args:
        dataset: the graph, or graphs.
        batches: made of it by `make_batches`; their evaluation is used.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import DatasetSource
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> source = DatasetSource(data, revgnn.make_batches(data))
        >>> source.num_rows, len(list(source.batches()))
        (34, 1)
    """

    def __init__(self, dataset: Dataset, batches: Batches) -> None:
        self._dataset, self._batches = dataset, batches
        self._order = None if dataset.node_ptr is None else evaluation_order(dataset)
        self.num_rows = dataset.y.size(0)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of an evaluation; batches without ids contain the rows in order."""
        done = 0
        for batch in self._batches.evaluate():
            rows = batch.y.size(0)
            if batch.ids is None:
                numbers = torch.arange(done, done + rows)
                batch = replace(batch, ids=numbers if self._order is None else self._order[numbers])
            yield batch
            done += rows

    def keys(self, rows: Tensor) -> RowKeys:
        """Look up ids and splits."""
        own, numbers = self._dataset.node_ids, pa.array(rows.numpy())
        return RowKeys(ids=numbers if own is None else own.take(numbers), split=self._split[rows])

    @cached_property
    def _split(self) -> Tensor:
        """[n] int8 number of each row's split in `SPLITS`, -1 for none; made on first use, after training."""
        split = torch.full((self.num_rows,), -1, dtype=torch.int8)
        for number, name in enumerate(SPLITS):
            split[self._dataset.splits.get(name, torch.empty(0, dtype=torch.int64))] = number
        return split


class StoreSource:
    """A prepared graph on disk; one group of parts is in memory at a time.

    Args:
        store: the graph.
        views: the groups of parts.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import Store, StoredViews, StoreSource
        >>> store = Store.open(Path("graph"))
        >>> source = StoreSource(store, StoredViews(store, num_pieces=2, num_views=1, seed=0))
        >>> source.num_rows
        60
    """

    def __init__(self, store: Store, views: StoredViews) -> None:
        self._store, self._views = store, views
        self.num_rows = store.num_nodes

    def batches(self) -> Series:
        """Return the groups of every view in order."""
        groups = [group for view in range(self._views.num_views) for group in self._views.groups(view)]
        return Series(len(groups), lambda number: self._store.batch(groups[number]))

    def keys(self, rows: Tensor) -> RowKeys:
        """Read the ids and splits of the parts that contain the rows."""
        numbers, starts = rows.numpy(), self._store.starts
        where = np.searchsorted(starts, numbers, side="right") - 1
        ids, splits = [], []
        for part in np.unique(where).tolist():
            local = numbers[where == part] - starts[part]
            ids.append(self._store.ids(part).take(pa.array(local)))
            splits.append(np.array(self._store.array(part, "split.npy")[local]))
        return RowKeys(ids=pa.concat_arrays(ids), split=torch.from_numpy(np.concatenate(splits)))


InferenceSource = DatasetSource | StoreSource
"""A graph whose rows have numbers, ids and splits.

Examples:
    >>> import revgnn
    >>> from revgnn.data import DatasetSource, InferenceSource
    >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
    >>> isinstance(DatasetSource(data, revgnn.make_batches(data)), InferenceSource)
    True
"""
