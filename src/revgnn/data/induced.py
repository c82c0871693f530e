"""Extracts subgraphs, induced ones (some nodes and every edge between two of them) and others, without sorting edges.

The nodes and edges of a subgraph keep the order of the whole graph, unless it was sampled in the order of hops. Edges
are sorted by (destination, source), and duplicate edges keep their order. `Cut` extracts all subgraphs of a partition
in one pass over the edges; `induce` extracts one and reads only the edges into its nodes. Gathers use `index_select`,
which copies rows several times as fast as indexing with a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..graph import Graph

_INT32_MAX = 2**31 - 1
EDGES_AT_ONCE = 2**24
"""Edges that `Cut` processes at a time, which bounds its temporary memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subgraph:
    """A subgraph, and the positions of its nodes and edges in the whole graph."""

    graph: Graph
    """n nodes, e edges, ``edge_ids`` ``None``."""
    nodes: Tensor
    """[n] int64, ascending within a hop: the number of each node in the whole graph."""
    edges: Tensor
    """[e] int64, ascending without hops: the position of each edge in the whole graph's order of edges; a sampled edge
    may occur several times."""
    hops: tuple[int, ...] | None = None
    """Nodes within 0, 1, ... hops of the seeds, where the nodes are in this order; ``None``: they are ascending."""


def induce(graph: Graph, nodes: Tensor) -> Subgraph:
    """Extract the subgraph of some nodes.

    Args:
        graph: the whole graph.
        nodes: [n] int64, ascending, each once.
    Returns: the subgraph.
    Cost: one gather of the edges into ``nodes``, and a vector of length N.
    """
    place = torch.full((graph.num_nodes,), -1, dtype=torch.int32)
    place[nodes] = torch.arange(nodes.numel(), dtype=torch.int32)
    incoming, counts = ranges(graph.indptr.long(), nodes)
    source = place.index_select(0, graph.indices.index_select(0, incoming))
    kept = (source >= 0).nonzero()[:, 0]
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return subgraph_of(
        torch.searchsorted(kept, ends), source.index_select(0, kept), nodes, incoming.index_select(0, kept)
    )


class Cut:
    """The subgraphs of all parts of a partition; each subgraph is built on request.

    Args:
        graph: the whole graph.
        part: [N] integer, the part of each node, in ``0..num_parts-1``; a part may have no nodes.
        num_parts: P.
        edges_at_once: edges processed at a time.
    Cost: one pass over the edges, which reads a part number of one or two bytes for both ends of each edge, and one
        sort of the kept edges by part. It stores 16 bytes per kept edge; a random partition keeps about E/P edges.
    """

    def __init__(self, graph: Graph, part: Tensor, num_parts: int, *, edges_at_once: int = EDGES_AT_ONCE) -> None:
        self._graph = graph
        part = part.to(_narrowest(num_parts))
        kept, kept_part = _kept_edges(graph, part, edges_at_once)
        self._nodes, self._node_ptr = _grouped(part, num_parts)
        edges, self._edge_ptr = _grouped(kept_part, num_parts)
        self._edges = kept.index_select(0, edges)
        # Count the kept edges of each destination; kept positions and destinations are both ascending.
        self._degree = torch.searchsorted(kept, graph.indptr.long()).diff()
        starts = torch.repeat_interleave(self._node_ptr[:-1], self._node_ptr.diff())
        self._place = torch.empty(graph.num_nodes, dtype=torch.int32)
        self._place[self._nodes] = (torch.arange(graph.num_nodes) - starts).int()

    def subgraph(self, number: int) -> Subgraph:
        """Build the subgraph of one part.

        Cost: gathers of its nodes and of its edges.
        """
        # Copy, so that a stored batch does not hold a vector of all nodes.
        nodes = self._nodes[self._node_ptr[number] : self._node_ptr[number + 1]].clone()
        edges = self._edges[self._edge_ptr[number] : self._edge_ptr[number + 1]]
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), self._degree[nodes].cumsum(0)])
        source = self._place.index_select(0, self._graph.indices.index_select(0, edges))
        return subgraph_of(ends, source, nodes, edges)


def ranges(ptr: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions ``ptr[g]..ptr[g+1]-1`` of every g in ``which``, in this order, and how many each has."""
    counts = ptr[which + 1] - ptr[which]
    shift = ptr[which] - (counts.cumsum(0) - counts)
    positions = torch.arange(int(counts.sum())) + torch.repeat_interleave(shift, counts)
    return positions, counts


def _kept_edges(graph: Graph, part: Tensor, at_once: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the edges with both ends in one part, ascending, and the part of each."""
    indptr, degree = graph.indptr.long(), graph.in_degree
    targets = torch.arange(0, graph.num_edges + at_once, at_once)
    bounds = torch.searchsorted(indptr, targets).clamp(max=graph.num_nodes).tolist()
    kept, kept_part = [torch.empty(0, dtype=torch.int64)], [part[:0]]
    for low, high in zip([0, *bounds], [*bounds, graph.num_nodes], strict=True):
        first, end = int(indptr[low]), int(indptr[high])
        at_destination = torch.repeat_interleave(part[low:high], degree[low:high], output_size=end - first)
        stays = part.index_select(0, graph.indices[first:end]) == at_destination
        positions = stays.nonzero()[:, 0]
        kept_part.append(at_destination.index_select(0, positions))
        kept.append(positions.add_(first))
    return torch.cat(kept), torch.cat(kept_part)


def _grouped(part: Tensor, num_parts: int) -> tuple[Tensor, Tensor]:
    """Return the positions sorted by part, ascending within each part, and the start of each part."""
    order = np.argsort(part.numpy(), kind="stable")
    counts = torch.bincount(part, minlength=num_parts)
    return torch.from_numpy(order), torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _narrowest(num_parts: int) -> torch.dtype:
    # Narrow integers need less memory traffic, and numpy uses a radix sort for one or two bytes.
    if num_parts <= 2**8:
        return torch.uint8
    return torch.int16 if num_parts <= 2**15 else torch.int64


def subgraph_of(
    indptr: Tensor, indices: Tensor, nodes: Tensor, edges: Tensor, hops: tuple[int, ...] | None = None
) -> Subgraph:
    """Put a subgraph together.

    Args:
        indptr: [n+1] integer, where the incoming edges of each node begin.
        indices: [e] integer, the place of each edge's source among ``nodes``, ascending within a destination.
        nodes, edges, hops: as in `Subgraph`.
    """
    dtype = torch.int32 if indices.numel() < _INT32_MAX else torch.int64
    graph = Graph(num_nodes=nodes.numel(), indptr=indptr.to(dtype), indices=indices.to(dtype))
    return Subgraph(graph=graph, nodes=nodes, edges=edges, hops=hops)
