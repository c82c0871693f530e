"""`Graph`: immutable CSR of incoming edges by destination, with the transposed graph for the backward.

Hides the sorting, the index width and all derived tensors (degrees, the reverse, the self-looped graph), each computed
once and cached. Edges are sorted by (destination, source); `Graph.sort_edges` brings edge features into that order.
Messages flow from `edge_index[0]` (source) to `edge_index[1]` (destination), as in PyG.

A graph shares no memory with the tensors that it was made from, and has no inference tensors: a graph that was made, or
first used, under `torch.inference_mode` can be trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from .edge_index import (
    ByContent,
    check_batch,
    check_constant,
    check_edge_index,
    check_range,
    destinations_of,
    fingerprint,
    in_memory,
    is_memory,
    plain,
    refuse_recording,
    remedy,
    trace_csr,
    trace_loops,
)
from .node_order import NodeOrder, chosen_order, local_order, near_share
from .weak_cache import Memo

if TYPE_CHECKING:
    from torch_geometric.data import Data

_T = TypeVar("_T")


class _derived(Generic[_T]):  # noqa: N801 - a decorator
    """A cached property; functools' own takes a lock in Python 3.11, which torch.compile cannot trace."""

    def __init__(self, make: Callable[[Graph], _T]) -> None:
        self._make, self._name, self.__doc__ = make, make.__name__, make.__doc__

    @overload
    def __get__(self, graph: None, owner: type) -> _derived[_T]: ...
    @overload
    def __get__(self, graph: object, owner: type) -> _T: ...
    def __get__(self, graph: object | None, owner: type) -> _derived[_T] | _T:
        if graph is None:
            return self
        assert isinstance(graph, Graph)
        return graph._cached(graph.__dict__, self._name, lambda: self._make(graph))


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """A directed graph of N nodes and E edges, or a batch of B graphs.

    Isolated nodes, repeated edges, self loops and graphs without edges or nodes are valid. Build one with
    `from_edge_index` or `from_data`, which check their arguments; the constructor does not.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> graph = revgnn.Graph.from_edge_index(torch.tensor([[0, 1, 2], [2, 2, 0]]), num_nodes=4)
        >>> graph.num_edges, graph.in_degree.tolist()
        (3, [1, 0, 2, 0])
    """

    num_nodes: int
    """N."""
    indptr: Tensor
    """[N+1] integer: the edges into node i are positions ``indptr[i]`` to ``indptr[i+1]``."""
    indices: Tensor
    """[E] integer: the source of each edge, ascending within a destination. int32 if N and E fit."""
    edge_ids: Tensor | None = None
    """[E] int64: position of each edge in the caller's order; ``None``: the same position."""
    batch: Tensor | None = None
    """[N] int64, ascending: the graph of each node; ``None``: one graph."""
    num_graphs: int = 1
    """B."""
    edge_weight: Tensor | None = None
    """[E] float weights, 0 or more, in this graph's order of edges, by `weighted`; ``None``: every edge counts as 1.
    Convolutions that can weigh edges read it."""
    norm_degree: Tensor | None = None
    """[N] float, only with ``edge_weight``: what a mean over the neighbours divides by, and the degrees of GCN's
    normalisation; ``None``: the sum of each node's incoming weights. A sample has those of the graph it was drawn
    from."""
    trimmed_from: Graph | None = field(default=None, repr=False)
    """The sample of which this graph is the first nodes and edges: the degrees that normalise are those of the sample.
    ``None``: this graph is whole."""
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        for name in ("indptr", "indices", "edge_ids", "batch", "edge_weight", "norm_degree"):
            tensor = getattr(self, name)
            if isinstance(tensor, Tensor) and tensor.is_inference():
                with in_memory():
                    object.__setattr__(self, name, tensor.clone())
        check_constant(self.edge_weight)

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
            edge_index: [2, E] int64 or int32, sources in the first row, any strides; PyG's ``EdgeIndex`` and other
                tensor subclasses are converted to plain tensors.
            num_nodes: N; ``None`` takes the largest index plus one (and misses isolated last nodes).
            batch: [N] integer, ascending: the graph of each node; ``None``: one graph.
            num_graphs: B; ``None`` takes the last entry of ``batch`` plus one.
        Returns: the graph, on the device of ``edge_index``.
        Raises: TypeError, ValueError: wrong dtype, layout or shape, a tensor without memory, or an index out of range,
            naming the first bad edge. A sparse adjacency matrix is rejected, because its values would be lost.
        Cost: one stable sort of E keys.
        """
        edge_index = plain(edge_index)
        check_edge_index(edge_index)
        with in_memory():
            return cls._sorted(edge_index, num_nodes, batch, num_graphs)

    @classmethod
    def _sorted(cls, edge_index: Tensor, num_nodes: int | None, batch: Tensor | None, num_graphs: int | None) -> Graph:
        src, dst = edge_index[0].long(), edge_index[1].long()
        if num_nodes is None:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
        check_range(edge_index, num_nodes)
        key = dst * num_nodes + src
        if bool((key[1:] >= key[:-1]).all()):
            edge_ids = None
        else:
            edge_ids = torch.sort(key, stable=True).indices
            src, dst = src[edge_ids], dst[edge_ids]
        index_dtype = torch.int32 if max(num_nodes, src.numel()) < torch.iinfo(torch.int32).max else torch.int64
        if batch is not None:
            batch, num_graphs = check_batch(batch, num_nodes, num_graphs)
        return cls(
            num_nodes=num_nodes,
            indptr=_indptr(dst, num_nodes).to(index_dtype),
            indices=src.to(index_dtype, copy=True),
            edge_ids=edge_ids,
            batch=batch,
            num_graphs=1 if num_graphs is None else num_graphs,
        )

    @classmethod
    def from_data(cls, data: Data) -> Graph:
        """Make a graph from the edges of a PyG ``Data`` or ``Batch``; features and labels are not used."""
        if data.edge_index is None:
            raise ValueError(
                "data.edge_index is missing: a graph needs [2, E] edges; an empty one is torch.empty(2, 0)"
            )
        batch = getattr(data, "batch", None)
        num_graphs = getattr(data, "num_graphs", None) if batch is not None else None
        return cls.from_edge_index(data.edge_index, data.num_nodes, batch=batch, num_graphs=num_graphs)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.indices.numel()

    @property
    def device(self) -> torch.device:
        """The device of the index tensors."""
        return self.indptr.device

    @_derived
    def in_degree(self) -> Tensor:
        """[N] int64: incoming edges of each node, repeated ones counted."""
        return self.indptr.diff().long()

    @_derived
    def out_degree(self) -> Tensor:
        """[N] int64: outgoing edges of each node, repeated ones counted."""
        if is_memory(self.indptr):
            return torch.bincount(self.indices, minlength=self.num_nodes)
        # Eight times slower, but its shape is static, as tracing requires.
        counts = self.indices.new_zeros(self.num_nodes, dtype=torch.int64)
        return counts.index_add(0, self.indices, torch.ones_like(self.indices, dtype=torch.int64))

    @_derived
    def destinations(self) -> Tensor:
        """[E] int64: the destination of each edge, ascending."""
        return destinations_of(self.indptr, self.num_edges)

    @property
    def edge_index(self) -> Tensor:
        """[2, E] int64 COO edges in this graph's own order."""
        return torch.stack([self.indices.long(), self.destinations])

    @_derived
    def reverse(self) -> Graph:
        """The transposed graph; its ``edge_ids`` are positions in this graph. A symmetric graph shares storage."""
        edge_ids = torch.sort(self.indices, stable=True).indices
        indptr = _indptr(self.indices.long(), self.num_nodes).to(self.indptr.dtype)
        indices = self.destinations[edge_ids].to(self.indices.dtype)
        if torch.equal(indptr, self.indptr) and torch.equal(indices, self.indices):
            indptr, indices = self.indptr, self.indices
        return replace(self, indptr=indptr, indices=indices, edge_ids=edge_ids, edge_weight=None, norm_degree=None)

    @property
    def is_symmetric(self) -> bool:
        """Whether every edge i -> j has a reverse edge j -> i, with the same multiplicity."""
        return self.reverse.indices is self.indices

    def sort_edges(self, edge_values: Tensor) -> Tensor:
        """Permute [E, ...] rows from the caller's order of edges to this graph's."""
        if edge_values.size(0) != self.num_edges:
            raise ValueError(
                f"edge features must have one row per edge: got {edge_values.size(0)} rows for {self.num_edges} edges"
            )
        return edge_values if self.edge_ids is None else edge_values[self.edge_ids]

    @property
    def in_own_order(self) -> Graph:
        """This graph with its own order of edges as the caller's, for edge features that are sorted already."""
        return self if self.edge_ids is None else self.keep("own_order", lambda: replace(self, edge_ids=None))

    def local_order(self, order: NodeOrder = "auto") -> Tensor | None:
        """Return an order of the nodes in which neighbours are near, so that sums over them read from caches.

        Args:
            order: "clusters": METIS clusters with reverse Cuthill-McKee (RCM) inside; "rcm"; "given"; "auto": clusters,
                or RCM without pymetis or for more than 2^25 edges; "quick": RCM. These two keep the given order of
                fewer than 16,384 nodes, or where half of the edges already join nodes less than 4,096 apart.
        Returns: [N] int64, the node at each place; ``None``: the given order.
        Raises: ModuleNotFoundError: "clusters" without pymetis.
        Cost: about 0.1 us an edge for RCM, 2 to 4 for clusters.
        """
        near = near_share(self.indptr.cpu().numpy(), self.indices.cpu().numpy())
        chosen = chosen_order(order, self.num_nodes, self.num_edges, near)
        if chosen == "given":
            return None
        return torch.from_numpy(local_order(self.edge_index.numpy(), self.num_nodes, clusters=chosen == "clusters"))

    def reordered(self, order: Tensor) -> Graph:
        """Return the same graph with node ``order[i]`` as node i; its ``edge_ids`` are still the caller's positions.

        Args:
            order: [N] int64, every node once, such as `local_order` gives.
        Raises: ValueError: it is not; or the graph is a batch of graphs, whose nodes have to stay together.
        Cost: one sort of E keys.
        """
        if self.batch is not None:
            raise ValueError("a batch of graphs keeps the order of its nodes; reorder each graph before")
        nodes = torch.arange(self.num_nodes, device=order.device)
        if not torch.equal(order.sort().values, nodes):
            raise ValueError(f"order must hold every node 0..{self.num_nodes - 1} once, got {list(order.shape)}")
        place = torch.empty_like(order)
        place[order] = nodes
        graph = Graph.from_edge_index(place[self.edge_index], self.num_nodes)
        inner, outer = graph.edge_ids, self.edge_ids
        return graph if outer is None else replace(graph, edge_ids=outer if inner is None else outer[inner])

    def weighted(self, edge_attr: Tensor) -> Graph:
        """Return this graph, its weights times a constant copy of [E, 1] in its order; cached while they are equal."""
        check_constant(edge_attr)
        memo: ByContent[Graph] = self.keep("weighted", ByContent)
        own, weight = self.edge_weight, edge_attr.detach().reshape(-1)
        return memo.get(weight, None, lambda new: replace(self, edge_weight=new if own is None else new * own))

    @property
    def self_looped(self) -> Graph:
        """This graph with one self loop per node: existing ones keep their weight, others have 1; no edge features."""
        looped: Graph | None = self.keep("self_looped", self._with_loops)
        return self if looped is None else looped

    @property
    def has_loops_ready(self) -> bool:
        """Whether `self_looped` is cached, so that torch.compile need not trace its construction."""
        return "self_looped" in self._kept

    def _with_loops(self) -> Graph | None:
        """Return the self-looped graph; None if it is this graph itself, so that no reference cycle arises."""
        if not is_memory(self.indptr):
            if self.edge_weight is not None:
                raise ValueError("a traced graph cannot add self loops to weighted edges; trace one without weights")
            indptr, indices = trace_loops(self.indptr, self.indices)
            return replace(self, indptr=indptr, indices=indices, edge_ids=None)
        src, dst = self.edge_index
        keep = src != dst
        loops = torch.arange(self.num_nodes, device=self.device)
        if int((~keep).sum()) == self.num_nodes and torch.equal(src[~keep].sort().values, loops):
            return None
        edge_index = torch.stack([torch.cat([src[keep], loops]), torch.cat([dst[keep], loops])])
        graph = Graph.from_edge_index(edge_index, self.num_nodes)
        weight, degree = None, self.norm_degree
        if self.edge_weight is not None:
            before = self.edge_weight[~keep]
            own = self.edge_weight.new_ones(self.num_nodes).index_copy(0, src[~keep], before)
            weight = graph.sort_edges(torch.cat([self.edge_weight[keep], own]))
            if degree is not None:
                degree = (degree + own).index_add(0, src[~keep], -before.to(degree.dtype))
        whole = None if self.trimmed_from is None else self.trimmed_from.self_looped
        return replace(
            self, indptr=graph.indptr, indices=graph.indices, edge_ids=None, edge_weight=weight, norm_degree=degree,
            trimmed_from=whole,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Graph:
        """Copy to a device; derived tensors are computed again there on demand."""
        if torch.device(device) == self.device:
            return self
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        moved: dict[str, Any] = {name: value.to(device) for name, value in own.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def keep(self, name: str, make: Callable[[], _T]) -> _T:
        """Return the cached value of ``name``, or cache that of ``make()``; for values that the ops derive."""
        found: _T = self._kept[name] if name in self._kept else self._cached(self._kept, name, make)
        return found

    def kept_as(self, value: Tensor) -> str | None:
        """Return the name under which `keep` cached ``value``, which is then constant; ``None``: it did not."""
        return next((name for name, kept in tuple(self._kept.items()) if kept is value), None)

    def _cached(self, cache: dict[str, Any], name: str, make: Callable[[], _T]) -> _T:
        if torch.compiler.is_dynamo_compiling():
            return make()  # not cached: a compiled function may make inference tensors
        if is_memory(self.indptr):
            with in_memory():
                value = cache[name] = make()
        else:  # traced tensors
            value = cache[name] = make()
        return value

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        return self

    def __getstate__(self) -> dict[str, object]:
        """Return the fields without derived tensors, which are computed again on demand."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _kept={})
        self.__post_init__()


torch.serialization.add_safe_globals([Graph])  # only tensors and two integers


def as_graph(graph: Graph | Tensor, num_nodes: int, device: torch.device | None = None) -> Graph:
    """Return a `Graph`, converting PyG's ``edge_index`` if necessary.

    The graph of the last ``edge_index`` is cached while that tensor lives and has the same content; a fingerprint
    detects changes of any origin.

    Args:
        graph: a graph of ``num_nodes`` nodes, or an ``edge_index`` [2, E].
        num_nodes: N, the number of rows of x.
        device: the device of x; ``None``: any.
    Returns: the graph.
    Raises: TypeError, ValueError: as `Graph.from_edge_index`, or if nodes or devices differ. RuntimeError: under
        `torch.jit.trace`, `torch.fx.symbolic_trace` and `torch.func.vmap` over the edges.
    Cost: one pass over an ``edge_index`` per call (about 1.5 ms for a million edges), and a sort if it is new.
    """
    refuse_recording(graph.indptr if isinstance(graph, Graph) else graph, num_nodes)
    if not isinstance(graph, Graph | Tensor):
        raise TypeError(
            f"expected a revgnn.Graph or an edge_index tensor [2, E], got {type(graph).__name__}{remedy(graph)}"
        )
    if device is not None and graph.device != device:
        what = "the graph" if isinstance(graph, Graph) else "edge_index"
        raise ValueError(f"x is on {device} but {what} is on {graph.device}; move one to the other with .to(device)")
    if isinstance(graph, Tensor):
        return _converted(graph, num_nodes)
    if graph.num_nodes != num_nodes:
        raise ValueError(f"x has {num_nodes} rows but the graph has {graph.num_nodes} nodes; they must be equal")
    return graph


def _converted(edge_index: Tensor, num_nodes: int) -> Graph:
    if torch.compiler.is_exporting() or isinstance(edge_index, FakeTensor):
        indptr, indices, edge_ids = trace_csr(edge_index, num_nodes)
        return Graph(num_nodes=num_nodes, indptr=indptr, indices=indices, edge_ids=edge_ids)
    with in_memory():
        values = plain(edge_index)
        check_edge_index(values)
        return _cache.get(
            edge_index, (num_nodes, fingerprint(values)), lambda: Graph.from_edge_index(values, num_nodes)
        )


_cache: Memo[Graph] = Memo()


def _indptr(sorted_or_not: Tensor, num_nodes: int) -> Tensor:
    counts = torch.bincount(sorted_or_not, minlength=num_nodes)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
