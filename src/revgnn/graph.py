"""One immutable graph: incoming edges by destination (CSR), and the same edges by source for the backward.

Hides the sorting, the index width and every derived vector (degrees, the reverse, the self-looped graph), each made
once and kept. Edges are ordered by (destination, source), whatever order the caller had; `Graph.sort_edges` brings edge
features into that order. Messages flow from `edge_index[0]` (source) to `edge_index[1]` (destination), as in PyG.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Data

_INT32_MAX = 2**31 - 1
_T = TypeVar("_T")


class _derived(Generic[_T]):  # noqa: N801 - a decorator
    """A property made once and kept; functools' own takes a lock in Python 3.11, which torch.compile cannot trace."""

    def __init__(self, make: Callable[[Any], _T]) -> None:
        self._make, self._name, self.__doc__ = make, make.__name__, make.__doc__

    @overload
    def __get__(self, graph: None, owner: type) -> _derived[_T]: ...
    @overload
    def __get__(self, graph: object, owner: type) -> _T: ...
    def __get__(self, graph: object | None, owner: type) -> _derived[_T] | _T:
        if graph is None:
            return self
        value = graph.__dict__[self._name] = self._make(graph)
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """A directed graph of N nodes and E edges, or B such graphs side by side.

    Isolated nodes, repeated edges, self loops and graphs without edges or nodes are legal. Build one with
    `from_edge_index` or `from_data`, which check; the constructor trusts its caller.
    """

    num_nodes: int
    """N."""
    indptr: Tensor
    """[N+1] integer: the edges into node i are positions ``indptr[i]`` to ``indptr[i+1]``."""
    indices: Tensor
    """[E] integer: the source of each edge, ascending within a destination. int32 wherever N and E fit."""
    edge_ids: Tensor | None = None
    """[E] int64: where each edge stood in the caller's order; ``None``: it already stood there."""
    batch: Tensor | None = None
    """[N] int64, ascending: the graph that each node belongs to; ``None``: one graph."""
    num_graphs: int = 1
    """B."""
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    # ------------------------------------------------------------------ making one
    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int | None = None,
        *,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> Graph:
        """Check and sort a COO edge list.

        Args:
            edge_index: [2, E] int64 or int32, sources above destinations.
            num_nodes: N; ``None`` takes the largest index plus one (isolated last nodes are then unknown).
            batch: [N] integer, ascending graph number of each node; ``None`` means one graph.
            num_graphs: B; ``None`` takes the last graph number plus one.
        Returns: the graph, on the device of ``edge_index``.
        Raises: TypeError, ValueError: wrong dtype or shape, or an index out of range, naming the first offender.
        Cost: one stable sort of E keys.
        """
        _check_edge_index(edge_index)
        src, dst = edge_index[0].long(), edge_index[1].long()
        if num_nodes is None:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
        _check_range(edge_index, num_nodes)
        key = dst * num_nodes + src
        if bool((key[1:] >= key[:-1]).all()):
            edge_ids = None
        else:
            edge_ids = torch.sort(key, stable=True).indices
            src, dst = src[edge_ids], dst[edge_ids]
        index_dtype = torch.int32 if max(num_nodes, src.numel()) < _INT32_MAX else torch.int64
        if batch is not None:
            batch, num_graphs = _check_batch(batch, num_nodes, num_graphs)
        return cls(
            num_nodes=num_nodes,
            indptr=_indptr(dst, num_nodes).to(index_dtype),
            indices=src.to(index_dtype),
            edge_ids=edge_ids,
            batch=batch,
            num_graphs=1 if num_graphs is None else num_graphs,
        )

    @classmethod
    def from_data(cls, data: Data) -> Graph:
        """Take the structure of a PyG ``Data`` or ``Batch``; its features and labels stay where they are."""
        if data.edge_index is None:
            raise ValueError(
                "data.edge_index is missing: a graph needs [2, E] edges; an empty one is torch.empty(2, 0)"
            )
        batch = getattr(data, "batch", None)
        num_graphs = getattr(data, "num_graphs", None) if batch is not None else None
        return cls.from_edge_index(data.edge_index, data.num_nodes, batch=batch, num_graphs=num_graphs)

    # ------------------------------------------------------------------ what it is
    @property
    def num_edges(self) -> int:
        """E."""
        return self.indices.numel()

    @property
    def device(self) -> torch.device:
        """Where the index tensors lie."""
        return self.indptr.device

    @_derived
    def in_degree(self) -> Tensor:
        """[N] int64: incoming edges of each node, repeated ones counted."""
        return self.indptr.diff().long()

    @_derived
    def out_degree(self) -> Tensor:
        """[N] int64: outgoing edges of each node, repeated ones counted."""
        return torch.bincount(self.indices, minlength=self.num_nodes)

    @_derived
    def destinations(self) -> Tensor:
        """[E] int64: the destination of each edge, ascending."""
        nodes = torch.arange(self.num_nodes, device=self.device)
        return torch.repeat_interleave(nodes, self.in_degree, output_size=self.num_edges)

    @property
    def edge_index(self) -> Tensor:
        """[2, E] int64 COO edges in this graph's own order."""
        return torch.stack([self.indices.long(), self.destinations])

    @_derived
    def reverse(self) -> Graph:
        """The same edges by source; its ``edge_ids`` are positions in this graph. Shares storage where symmetric."""
        edge_ids = torch.sort(self.indices, stable=True).indices
        indptr = _indptr(self.indices.long(), self.num_nodes).to(self.indptr.dtype)
        indices = self.destinations[edge_ids].to(self.indices.dtype)
        if torch.equal(indptr, self.indptr) and torch.equal(indices, self.indices):
            indptr, indices = self.indptr, self.indices
        return Graph(
            num_nodes=self.num_nodes,
            indptr=indptr,
            indices=indices,
            edge_ids=edge_ids,
            batch=self.batch,
            num_graphs=self.num_graphs,
        )

    @property
    def is_symmetric(self) -> bool:
        """Whether every edge i -> j has a partner j -> i, with the same multiplicity."""
        return self.reverse.indices is self.indices

    def sort_edges(self, edge_values: Tensor) -> Tensor:
        """Bring [E, ...] rows from the caller's order of edges into this graph's."""
        if edge_values.size(0) != self.num_edges:
            raise ValueError(
                f"edge features must have one row per edge: got {edge_values.size(0)} rows for {self.num_edges} edges"
            )
        return edge_values if self.edge_ids is None else edge_values[self.edge_ids]

    # ------------------------------------------------------------------ other graphs from it
    @_derived
    def self_looped(self) -> Graph:
        """This graph with exactly one self loop per node; loops that exist are replaced, edge features do not
        follow."""
        src, dst = self.edge_index
        keep = src != dst
        loops = torch.arange(self.num_nodes, device=self.device)
        if int((~keep).sum()) == self.num_nodes and torch.equal(src[~keep].sort().values, loops):
            return self
        edge_index = torch.stack([torch.cat([src[keep], loops]), torch.cat([dst[keep], loops])])
        graph = Graph.from_edge_index(edge_index, self.num_nodes, batch=self.batch, num_graphs=self.num_graphs)
        return Graph(
            num_nodes=graph.num_nodes,
            indptr=graph.indptr,
            indices=graph.indices,
            batch=self.batch,
            num_graphs=self.num_graphs,
        )

    def to(self, device: torch.device | str) -> Graph:
        """Copy to a device; derived vectors are made anew there when asked for."""
        if torch.device(device) == self.device:
            return self

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return Graph(
            num_nodes=self.num_nodes,
            indptr=self.indptr.to(device),
            indices=self.indices.to(device),
            edge_ids=move(self.edge_ids),
            batch=move(self.batch),
            num_graphs=self.num_graphs,
        )

    def keep(self, name: str, make: Any) -> Any:
        """Return what ``make()`` gave the first time it was asked for under ``name``; for vectors derived by the
        ops."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self


def as_graph(graph: Graph | Tensor, num_nodes: int) -> Graph:
    """Accept PyG's ``edge_index`` where a graph is wanted; the last one converted is remembered while it is
    unchanged."""
    if isinstance(graph, Graph):
        if graph.num_nodes != num_nodes:
            raise ValueError(f"x has {num_nodes} rows but the graph has {graph.num_nodes} nodes; they must be equal")
        return graph
    if not isinstance(graph, Tensor):
        raise TypeError(f"expected a revgnn.Graph or an edge_index tensor [2, E], got {type(graph).__name__}")
    global _last
    if _last is not None:
        tensor, version, nodes, made = _last
        if tensor() is graph and version == graph._version and nodes == num_nodes:
            return made
    made = Graph.from_edge_index(graph, num_nodes)
    _last = (weakref.ref(graph), graph._version, num_nodes, made)
    return made


_last: tuple[weakref.ref[Tensor], int, int, Graph] | None = None


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError naming the first row of ``values`` with a NaN or an infinity; integers always pass."""
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad = ~torch.isfinite(values.reshape(values.size(0), -1)).all(1)
    row = int(bad.nonzero()[0])
    raise ValueError(
        f"{what} must be finite: row {row} is the first of {int(bad.sum())} with NaN or infinity; fill or drop them"
    )


def _indptr(sorted_or_not: Tensor, num_nodes: int) -> Tensor:
    counts = torch.bincount(sorted_or_not, minlength=num_nodes)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _check_edge_index(edge_index: Tensor) -> None:
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"edge_index must be a tensor [2, E], got {type(edge_index).__name__}")
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"edge_index must be int64 or int32, got {edge_index.dtype}; convert it with .long()")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"edge_index must have shape [2, E], got {list(edge_index.shape)}; transpose it if its rows are edges"
        )


def _check_range(edge_index: Tensor, num_nodes: int) -> None:
    bad = (edge_index < 0) | (edge_index >= num_nodes)
    if not bool(bad.any()):
        return
    edge = int(bad.any(0).nonzero()[0])
    row = int(bad[:, edge].nonzero()[0])
    raise ValueError(
        f"edge_index must lie in 0..{num_nodes - 1}: edge {edge} has {'source' if row == 0 else 'destination'} "
        f"{int(edge_index[row, edge])} ({int(bad.any(0).sum())} such edges); "
        "pass the right num_nodes or renumber the nodes"
    )


def _check_batch(batch: Tensor, num_nodes: int, num_graphs: int | None) -> tuple[Tensor, int]:
    if batch.dim() != 1 or batch.numel() != num_nodes:
        raise ValueError(f"batch must have shape [{num_nodes}], got {list(batch.shape)}")
    batch = batch.long()
    if num_nodes and (bool((batch.diff() < 0).any()) or int(batch[0]) < 0):
        raise ValueError("batch must be ascending and start at 0 or above: the nodes of a graph stand together")
    least = int(batch[-1]) + 1 if num_nodes else 0
    if num_graphs is not None and num_graphs < least:
        raise ValueError(f"num_graphs={num_graphs} but batch names graph {least - 1}; pass at least {least}")
    return batch, least if num_graphs is None else num_graphs
