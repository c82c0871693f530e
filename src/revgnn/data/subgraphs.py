"""Makes batches from subgraphs of a data set's graph, and defines the interfaces of samplers and evaluations.

Features, labels and edge features are gathered per subgraph, without a second copy of the whole arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..graph import Graph
from .batch import Batch, Footprint
from .buffers import take_rows
from .categorical import edge_columns, widen
from .dataset import Dataset
from .induced import Subgraph


class GraphSource:
    """The graph of a node-level data set, from which batches are made.

    Args:
        dataset: node-level; its arrays are not copied.
        graph: the graph of its edges, if it exists already; ``None``: it is built.
    Raises: ValueError: the data set is graph-level.
    Cost: one sort of E keys. Edge features keep the data set's order.
    """

    def __init__(self, dataset: Dataset, graph: Graph | None = None) -> None:
        if dataset.node_ptr is not None:
            raise ValueError(f"{dataset.name} is graph-level: its graphs are batches already; use GraphBatches")
        self.dataset = dataset
        self.graph = Graph.from_edge_index(dataset.edge_index, dataset.num_nodes) if graph is None else graph
        self.split = torch.full((dataset.num_nodes,), -1, dtype=torch.int8)
        for number, ids in enumerate(dataset.splits.values()):
            self.split[ids] = number

    @property
    def incoming(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """``indptr`` [N+1] and ``indices`` [E] of `graph`, which the arrays share memory with."""
        return self.graph.indptr.numpy(), self.graph.indices.numpy()

    @property
    def train_nodes(self) -> Tensor:
        """[n] int64, the training nodes."""
        return self.dataset.splits["train"]

    def batch(self, subgraph: Subgraph, rows: dict[str, Tensor] | None = None) -> Batch:
        """Make a batch of a subgraph with its features, labels and splits.

        Args:
            subgraph: a subgraph of `graph`.
            rows: split name -> positions in the subgraph; ``None``: every node that is in a split.
        """
        data, edge_attr = self.dataset, None
        if data.edge_attr is not None:
            ids = self.graph.edge_ids
            edges = subgraph.edges if ids is None else ids.index_select(0, subgraph.edges)
            edge_attr = edge_columns(take_rows(data.edge_attr, edges), data.info.edge_categories)
        if rows is None:
            split = self.split[subgraph.nodes]
            rows = {name: (split == number).nonzero()[:, 0] for number, name in enumerate(data.splits)}
        return Batch(
            x=widen(take_rows(data.x, subgraph.nodes)),
            graph=subgraph.graph,
            edge_attr=edge_attr,
            y=data.y.index_select(0, subgraph.nodes),
            rows=rows,
            ids=subgraph.nodes,
        )


class Training(Protocol):
    """The training part of `Batches`."""

    def __len__(self) -> int:
        """Steps in an epoch."""
        ...

    def train(self, epoch: int) -> Iterable[Batch]:
        """The training batches of an epoch."""
        ...


Evaluation = Callable[[], Iterable[Batch]]
"""Returns batches that cover every row of every split, equally often: the evaluation part of `Batches`."""


class NodeBatches(Footprint):
    """Combines training batches and evaluation batches of different samplers.

    Args:
        training: batches of training.
        evaluation: batches of the evaluation after an epoch.
        final: batches of the final evaluation; ``None``: there is none.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import NodeBatches
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> parts = revgnn.make_batches(data, loader=revgnn.LoaderConfig(kind="random", num_parts=3))
        >>> batches = NodeBatches(parts, revgnn.make_batches(data).evaluate)  # train on parts, evaluate on the whole
    """

    def __init__(self, training: Training, evaluation: Evaluation, final: Evaluation | None = None) -> None:
        self.training, self._evaluation = training, evaluation
        self.final = None if final is None else NodeBatches(training, final)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.training)

    def train(self, epoch: int) -> Iterable[Batch]:
        """Give the training batches of an epoch."""
        return self.training.train(epoch)

    def evaluate(self) -> Iterable[Batch]:
        """Give the batches of an evaluation."""
        return self._evaluation()

    def held(self) -> list[Tensor]:
        """Return the tensors of a training batch that stays in memory."""
        return self.training.held() if isinstance(self.training, Footprint) else []
