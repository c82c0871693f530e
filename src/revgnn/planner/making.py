"""Measures the memory for making batches on small graphs, without a model.

Parts, clusters and neighbourhoods are prefetched during the steps. Their memory is linear in the graph's sizes, so two
graphs of one shape determine it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..data import Batches, Dataset, FullBatch, LoaderConfig, NodeBatches, make_batches
from ..data.induced import EDGES_AT_ONCE
from ..data.sampling.clusters import ClusterPartition
from ..data.sampling.parts import PartBatches, Partition
from ..data.subgraphs import GraphSource
from ..measure import StepMemory, tensor_bytes
from .step_size import is_sampled, kept_share, steps_by_parts
from .synthetic import GraphShape, made_up

EDGES = 2**17
"""Approximate number of edges of the larger graph."""
LEAST_NODES = 2
"""Of a part of the smaller graph; for "neighbor", training nodes of a step."""
READING = 0.05
"""Temporary memory for reading a batch from disk, as a measured share of the batch."""


@dataclass(frozen=True)
class BatchMemory:
    """Memory for making batches, in bytes."""

    batch: float
    """One batch."""
    first: float
    """Peak while an epoch's first batch is made, including the batch."""
    later: float
    """Peak while a later batch is made, without the batch."""
    kept: float
    """Memory kept for the whole graph during an epoch."""


class EvenPartition:
    """A partition into equal runs of consecutive nodes, so that the measurement is deterministic."""

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes

    def __call__(self, rng: np.random.Generator, num_parts: int) -> Tensor:
        """Return the part of every node; no random numbers are drawn."""
        return torch.from_numpy((np.arange(self.num_nodes) * num_parts // self.num_nodes).astype(np.int32))


@lru_cache(maxsize=64)
def batch_memory(loader: LoaderConfig, shape: GraphShape) -> BatchMemory:
    """Measure the memory for making the batches of a node-level data set.

    Args:
        loader: the loader's configuration; not the kind "full", which makes no batches.
        shape: shape of the data set.
    Cost: batches of two graphs of about `EDGES` edges at most, a fraction of a second.
    """
    if is_sampled(loader):
        per_step: float = loader.saint.budget if loader.batch_size is None else loader.batch_size
    else:
        per_step = shape.nodes / steps_by_parts(loader, shape)
    factor = max(EDGES / max(shape.edges, 1), 2 * LEAST_NODES / per_step)
    if factor >= 1.0:
        found = _measured(loader, shape, 1.0)
    else:
        small, large = (vars(_measured(loader, shape, size)) for size in (factor / 2, factor))
        times = (1.0 - factor / 2) / (factor / 2)
        found = BatchMemory(**{name: size + (large[name] - size) * times for name, size in small.items()})
    if loader.kind == "ondisk":
        # Parts are read as they lie on disk, and of the whole graph nothing is kept.
        return BatchMemory(batch=found.batch, first=found.batch, later=READING * found.batch, kept=0.0)
    return found


def _measured(loader: LoaderConfig, shape: GraphShape, factor: float) -> BatchMemory:
    """Measure the making of an epoch's first batches on a graph whose shape is scaled by a factor."""
    data = partitioned_data(loader, shape, shape.scaled(factor))
    at_once = max(round(EDGES_AT_ONCE * factor), 1)
    batches = partitioned_batches(scaled_loader(loader, factor), shape, data, edges_at_once=at_once)
    memory = StepMemory("cpu")
    memory()
    memory.phase("first")
    epoch = iter(batches.train(1))
    made = [next(epoch)]
    memory.phase("later")
    # An epoch of one step makes no second batch.
    made += islice(epoch, 1)
    memory.close()
    first, later = ([size for size, _ in memory.allocation_trace.get(phase, ())] for phase in ("first", "later"))
    batch, there = tensor_bytes(made[0].tensors()), first[-1]
    another = max(later) - there - batch if later else 0
    return BatchMemory(batch=batch, first=max(first), later=another, kept=there - batch)


def scaled_loader(loader: LoaderConfig, factor: float) -> LoaderConfig:
    """Scale the training nodes of a step, or what a subgraph is sampled by; few subgraphs normalise it."""
    if loader.kind == "saint":
        budget = max(round(loader.saint.budget * factor), 1)
        return replace(loader, saint=replace(loader.saint, budget=budget, coverage=1))
    if loader.batch_size is None:
        return loader
    return replace(loader, batch_size=max(round(loader.batch_size * factor), 1))


def partitioned_data(loader: LoaderConfig, shape: GraphShape, small: GraphShape) -> Dataset:
    """Make a synthetic data set for `partitioned_batches`.

    Args:
        loader: not the kind "full".
        shape: of the whole data set; the share of its edges within parts is kept.
        small: shape of the synthetic data set.
    """
    if is_sampled(loader):
        return made_up(small)
    # What METIS would make of a random graph is nothing like its clusters: a batch is a run of nodes instead.
    return made_up(small, runs=steps_by_parts(loader, shape), kept=kept_share(loader, shape))


def partitioned_batches(
    loader: LoaderConfig, shape: GraphShape, data: Dataset, *, edges_at_once: int = EDGES_AT_ONCE
) -> Batches:
    """Return the batches of such a data set, without prefetching.

    Args:
        loader, shape: as for `partitioned_data`.
        data: the result of `partitioned_data`.
        edges_at_once: as in `PartBatches`.
    """
    if is_sampled(loader):
        kind = "neighbor" if loader.kind == "ondisk" else loader.kind
        return make_batches(data, None, 0, replace(loader, kind=kind, prefetch=0))
    parts, source = steps_by_parts(loader, shape), GraphSource(data)
    partition: Partition = EvenPartition(data.num_nodes)
    if loader.kind == "clusters":
        # METIS has looked at the graph, which keeps what it derived, before the first batch is made.
        assert source.graph.edge_index.size(1) == data.num_edges
        partition = ClusterPartition(partition(np.random.default_rng(0), parts).long(), parts)
    training = PartBatches(source, partition, parts, 0, edges_at_once=edges_at_once)
    return NodeBatches(training, FullBatch(data, source.graph).evaluate)
