"""Partitions a graph into METIS clusters once, and combines the shuffled clusters into parts in every epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from ...node_order import metis_clusters
from ..batch import Batch, Series
from ..subgraphs import GraphSource
from .parts import PartBatches, Partition
from .sampler import Sampler


class ClusterPartition:
    """A partition into parts of several shuffled clusters; edges between the clusters of a part are kept.

    Args:
        clusters: [N] int64, the cluster of each node, in ``0..num_clusters-1``.
        num_clusters: number of clusters, including empty ones.

    Source: Chiang et al. 2019, Cluster-GCN (arXiv:1905.07953), stochastic multiple partitions.
    """

    def __init__(self, clusters: Tensor, num_clusters: int) -> None:
        self.clusters, self.num_clusters = clusters, num_clusters

    def __call__(self, rng: np.random.Generator, num_parts: int) -> Tensor:
        """Assign clusters to parts at random; the numbers of clusters of two parts differ by at most one."""
        part = np.empty(self.num_clusters, np.int64)
        part[rng.permutation(self.num_clusters)] = np.arange(self.num_clusters) * num_parts // self.num_clusters
        return torch.from_numpy(part)[self.clusters]


def enhanced(graph: Graph, diagonal: float) -> Graph:
    """Add self loops and weigh them, so that a mean over the neighbours is ``(A' + diagonal diag(A')) x``.

    ``A' = (D + I)^-1 (A + I)``, where D counts the other incoming edges; loops that exist already are replaced.

    Args:
        graph: without weights.
        diagonal: lambda.
    Source: Chiang et al. 2019, Cluster-GCN (arXiv:1905.07953), diagonal enhancement, equations 10 and 11.
    """
    looped = graph.self_looped
    weight = torch.where(looped.indices == looped.destinations, 1 + diagonal, 1.0)
    return replace(looped, edge_weight=weight, norm_degree=looped.in_degree.float())


class EnhancedBatches:
    """The same batches, with graphs whose diagonal is `enhanced`; the batches must have no edge features."""

    def __init__(self, batches: PartBatches, diagonal: float) -> None:
        self._batches, self._diagonal = batches, diagonal

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self._batches)

    def train(self, epoch: int) -> Series:
        """Yield the batches of an epoch."""
        parts = self._batches.train(epoch)

        def make(number: int) -> Batch:
            batch = next(parts.take([number]))
            return replace(batch, graph=enhanced(batch.graph, self._diagonal))

        return Series(len(parts), make)


def _partition(source: GraphSource, *, num_parts: int, **_: object) -> ClusterPartition:
    clusters = metis_clusters(source.graph.edge_index.numpy(), source.graph.num_nodes, num_parts)
    return ClusterPartition(torch.from_numpy(clusters), num_parts)


def _make(
    source: GraphSource,
    partition: Partition,
    seed: int,
    *,
    num_parts: int,
    parts_per_batch: int | None = None,
    diagonal: float | None = None,
) -> PartBatches | EnhancedBatches:
    batches = PartBatches(source, partition, -(-num_parts // (parts_per_batch or 1)), seed)
    if diagonal is None:
        return batches
    if source.dataset.edge_attr is not None:
        raise ValueError(
            f"loader.diagonal={diagonal} gives every node a loop without features, but the edges of "
            f"{source.dataset.name} carry some; leave loader.diagonal out, or choose dataset.edge_features=false"
        )
    return EnhancedBatches(batches, diagonal)


SAMPLER = Sampler(make=_make, partition=_partition, needs={"num_parts": "1500"}, takes=("parts_per_batch", "diagonal"))
