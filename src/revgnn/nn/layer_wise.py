"""Layer-wise computation on a sampled neighbourhood: each layer has only the nodes and edges that later layers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..graph import Graph


class SampleByHops:
    """A sample whose nodes are in the order of hops, and its parts near the rows that are asked for.

    Messages of k more convolutions reach the asked rows from k hops at most, along the edges into the nodes of k-1
    hops. Nodes and edges stand in the order of hops, so these are the first of each, and nothing is copied.

    Args:
        graph: the sample, edges by destination.
        edge_attr: [E, K] in its order of edges; ``None``: the edges have no features.
        hops: nodes within 0, 1, ... hops of the asked rows, which are the first ``hops[0]``; the last number is N.
    Raises: ValueError: the numbers do not ascend to N; or the graph is a batch of graphs.
    """

    def __init__(self, graph: Graph, edge_attr: Tensor | None, hops: Sequence[int]) -> None:
        if not hops or hops[-1] != graph.num_nodes or list(hops) != sorted(hops) or graph.batch is not None:
            raise ValueError(
                f"hops must say how many nodes lie within 0, 1, ... hops, ascending to the {graph.num_nodes} nodes of "
                f"one graph, got {list(hops)}"
            )
        self._graph, self._edge_attr, self._hops = graph, edge_attr, hops

    def within(self, reach: int) -> tuple[Graph, Tensor | None]:
        """Return the nodes within so many hops, the edges into those within one hop less, and the edges' features."""
        if reach >= len(self._hops) - 1:
            return self._graph, self._edge_attr
        whole, num_nodes = self._graph, self._hops[reach]
        num_edges = int(whole.indptr[self._hops[reach - 1]]) if reach else 0
        graph = replace(
            whole,
            num_nodes=num_nodes,
            indptr=whole.indptr[: num_nodes + 1].clamp(max=num_edges),
            indices=whole.indices[:num_edges],
            edge_weight=None if whole.edge_weight is None else whole.edge_weight[:num_edges],
            norm_degree=None if whole.norm_degree is None else whole.norm_degree[:num_nodes],
            trimmed_from=whole,
        )
        return graph, None if self._edge_attr is None else self._edge_attr[:num_edges]
