"""GraphSAINT: training on subgraphs of sampled nodes, weighted so that losses and aggregations are unbiased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...graph import Graph
from ..batch import Batch, Series
from ..induced import induce
from ..subgraphs import GraphSource
from .parts import Partition
from .sampler import Sampler

_PRESAMPLING = 0
"""Number that pre-sampling uses instead of an epoch in its seeds; training epochs count from 1."""


@dataclass(frozen=True, kw_only=True)
class SaintOptions:
    """Options of GraphSAINT.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import SaintOptions
        >>> loader = revgnn.LoaderConfig(kind="saint", saint=SaintOptions(sampler="node", budget=20))
    """

    sampler: Literal["node", "edge", "walk"] = "walk"
    """What is drawn for a step, with replacement; the subgraph has every edge between the drawn nodes. "node": nodes,
    with probabilities that grow with their influence; "edge": edges, with probabilities that fall with the degrees of
    their ends; "walk": random walks from uniform roots, against the direction of the edges."""
    budget: int = 2000
    """Nodes, edges, or roots of walks that are drawn for a step."""
    walk_length: int = 2
    """For "walk": steps of each walk."""
    steps: int | None = None
    """Steps of an epoch; ``None``: the number of nodes over the mean size of a subgraph."""
    coverage: int = 50
    """Pre-sampling draws subgraphs until they have this number times N nodes, to estimate the normalisation."""
    aggr_norm: bool = True
    """Whether messages are divided by the probability that their edge is in a subgraph with its destination. It needs a
    convolution that applies weights (gcn, sage); without it, sums and means are those of the subgraph."""

    def __post_init__(self) -> None:
        for name in ("budget", "walk_length", "coverage", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"loader.saint.{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class Normalization:
    """The weights that make losses and aggregations of subgraphs unbiased."""

    mean_nodes: float
    """Mean number of nodes of a subgraph."""
    loss: Tensor
    """[N] float32: 1 over (probability that a subgraph has the node, times the number of training labels)."""
    message: Tensor
    """[E] float32: 1 over the probability that a subgraph with the destination of the edge has the edge."""
    degree: Tensor
    """[N] float32: the summed weights of the incoming edges of each node in the whole graph."""


NodeSampler = Callable[[np.random.Generator], Tensor]
"""Draws the nodes of a subgraph: int64, ascending, each once."""


def node_sampler(graph: Graph, options: SaintOptions) -> NodeSampler:
    """Return the sampler of a whole graph.

    With d incoming edges of a node: "node" draws node u in proportion to ``sum_v 1 / (d_v + 1)^2`` over u and its
    outgoing edges u -> v, the squared norm of its column of the mean-normalised adjacency with self loops. "edge" draws
    an edge u -> v in proportion to ``1/d_u + 1/d_v``, where d is at least 1; a node without edges has a loop.

    Cost: O(N + E) once; then ``budget`` draws, each a binary search, or ``walk_length`` gathers.
    """
    indptr, indices = graph.indptr.numpy(), graph.indices.numpy()
    budget, degree = options.budget, graph.in_degree.numpy()
    if options.sampler == "walk":
        return lambda rng: _unique(_walk(indptr, indices, options, rng))
    if options.sampler == "node":
        own = 1.0 / (degree + 1.0) ** 2
        cumulated = np.cumsum(own + np.bincount(indices, np.repeat(own, degree), graph.num_nodes))
        return lambda rng: _unique(_proportional(cumulated, budget, rng))
    alone = np.flatnonzero((degree == 0) & (np.bincount(indices, minlength=graph.num_nodes) == 0))
    source, destination = np.concatenate([indices, alone]), np.concatenate([graph.destinations.numpy(), alone])
    inverse = 1.0 / np.maximum(degree, 1)
    cumulated = np.cumsum(inverse[source] + inverse[destination])

    def draw(rng: np.random.Generator) -> Tensor:
        edges = _proportional(cumulated, budget, rng)
        return _unique(np.concatenate([source[edges], destination[edges]]))

    return draw


def _walk(
    indptr: NDArray[np.integer], indices: NDArray[np.integer], options: SaintOptions, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Walk against the direction of the edges, from where messages come; a node without incoming edges is not left."""
    nodes = [rng.integers(0, len(indptr) - 1, options.budget)]
    for _ in range(options.walk_length):
        last = nodes[-1]
        start, degree = indptr[last], indptr[last + 1] - indptr[last]
        leaves = degree > 0
        step, edge = last.copy(), start + (rng.random(len(last)) * degree).astype(np.int64)
        step[leaves] = indices[edge[leaves]]
        nodes.append(step)
    return np.concatenate(nodes)


def _proportional(cumulated: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = np.searchsorted(cumulated, rng.random(count) * cumulated[-1], side="right")
    return np.minimum(drawn, len(cumulated) - 1)


def _unique(nodes: NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(np.unique(nodes).astype(np.int64, copy=False))


class SaintBatches:
    """Batches of sampled subgraphs whose expected loss and aggregations are those of the whole graph.

    The loss of a training node is divided by the probability that the node is in a subgraph, and, with
    ``options.aggr_norm``, a message by the probability that its edge is in a subgraph which has its destination. Means
    and GCN's normalisation use the degrees of the whole graph. The probabilities are estimated by pre-sampling, before
    the first step. So the gradient is unbiased where the loss is linear in the aggregations, as in the source.

    Args:
        source: the graph.
        options: see `SaintOptions`.
        seed: seed of pre-sampling and of the subgraphs, 0 or above.
    Cost: `Normalization` has 4 (2 N + E) bytes, and pre-sampling makes about ``coverage`` times N nodes of subgraphs;
        each step makes one.
    Source: Zeng et al. 2020, GraphSAINT (arXiv:1907.04931).
    """

    def __init__(self, source: GraphSource, options: SaintOptions, seed: int) -> None:
        self._source, self._options, self._seed = source, options, seed

    def __getstate__(self) -> dict[str, object]:
        # A sampler is a function, which cannot be pickled; it is made again on demand.
        return {name: value for name, value in self.__dict__.items() if name != "_draw"}

    @cached_property
    def _draw(self) -> NodeSampler:
        return node_sampler(self._source.graph, self._options)

    @cached_property
    def normalization(self) -> Normalization:
        """The weights, estimated by pre-sampling."""
        graph, data = self._source.graph, self._source.dataset
        nodes = torch.zeros(graph.num_nodes, dtype=torch.int32)
        edges = torch.zeros(graph.num_edges, dtype=torch.int32)
        samples = total = 0
        while total < self._options.coverage * graph.num_nodes:
            # Count from 1, because trailing zeros do not change a stream.
            sample = induce(graph, self._draw(np.random.default_rng((self._seed, _PRESAMPLING, 0, 1 + samples))))
            nodes[sample.nodes] += 1
            edges[sample.edges] += 1
            samples, total = samples + 1, total + sample.nodes.numel()
        # What never occurred may yet occur: it counts once.
        seen = nodes.clamp(min=1).float()
        labels = data.y[data.splits["train"]]
        known = int((~labels.isnan()).sum()) if labels.is_floating_point() else labels.numel()
        return Normalization(
            mean_nodes=total / samples,
            loss=samples / (seen * max(known, 1)),
            message=seen[graph.destinations] / edges.clamp(min=1),
            degree=self._degree(),
        )

    def _degree(self) -> Tensor:
        graph, data = self._source.graph, self._source.dataset
        if not data.info.edge_weight or data.edge_attr is None:
            return graph.in_degree.float()
        weight = graph.sort_edges(data.edge_attr[:, 0]).double()
        return torch.zeros(graph.num_nodes, dtype=torch.float64).index_add(0, graph.destinations, weight).float()

    def __len__(self) -> int:
        """Steps in an epoch."""
        if self._options.steps is not None:
            return self._options.steps
        return max(round(self._source.graph.num_nodes / self.normalization.mean_nodes), 1)

    def train(self, epoch: int) -> Series:
        """Yield the subgraphs of an epoch; one without training nodes counts as a loss of 0."""
        return Series(len(self), lambda step: self._batch(np.random.default_rng((self._seed, epoch, 1 + step))))

    def _batch(self, rng: np.random.Generator) -> Batch:
        sample, weights = induce(self._source.graph, self._draw(rng)), self.normalization
        batch = self._source.batch(sample)
        graph = batch.graph
        if self._options.aggr_norm:
            graph = replace(graph, edge_weight=weights.message[sample.edges], norm_degree=weights.degree[sample.nodes])
        return replace(batch, graph=graph, loss_weight=weights.loss[sample.nodes])


def _make(source: GraphSource, partition: Partition, seed: int, *, saint: SaintOptions) -> SaintBatches:
    return SaintBatches(source, saint, seed)


SAMPLER = Sampler(make=_make, takes=("saint",))
