"""Makes batches from partitions: one part per training step, or all parts of several partitions to evaluate.

A partition is a vector of [N] integers, the part of each node, drawn from a seeded generator. Every batch is a pure
function of (seed, epoch, step), so a run that resumes within an epoch gets the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch, Series
from ..induced import EDGES_AT_ONCE, Cut
from ..subgraphs import GraphSource

_EVALUATION = 0
"""Number that evaluations use instead of an epoch in their seeds; training epochs count from 1."""


Partition = Callable[[np.random.Generator, int], Tensor]
"""``(rng, num_parts) -> parts``: draws the part of each node, [N] in ``0..num_parts-1``; some may be empty."""


class PartBatches:
    """Training batches from a new partition of the nodes in every epoch, one part per step.

    Parts without training nodes are skipped.

    Args:
        whole: the graph.
        partition: draws the partitions.
        num_parts: parts per epoch.
        seed: seed of the partitions, 0 or above.
        edges_at_once: edges that the pass processes at a time, which bounds its temporary memory.
    Cost: per epoch, one pass over the edges; per step, gathers of one part.
    """

    def __init__(
        self,
        source: GraphSource,
        partition: Partition,
        num_parts: int,
        seed: int,
        *,
        edges_at_once: int = EDGES_AT_ONCE,
    ) -> None:
        self._source, self._partition, self._num_parts, self._seed = source, partition, num_parts, seed
        self._edges_at_once = edges_at_once
        self._is_train = source.split == list(source.dataset.splits).index("train")

    def __len__(self) -> int:
        """Steps in an epoch, including parts without training nodes."""
        return self._num_parts

    def train(self, epoch: int) -> Series:
        """Yield the parts of an epoch."""
        part = self._partition(np.random.default_rng((self._seed, epoch)), self._num_parts)
        parts = torch.unique(part[self._is_train]).tolist()
        cut = cache(lambda: Cut(self._source.graph, part, self._num_parts, edges_at_once=self._edges_at_once))
        return Series(len(parts), lambda number: self._source.batch(cut().subgraph(parts[number])))


class Views:
    """Evaluation batches from V partitions (views), part by part, so that every node occurs once per view.

    The partitions are the same in every evaluation. The evaluation averages the V logits of a node by ``ids``.

    Args:
        whole: the graph.
        partition: draws the partitions.
        num_parts: parts per view; the memory of an evaluation is that of one part.
        num_views: V.
        seed: seed of the partitions, 0 or above.
    Cost: per view, two draws of its partition, one pass over the edges and a gather of the kept edges.
    """

    def __init__(self, source: GraphSource, partition: Partition, num_parts: int, num_views: int, seed: int) -> None:
        self._source, self._partition, self._seed = source, partition, seed
        self._num_parts, self._num_views = num_parts, num_views

    def evaluate(self) -> Series:
        """Yield the parts of every view; empty parts are skipped."""
        views = [(view, number) for view in range(self._num_views) for number in self._filled(view)]
        # Views are requested in order, so one is kept at a time.
        cut = lru_cache(1)(lambda view: Cut(self._source.graph, self._draw(view), self._num_parts))

        def make(place: int) -> Batch:
            view, number = views[place]
            return self._source.batch(cut(view).subgraph(number))

        return Series(len(views), make)

    def _draw(self, view: int) -> Tensor:
        return self._partition(np.random.default_rng((self._seed, _EVALUATION, view)), self._num_parts)

    def _filled(self, view: int) -> list[int]:
        found: list[int] = torch.unique(self._draw(view)).tolist()
        return found
