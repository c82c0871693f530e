"""The neighbourhood of some nodes, hop by hop, with at most so many neighbours of each: which nodes a step needs.

Written over the incoming edges (CSR) a whole hop at a time; no compiled extension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from ..induced import ranges


def sample_neighbors(graph: Graph, seeds: Tensor, fanouts: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Collect the sources from which messages reach the seeds within as many hops as there are fanouts.

    In hop h every node that was first reached in hop h-1 draws ``fanouts[h]`` of its incoming edges, uniformly and
    without replacement, and all of them where it has no more; the sources that were not reached before are the nodes
    of the next hop.

    Args:
        graph: the whole, one graph.
        seeds: [s] int64, each once.
        fanouts: edges that a node draws in each hop, at least 1; -1 takes all.
        rng: where the draws come from; equal generators give equal nodes.
    Returns: [n] int64, ascending: seeds and sources.
    Cost: per hop, its edges that were taken times the fanout; a vector of N booleans. High degrees cost nothing unless
        all edges are wanted.
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
    """Positions of up to ``fanout`` incoming edges of each node, in any order."""
    if fanout == -1:
        return ranges(indptr, nodes)[0]
    degree = indptr[nodes + 1] - indptr[nodes]
    few, many = nodes[degree <= fanout], nodes[degree > fanout]
    drawn = _distinct((indptr[many + 1] - indptr[many]).numpy(), fanout, rng)
    return torch.cat([ranges(indptr, few)[0], (indptr[many][:, None] + torch.from_numpy(drawn)).reshape(-1)])


def _distinct(below: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` different numbers below each bound, every set with equal probability.

    Args:
        below: [r] int64, each above ``count``.
        count: k.
    Returns: [r, k] int64.
    Cost: k^2 comparisons for each bound, however large it is.
    Source: Bentley and Floyd 1987, A sample of brilliance (Communications of the ACM 30, 9): algorithm F2.
    """
    drawn = np.empty((below.size, count), np.int64)
    for column in range(count):
        last = below - count + column
        number = rng.integers(0, last + 1)
        taken = (drawn[:, :column] == number[:, None]).any(1)
        drawn[:, column] = np.where(taken, last, number)
    return drawn
