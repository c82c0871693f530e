"""Partitions the nodes at random, independently for every node and every epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..subgraphs import GraphSource
from .parts import PartBatches, Partition
from .sampler import Sampler


class RandomPartition:
    """Assigns each node to a part independently and uniformly: parts have about N/P nodes and E/P^2 edges.

    Args:
        num_nodes: N.

    Source: the training batches of the paper's ogbn-proteins code; Li et al. 2021 (arXiv:2106.07476).
    """

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes

    def __call__(self, rng: np.random.Generator, num_parts: int) -> Tensor:
        """Draw the part of every node, independently."""
        return torch.from_numpy(rng.integers(0, num_parts, self.num_nodes, dtype=np.int32))


def _make(source: GraphSource, partition: Partition, seed: int, *, num_parts: int) -> PartBatches:
    return PartBatches(source, partition, num_parts, seed)


SAMPLER = Sampler(make=_make, needs={"num_parts": "10"})
