"""Batches of whole graphs: the graph of a node-level data set, or disjoint unions of small graphs.

The edges are sorted once, and small graphs are sliced from the data set's arrays. The batches of an epoch are a pure
function of (seed, epoch), so a resumed run gets the same batches.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from ...node_order import NodeOrder
from ..batch import Batch, Footprint, Series
from ..categorical import edge_columns, widen
from ..dataset import Dataset
from ..induced import ranges


class FullBatch(Footprint):
    """The whole graph of a node-level data set, for training and evaluation; one step per epoch.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import FullBatch
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> FullBatch(data).batch.x.shape
        torch.Size([34, 34])
    """

    def __init__(self, dataset: Dataset, graph: Graph | None = None, order: NodeOrder = "given") -> None:
        """Store the data set; the batch is built on first use.

        Args:
            dataset: node-level.
            graph: the graph of its edges, if it exists already; ``None``: it is built.
            order: order of the batch's rows, as `Graph.local_order` takes it. The batch's ``ids`` say the data set's.
        Raises: ValueError: if the data set is graph-level.
        Cost: one sort of E keys unless the graph is given; a second copy of the edge features. In another order also
            that of `Graph.local_order`, another sort, and a second copy of features and labels.
        """
        if dataset.node_ptr is not None:
            raise ValueError(f"{dataset.name} is graph-level; use GraphBatches, which can take all graphs at once too")
        self._dataset, self._graph, self._order = dataset, graph, order

    @cached_property
    def batch(self) -> Batch:
        """The batch, which is the same in every epoch."""
        data, graph = self._dataset, self._graph
        self._graph = None  # the caller's order is not needed again
        if graph is None:
            graph = Graph.from_edge_index(data.edge_index, data.num_nodes)
        order, x, y, rows = graph.local_order(self._order), data.x, data.y, data.splits
        if order is not None:
            graph, x, y = graph.reordered(order), x.index_select(0, order), y.index_select(0, order)
            place = torch.empty_like(order)
            place[order] = torch.arange(data.num_nodes)
            rows = {name: place[ids] for name, ids in rows.items()}
        edge_attr = None if data.edge_attr is None else graph.sort_edges(data.edge_attr)
        return Batch(
            x=widen(x),
            graph=graph.in_own_order,
            edge_attr=edge_columns(edge_attr, data.info.edge_categories),
            y=y,
            rows=rows,
            ids=order,
            is_permuted=order is not None,
        )

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def train(self, epoch: int) -> Series:
        """Give the batch."""
        return self.evaluate()

    def evaluate(self) -> Series:
        """Give the batch."""
        return Series(1, lambda number: self.batch)

    def held(self) -> list[Tensor]:
        """Give the tensors of the batch."""
        return self.batch.tensors()


def evaluation_order(dataset: Dataset) -> Tensor:
    """Return [B] int64, the graphs of a graph-level data set split by split, then those in no split."""
    in_splits = torch.cat(list(dataset.splits.values()))
    others = torch.ones(dataset.info.num_rows, dtype=torch.bool)
    others[in_splits] = False
    return torch.cat([in_splits, others.nonzero()[:, 0]])


class GraphBatches:
    """Disjoint unions of the graphs of a graph-level data set, reshuffled every epoch.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.data import GraphBatches
        >>> two = revgnn.Dataset(
        ...     info=revgnn.GraphInfo(level="graph", num_outputs=2),
        ...     x=torch.randn(5, 3),
        ...     edge_index=torch.tensor([[0, 3], [1, 4]]),
        ...     y=torch.tensor([0, 1]),
        ...     node_ptr=torch.tensor([0, 3, 5]),
        ...     edge_ptr=torch.tensor([0, 1, 2]),
        ...     splits={"train": torch.tensor([0, 1])},
        ... )
        >>> [batch.graph.num_graphs for batch in GraphBatches(two, batch_size=1).train(1)]
        [1, 1]
    """

    def __init__(self, dataset: Dataset, batch_size: int | None = None, seed: int = 0) -> None:
        """Sort the edges once for all batches.

        Args:
            dataset: graph-level.
            batch_size: graphs per batch; the last batch of an epoch may have fewer; ``None``: all training graphs.
            seed: seed of the order of training graphs, 0 or above.
        Raises: ValueError: if the data set is node-level, or a number is out of range.
        Cost: one sort of E keys; a second copy of the edges and their features.
        """
        if dataset.node_ptr is None or dataset.edge_ptr is None:
            raise ValueError(f"{dataset.name} is node-level: it is one graph; use FullBatch")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1, or None for all training graphs at once")
        if seed < 0:
            raise ValueError(f"seed={seed} must be 0 or above")
        self._dataset = dataset
        self._node_ptr, self._edge_ptr = dataset.node_ptr, dataset.edge_ptr
        self._seed = seed
        self._train = dataset.splits["train"]
        self.batch_size = batch_size or self._train.numel() or max(dataset.info.num_rows, 1)
        # Sorted by (destination, source), a graph's edges remain contiguous, because its nodes are.
        whole = Graph.from_edge_index(dataset.edge_index, dataset.num_nodes)
        self._edge_index = whole.edge_index
        self._edge_attr = None if dataset.edge_attr is None else whole.sort_edges(dataset.edge_attr)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-self._train.numel() // self.batch_size)

    def train(self, epoch: int) -> Series:
        """Yield the training graphs, shuffled by (seed, epoch)."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._train.numel())
        steps = torch.split(self._train[torch.from_numpy(order)], self.batch_size)
        return Series(
            len(self), lambda number: self._union(steps[number], {"train": torch.arange(steps[number].numel())})
        )

    def evaluate(self) -> Series:
        """Yield every graph once, in `evaluation_order`; a batch may contain graphs of two splits."""
        splits = self._dataset.splits
        starts = dict(zip(splits, np.cumsum([0, *(ids.numel() for ids in splits.values())]).tolist(), strict=False))
        pieces = torch.split(evaluation_order(self._dataset), self.batch_size)

        def make(number: int) -> Batch:
            graphs, begin = pieces[number], number * self.batch_size
            rows = {}
            for name, ids in splits.items():
                low = max(starts[name] - begin, 0)
                high = min(starts[name] + ids.numel() - begin, graphs.numel())
                if low < high:
                    rows[name] = torch.arange(low, high)
            return self._union(graphs, rows)

        return Series(len(pieces), make)

    def _union(self, graphs: Tensor, rows: dict[str, Tensor]) -> Batch:
        """Build the disjoint union of some graphs.

        Args:
            graphs: [B] int64 numbers of graphs.
            rows: split name -> positions in ``graphs``.
        Cost: one gather of their nodes and edges; no sort.
        """
        nodes, node_counts = ranges(self._node_ptr, graphs)
        edges, edge_counts = ranges(self._edge_ptr, graphs)
        new_start = node_counts.cumsum(0) - node_counts
        shift = torch.repeat_interleave(new_start - self._node_ptr[graphs], edge_counts)
        graph = Graph.from_edge_index(
            self._edge_index[:, edges] + shift,
            nodes.numel(),
            batch=torch.repeat_interleave(torch.arange(graphs.numel()), node_counts),
            num_graphs=graphs.numel(),
        )
        assert graph.edge_ids is None, "edges sorted over all graphs are sorted in every union of them"
        edge_attr = None if self._edge_attr is None else self._edge_attr[edges]
        return Batch(
            x=widen(self._dataset.x[nodes]),
            graph=graph,
            edge_attr=edge_columns(edge_attr, self._dataset.info.edge_categories),
            y=self._dataset.y[graphs],
            rows=rows,
        )
