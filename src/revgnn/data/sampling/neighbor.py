"""Neighbour sampling: samples incoming edges of training nodes hop by hop, and makes batches of the subgraphs.

Vectorised over the incoming edges (CSR) of a hop, without a compiled extension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from ..batch import Batch, Series
from ..induced import induce, ranges
from ..subgraphs import GraphSource
from .parts import Partition
from .sampler import Sampler


def sample_neighbors(graph: Graph, seeds: Tensor, fanouts: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Sample the neighbourhood of seed nodes, with one hop per fanout.

    In hop h, ``fanouts[h]`` incoming edges are sampled for every node that was first reached in hop h-1, uniformly and
    without replacement, or all edges if the node has no more. The sources not reached before are the nodes of the next
    hop.

    Args:
        graph: the whole graph.
        seeds: [s] int64, each once.
        fanouts: sampled edges per node in each hop, at least 1; -1: all.
        rng: random generator; equal generators give equal nodes.
    Returns: [n] int64, ascending: seeds and sources.
    Cost: per hop, sampled edges times the fanout; a vector of N booleans. High degrees cost nothing unless all edges
        are requested.
    """
    indptr = graph.indptr.long()
    reached = torch.zeros(graph.num_nodes, dtype=torch.bool)
    reached[seeds] = True
    newest = seeds
    for fanout in fanouts:
        sources = graph.indices[_draw_edges(indptr, newest, fanout, rng)].long()
        newest = torch.unique(sources[~reached[sources]])
        reached[newest] = True
    return reached.nonzero()[:, 0]


def _draw_edges(indptr: Tensor, nodes: Tensor, fanout: int, rng: np.random.Generator) -> Tensor:
    """Sample the positions of up to ``fanout`` incoming edges of each node, in any order."""
    if fanout == -1:
        return ranges(indptr, nodes)[0]
    degree = indptr[nodes + 1] - indptr[nodes]
    few, many = nodes[degree <= fanout], nodes[degree > fanout]
    drawn = _distinct((indptr[many + 1] - indptr[many]).numpy(), fanout, rng)
    return torch.cat([ranges(indptr, few)[0], (indptr[many][:, None] + torch.from_numpy(drawn)).reshape(-1)])


def _distinct(below: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` distinct numbers below each bound, every set with equal probability.

    Args:
        below: [r] int64, each above ``count``.
        count: k.
    Returns: [r, k] int64.
    Cost: k^2 comparisons per bound, independent of its value.
    Source: Bentley and Floyd 1987, A sample of brilliance (Communications of the ACM 30, 9): algorithm F2.
    """
    drawn = np.empty((below.size, count), np.int64)
    for column in range(count):
        last = below - count + column
        number = rng.integers(0, last + 1)
        taken = (drawn[:, :column] == number[:, None]).any(1)
        drawn[:, column] = np.where(taken, last, number)
    return drawn


class NeighborBatches:
    """Batches of some training nodes and their sampled neighbourhood; the loss covers these training nodes only.

    A batch is the induced subgraph of the sampled nodes.

    Args:
        whole: the graph.
        batch_size: training nodes per step; the last step of an epoch may have fewer.
        fanouts: sampled edges per node in each hop, the first hop first; -1: all.
        seed: seed of the order of nodes and of the samples, 0 or above.
    Cost: per step, `sample_neighbors` and `induce`.
    """

    def __init__(self, source: GraphSource, batch_size: int, fanouts: Sequence[int], seed: int) -> None:
        self._source, self._batch_size, self._fanouts, self._seed = source, batch_size, tuple(fanouts), seed
        self._train = source.dataset.splits["train"]

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-self._train.numel() // self._batch_size)

    def train(self, epoch: int) -> Series:
        """Yield batches of all training nodes in the epoch's random order."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._train.numel())
        steps = torch.split(self._train[torch.from_numpy(order)], self._batch_size)

        def make(step: int) -> Batch:
            # Count from 1, because the stream of (seed, epoch, 0) equals that of (seed, epoch).
            rng = np.random.default_rng((self._seed, epoch, 1 + step))
            nodes = sample_neighbors(self._source.graph, steps[step], self._fanouts, rng)
            rows = {"train": torch.searchsorted(nodes, steps[step])}
            return self._source.batch(induce(self._source.graph, nodes), rows)

        return Series(len(self), make)


def _make(
    source: GraphSource, partition: Partition, seed: int, *, fanouts: Sequence[int], batch_size: int
) -> NeighborBatches:
    return NeighborBatches(source, batch_size, fanouts, seed)


SAMPLER = Sampler(make=_make, needs={"fanouts": "[15, 10, 5]", "batch_size": "1024"})
