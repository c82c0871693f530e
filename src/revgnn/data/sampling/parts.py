"""Parts of a partition as batches: one part a training step, or every part of several partitions in an evaluation

A partition is [N] integers, the part of each node; it is drawn from a generator, so whoever holds the seed holds the
partition. Every batch is a pure function of (seed, epoch, step): a run that resumes in the middle of an epoch sees the
batches that it would have seen.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch, Series
from ..induced import EDGES_AT_ONCE, Cut
from ..subgraphs import GraphSource

_EVALUATION = 0
"""Stands where training has its epoch, which counts from 1."""


class Partition(Protocol):
    """Where partitions of N nodes come from."""

    def draw(self, rng: np.random.Generator, num_parts: int) -> Tensor:
        """Give [N] integers in ``0..num_parts-1``; a part may come out empty."""
        ...


class PartBatches:
    """A partition of the nodes, drawn anew in every epoch; its parts are the training steps.

    A part without training nodes is left out: there is nothing to learn from it.

    Args:
        whole: the graph.
        partition: where partitions come from.
        num_parts: parts of an epoch.
        seed: of the partitions, 0 or above.
        edges_at_once: edges that one round of that pass looks at, so that its temporaries do not grow with the graph.
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
        """Steps in an epoch, those of parts without training nodes included."""
        return self._num_parts

    def train(self, epoch: int) -> Series:
        """Give the parts of an epoch."""
        part = self._partition.draw(np.random.default_rng((self._seed, epoch)), self._num_parts)
        parts = torch.unique(part[self._is_train]).tolist()
        cut = cache(lambda: Cut(self._source.graph, part, self._num_parts, edges_at_once=self._edges_at_once))
        return Series(len(parts), lambda number: self._source.batch(cut().subgraph(parts[number])))


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
        self._source, self._partition, self._seed = source, partition, seed
        self._num_parts, self._num_views = num_parts, num_views

    def evaluate(self) -> Series:
        """Give the parts of view after view; parts without nodes are left out."""
        views = [(view, number) for view in range(self._num_views) for number in self._filled(view)]
        # One view at a time: they are taken in order.
        cut = lru_cache(1)(lambda view: Cut(self._source.graph, self._draw(view), self._num_parts))

        def make(place: int) -> Batch:
            view, number = views[place]
            return self._source.batch(cut(view).subgraph(number))

        return Series(len(views), make)

    def _draw(self, view: int) -> Tensor:
        return self._partition.draw(np.random.default_rng((self._seed, _EVALUATION, view)), self._num_parts)

    def _filled(self, view: int) -> list[int]:
        found: list[int] = torch.unique(self._draw(view)).tolist()
        return found
