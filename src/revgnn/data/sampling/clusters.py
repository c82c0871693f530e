"""Partitions a graph into METIS clusters once, and combines the shuffled clusters into parts in every epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
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


def metis_clusters(graph: Graph, num_clusters: int) -> Tensor:
    """Partition a graph into clusters of about equal size with few edges between them.

    Direction, duplicate edges and self loops are ignored. METIS uses its default seed: the same graph gives the same
    clusters with the same version of METIS.

    Args:
        graph: the whole graph.
        num_clusters: at least 1; if it is above N, some clusters are empty.
    Returns: [N] int64 in ``0..num_clusters-1``.
    Raises: ModuleNotFoundError: pymetis is not installed.
    Cost: a sort of 2E keys, and METIS itself: seconds for a million edges.
    Source: Karypis and Kumar 1998, METIS, through pymetis.
    """
    try:
        import pymetis
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "clusters are cut by METIS, which needs the package pymetis, and it is not installed: "
            "pip install 'revgnn[metis]', or choose kind='random'"
        ) from missing
    n = graph.num_nodes
    if num_clusters >= n:
        # METIS would combine nodes and leave other clusters empty.
        return torch.arange(n)
    if num_clusters == 1:
        return torch.zeros(n, dtype=torch.int64)
    src, dst = graph.edge_index
    src, dst = src[src != dst], dst[src != dst]
    key = torch.unique(torch.cat([dst * n + src, src * n + dst]))
    counts = torch.bincount(key // n, minlength=n)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    _, membership = pymetis.part_graph(num_clusters, pymetis.CSRAdjacency(indptr.numpy(), (key % n).numpy()))
    return torch.as_tensor(np.asarray(membership), dtype=torch.int64)


def _partition(source: GraphSource, *, num_parts: int, parts_per_batch: int | None = None) -> ClusterPartition:
    return ClusterPartition(metis_clusters(source.graph, num_parts), num_parts)


def _make(
    source: GraphSource, partition: Partition, seed: int, *, num_parts: int, parts_per_batch: int | None = None
) -> PartBatches:
    return PartBatches(source, partition, -(-num_parts // (parts_per_batch or 1)), seed)


SAMPLER = Sampler(make=_make, partition=_partition, needs={"num_parts": "1500"}, takes=("parts_per_batch",))
