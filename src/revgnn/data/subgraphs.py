"""Batches that are pieces of one graph: parts of a partition, or neighbourhoods of some nodes; and views of all of it.

Every batch is a pure function of (seed, epoch, step): a run that resumes in the middle of an epoch sees the batches
that it would have seen. Features, labels and edge features are gathered piece by piece; no copy of them is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..graph import Graph
from .batch import Batch, Series
from .categorical import edge_columns, widen
from .dataset import Dataset
from .induced import Cut, Subgraph, induce
from .sampling.neighbor import sample_neighbors
from .sampling.partition import Partition

_EVALUATION = 0
"""Stands where training has its epoch, which counts from 1."""


class GraphSource:
    """The one graph of a node-level data set, from which batches are taken.

    Args:
        dataset: node-level; its arrays are read where they lie.
        graph: of its edges, where it is at hand; ``None`` builds it.
    Raises: ValueError: the data set is graph-level.
    Cost: one sort of E keys. Edge features stay in the order in which the data set has them.
    """

    def __init__(self, dataset: Dataset, graph: Graph | None = None) -> None:
        if dataset.node_ptr is not None:
            raise ValueError(f"{dataset.name} is graph-level: its graphs are batches already; use GraphBatches")
        self.dataset = dataset
        self.graph = Graph.from_edge_index(dataset.edge_index, dataset.num_nodes) if graph is None else graph
        self.split = torch.full((dataset.num_nodes,), -1, dtype=torch.int8)
        for number, ids in enumerate(dataset.splits.values()):
            self.split[ids] = number

    def batch(self, subgraph: Subgraph, rows: dict[str, Tensor] | None = None) -> Batch:
        """Give a piece its features, labels and splits.

        Args:
            piece: of `graph`.
            rows: split name -> positions in the piece; ``None``: every node that is in a split.
        """
        data, edge_attr = self.dataset, None
        if data.edge_attr is not None:
            ids = self.graph.edge_ids
            edges = subgraph.edges if ids is None else ids.index_select(0, subgraph.edges)
            edge_attr = edge_columns(data.edge_attr.index_select(0, edges), data.info.edge_categories)
        if rows is None:
            split = self.split[subgraph.nodes]
            rows = {name: (split == number).nonzero()[:, 0] for number, name in enumerate(data.splits)}
        return Batch(
            x=widen(data.x.index_select(0, subgraph.nodes)),
            graph=subgraph.graph,
            edge_attr=edge_attr,
            y=data.y.index_select(0, subgraph.nodes),
            rows=rows,
            ids=subgraph.nodes,
        )


class PartBatches:
    """A partition of the nodes, drawn anew in every epoch; its parts are the training steps.

    A part without training nodes is left out: there is nothing to learn from it.

    Args:
        whole: the graph.
        partition: where partitions come from.
        num_parts: parts of an epoch.
        seed: of the partitions, 0 or above.
    Cost: per epoch, one pass over the edges; per step, gathers of one part.
    """

    def __init__(self, source: GraphSource, partition: Partition, num_parts: int, seed: int) -> None:
        self._whole, self._partition, self._num_parts, self._seed = source, partition, num_parts, seed
        self._is_train = source.split == list(source.dataset.splits).index("train")

    def __len__(self) -> int:
        """Steps in an epoch, those of parts without training nodes included."""
        return self._num_parts

    def train(self, epoch: int) -> Series:
        """Give the parts of an epoch."""
        part = self._partition.draw(np.random.default_rng((self._seed, epoch)), self._num_parts)
        parts = torch.unique(part[self._is_train]).tolist()
        cut = cache(lambda: Cut(self._whole.graph, part, self._num_parts))
        return Series(len(parts), lambda number: self._whole.batch(cut().subgraph(parts[number])))


class NeighborBatches:
    """Some training nodes and their sampled neighbourhood, as an induced subgraph; the loss is of those nodes alone.

    Args:
        whole: the graph.
        batch_size: training nodes in a step; the last step of an epoch may have fewer.
        fanouts: edges that a node draws in each hop, the first hop first; -1 takes all.
        seed: of the order of nodes and of the draws, 0 or above.
    Cost: per step, `sample_neighbors` and `induce`.
    """

    def __init__(self, source: GraphSource, batch_size: int, fanouts: Sequence[int], seed: int) -> None:
        self._whole, self._batch_size, self._fanouts, self._seed = source, batch_size, tuple(fanouts), seed
        self._train = source.dataset.splits["train"]

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-self._train.numel() // self._batch_size)

    def train(self, epoch: int) -> Series:
        """Give the neighbourhoods of all training nodes, in an order of this epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._train.numel())
        steps = torch.split(self._train[torch.from_numpy(order)], self._batch_size)

        def make(step: int) -> Batch:
            # From 1: a stream of (seed, epoch, 0) would be that of (seed, epoch).
            rng = np.random.default_rng((self._seed, epoch, 1 + step))
            nodes = sample_neighbors(self._whole.graph, steps[step], self._fanouts, rng)
            rows = {"train": torch.searchsorted(nodes, steps[step])}
            return self._whole.batch(induce(self._whole.graph, nodes), rows)

        return Series(len(self), make)


class Views:
    """Every node once for each view: partitions of the nodes whose parts are evaluated one by one.

    The partitions are drawn once and are the same in every evaluation. Logits of a node that comes V times are meant to
    be averaged, by ``ids``.

    Args:
        whole: the graph.
        partition: where partitions come from.
        num_parts: parts of each view; the memory of an evaluation is that of a part.
        num_views: V.
        seed: of the partitions, 0 or above.
    Cost: per view, two draws of its partition, one pass over the edges and a gather of the edges that stay.
    """

    def __init__(self, source: GraphSource, partition: Partition, num_parts: int, num_views: int, seed: int) -> None:
        self._whole, self._partition, self._seed = source, partition, seed
        self._num_parts, self._num_views = num_parts, num_views

    def evaluate(self) -> Series:
        """Give the parts of view after view; parts without nodes are left out."""
        views = [(view, number) for view in range(self._num_views) for number in self._filled(view)]
        # One view at a time: they are taken in order.
        cut = lru_cache(1)(lambda view: Cut(self._whole.graph, self._draw(view), self._num_parts))

        def make(place: int) -> Batch:
            view, number = views[place]
            return self._whole.batch(cut(view).subgraph(number))

        return Series(len(views), make)

    def _draw(self, view: int) -> Tensor:
        return self._partition.draw(np.random.default_rng((self._seed, _EVALUATION, view)), self._num_parts)

    def _filled(self, view: int) -> list[int]:
        found: list[int] = torch.unique(self._draw(view)).tolist()
        return found


class Training(Protocol):
    """The training half of `Batches`."""

    def __len__(self) -> int:
        """Steps in an epoch."""
        ...

    def train(self, epoch: int) -> Iterable[Batch]:
        """The training batches of an epoch."""
        ...


class Evaluation(Protocol):
    """The evaluating half of `Batches`."""

    def evaluate(self) -> Iterable[Batch]:
        """Batches that cover every row of every split, equally often."""
        ...


class NodeBatches:
    """Batches whose training comes from one place and whose evaluation comes from another.

    Args:
        training: the steps of an epoch.
        evaluation: the evaluation after an epoch.
        final: the evaluation of the weights that were selected; ``None``: there is no other.
    """

    def __init__(self, training: Training, evaluation: Evaluation, final: Evaluation | None = None) -> None:
        self.training, self.evaluation = training, evaluation
        self.final = None if final is None else NodeBatches(training, final)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.training)

    def train(self, epoch: int) -> Iterable[Batch]:
        """Give the training batches of an epoch."""
        return self.training.train(epoch)

    def evaluate(self) -> Iterable[Batch]:
        """Give the batches of an evaluation."""
        return self.evaluation.evaluate()
