"""Neighbour sampling: draws incoming edges of training nodes hop by hop; a batch has the drawn edges and no others.

Vectorised over the incoming edges (CSR) of a hop. It reads only what it draws, so the arrays of the graph may be
memory-mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch, Series
from ..induced import Subgraph, subgraph_of
from ..subgraphs import GraphSource
from .parts import Partition
from .sampler import Sampler

_Ints = NDArray[np.integer]


def sample_neighbors(
    indptr: _Ints,
    indices: _Ints,
    seeds: NDArray[np.int64],
    fanouts: Sequence[int],
    rng: np.random.Generator,
    *,
    replace: bool = False,
    by_hop: bool = False,
) -> Subgraph:
    """Sample the neighbourhood of seed nodes, with one hop per fanout.

    In hop h, ``fanouts[h]`` incoming edges are drawn for every node that was first reached in hop h-1 (a seed in the
    first hop), so an edge into a node of degree d is drawn with probability ``min(fanout / d, 1)``. The sources not
    reached before are the nodes of the next hop. A node draws once; those of the last hop draw nothing.

    Args:
        indptr: [N+1] integer, where the incoming edges of each node begin.
        indices: [E] integer, the source of each edge, ascending within a destination. Both may be memory-mapped.
        seeds: [s] int64, each once.
        fanouts: edges per node in each hop, at least 1; -1: all.
        rng: random generator; equal generators give equal subgraphs.
        replace: draw each edge independently of the others, so that one may occur several times: ``fanout`` edges of
            every node that has any. Otherwise every set of ``fanout`` edges is equally probable, and a node with no
            more than that keeps all of them.
        by_hop: order the nodes by hop, seeds first, instead of ascending. The same nodes and edges are drawn.
    Returns: the seeds, the sources and the drawn edges.
    Cost: proportional to the drawn edges, of which each also takes ``fanout / 2`` comparisons without replacement; one
        sort of their positions (two ``by_hop``); an int32 vector of length N. The degree costs nothing unless all edges
        are requested.
    """
    place = np.zeros(len(indptr) - 1, np.int32)
    place[seeds] = 1
    newest, hops = seeds, [(seeds, np.zeros(len(seeds), np.int64), np.empty(0, np.int64))]
    for fanout in fanouts:
        start = indptr[newest].astype(np.int64, copy=False)
        edges, counts = _draw(start, indptr[newest + 1] - start, fanout, rng, replace=replace)
        hops.append((newest, counts, edges))
        newest = _first_seen(indices[edges], place)
    # The nodes of the last hop have no drawn edges; those of earlier ones stand in `hops`.
    reached, drawn = [*(hop[0] for hop in hops[1:]), newest], [hop[2] for hop in hops]
    nodes = np.concatenate([_sorted([hop]) for hop in reached]) if by_hop else _sorted(reached)
    place[nodes] = np.arange(len(nodes), dtype=np.int32)
    degree = np.zeros(len(nodes), np.int64)
    for own, counts, _ in hops:
        degree[place[own]] += counts
    edges = np.concatenate([_sorted([hop]) for hop in drawn]) if by_hop else _sorted(drawn)
    sources, sizes = place[indices[edges]], None
    if by_hop:
        sources, edges = _by_source(sources, edges, degree)
        sizes = tuple(np.cumsum([len(hop) for hop in reached]).tolist())
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(degree)])
    tensor = torch.from_numpy
    return subgraph_of(tensor(ends), tensor(sources), tensor(nodes), tensor(edges), sizes)


def _by_source(
    sources: NDArray[np.int32], edges: NDArray[np.int64], degree: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Sort the edges into each node by their sources' places."""
    key = np.repeat(np.arange(len(degree)) * len(degree), degree) + sources
    order = torch.from_numpy(key).sort(stable=True).indices.numpy()
    return sources[order], edges[order]


def _sorted(numbers: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    # A radix sort, three times as fast as numpy's.
    ascending: NDArray[np.int64] = torch.from_numpy(np.concatenate(numbers)).sort().values.numpy()
    return ascending


def _first_seen(sources: _Ints, place: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the sources whose ``place`` is 0, each once, and mark their places."""
    fresh: NDArray[np.int64] = sources[place[sources] == 0].astype(np.int64, copy=False)
    # Of assignments to one place the last remains, so exactly one occurrence of a source finds its own number.
    number = np.arange(1, len(fresh) + 1, dtype=np.int32)
    place[fresh] = number
    first: NDArray[np.int64] = fresh[place[fresh] == number]
    return first


def _draw(
    start: NDArray[np.int64], degree: NDArray[np.int64], fanout: int, rng: np.random.Generator, *, replace: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw incoming edges of nodes.

    Args:
        start: [n] position of the first edge of each node.
        degree: [n] edges of each node.
    Returns: positions of the drawn edges, in any order; [n] how many each node draws.
    """
    if fanout == -1:
        return _all_of(start, degree), degree
    if replace:
        counts = np.where(degree > 0, fanout, 0)
        of_edge = np.repeat(degree, counts)
        return np.repeat(start, counts) + _below(of_edge, rng), counts
    many = degree > fanout
    drawn = start[many] + _distinct(degree[many], fanout, rng)
    few = _all_of(start[~many], degree[~many])
    return np.concatenate([few, drawn.reshape(-1)]), np.minimum(degree, fanout)


def _all_of(start: NDArray[np.int64], degree: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(start - (np.cumsum(degree) - degree), degree) + np.arange(degree.sum())


def _below(bound: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a number from 0 to below each bound; probabilities differ by 2^-53 at most."""
    return (rng.random(bound.shape) * bound).astype(np.int64)


def _distinct(below: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``count`` distinct numbers below each bound, every set with equal probability.

    Args:
        below: [r] int64, each above ``count``.
        count: k.
    Returns: [k, r] int64.
    Cost: k^2 / 2 comparisons per bound, independent of its value.
    Source: Bentley and Floyd 1987, A sample of brilliance (Communications of the ACM 30, 9): algorithm F2.
    """
    drawn = np.empty((count, below.size), np.int64)
    for row in range(count):
        last = below - count + row
        number = _below(last + 1, rng)
        taken = (drawn[:row] == number).any(0)
        drawn[row] = np.where(taken, last, number)
    return drawn


class SampledSource(Protocol):
    """A graph that neighbourhoods are sampled from: a `GraphSource`, or one on disk."""

    @property
    def incoming(self) -> tuple[_Ints, _Ints]:
        """``indptr`` [N+1] and ``indices`` [E] of the incoming edges."""
        ...

    @property
    def train_nodes(self) -> Tensor:
        """[n] int64, the training nodes."""
        ...

    def batch(self, subgraph: Subgraph, rows: dict[str, Tensor] | None = None) -> Batch:
        """Make a batch of a subgraph."""
        ...


class NeighborBatches:
    """Batches of some training nodes and their sampled neighbourhood; the loss covers these training nodes only.

    A batch has the edges that `sample_neighbors` draws. Means, and the normalisation of GCN, are those of this sampled
    graph. Every layer of a network works on the same sample, whatever the number of its layers and of hops; or, with
    ``layer_wise``, on the part of it that the later layers need, which gives the same logits.

    Args:
        source: the graph.
        batch_size: training nodes per step; the last step of an epoch may have fewer.
        fanouts: sampled edges per node in each hop, the first hop first; -1: all.
        seed: seed of the order of nodes and of the samples, 0 or above.
        replace: as in `sample_neighbors`.
        layer_wise: whether the nodes are ordered by hop, and the batch says so in ``hops``; only the training nodes are
            output rows then.
    Cost: per step, `sample_neighbors` and gathers of its nodes and edges.
    Source: Hamilton et al. 2017, GraphSAGE (arXiv:1706.02216), with one sample for all layers.
    """

    def __init__(
        self,
        source: SampledSource,
        batch_size: int,
        fanouts: Sequence[int],
        seed: int,
        *,
        replace: bool = False,
        layer_wise: bool = False,
    ) -> None:
        self._source, self._batch_size, self._fanouts, self._seed = source, batch_size, tuple(fanouts), seed
        self._replace, self._layer_wise = replace, layer_wise
        self._train = source.train_nodes

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
            seeds = steps[step]
            sample = sample_neighbors(
                *self._source.incoming,
                seeds.numpy(),
                self._fanouts,
                rng,
                replace=self._replace,
                by_hop=self._layer_wise,
            )
            size = seeds.numel() if self._layer_wise else sample.nodes.numel()
            batch = self._source.batch(sample, {"train": torch.searchsorted(sample.nodes[:size], seeds)})
            if not self._layer_wise:
                return batch
            return changed(batch, y=batch.y[:size].clone(), ids=sample.nodes[:size].clone(), hops=sample.hops)

        return Series(len(self), make)


def _make(
    source: GraphSource,
    partition: Partition,
    seed: int,
    *,
    fanouts: Sequence[int],
    batch_size: int,
    with_replacement: bool,
    layer_wise: bool,
) -> NeighborBatches:
    return NeighborBatches(source, batch_size, fanouts, seed, replace=with_replacement, layer_wise=layer_wise)


SAMPLER = Sampler(
    make=_make,
    needs={"fanouts": "[15, 10, 5]", "batch_size": "1024"},
    takes=("with_replacement", "layer_wise"),
)
