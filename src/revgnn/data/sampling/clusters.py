"""Partitions a graph into METIS clusters once, and combines the shuffled clusters into parts in every epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...node_order import metis_clusters
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


def _partition(source: GraphSource, *, num_parts: int, parts_per_batch: int | None = None) -> ClusterPartition:
    return ClusterPartition(metis_clusters(source.graph.edge_index, source.graph.num_nodes, num_parts), num_parts)


def _make(
    source: GraphSource, partition: Partition, seed: int, *, num_parts: int, parts_per_batch: int | None = None
) -> PartBatches:
    return PartBatches(source, partition, -(-num_parts // (parts_per_batch or 1)), seed)


SAMPLER = Sampler(make=_make, partition=_partition, needs={"num_parts": "1500"}, takes=("parts_per_batch",))
