"""The graph: what it checks at the border, how it orders edges, and the graphs and vectors derived from it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Batch, Data

from revgnn.graph import Graph, as_graph, check_finite

EDGES = torch.tensor([[2, 0, 1, 0, 3], [1, 1, 0, 3, 3]])


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Any small edge list: isolated nodes, repeated edges and self loops come by themselves."""
    num_nodes = draw(st.integers(1, 8))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=20))
    return torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous(), num_nodes


def _pairs(edge_index: Tensor) -> list[tuple[int, int]]:
    return sorted(map(tuple, edge_index.t().tolist()))


# ---------------------------------------------------------------------- order
@given(edge_lists())
@settings(deadline=None)
def test_edges_keep_their_identity_in_the_new_order(edges: tuple[Tensor, int]) -> None:
    edge_index, num_nodes = edges
    graph = Graph.from_edge_index(edge_index, num_nodes)
    assert torch.equal(graph.sort_edges(edge_index.t()), graph.edge_index.t())
    assert _pairs(graph.edge_index) == _pairs(edge_index)
    key = graph.destinations * num_nodes + graph.indices
    assert bool((key.diff() >= 0).all())
    assert graph.indptr.dtype == graph.indices.dtype == torch.int32


@given(edge_lists())
@settings(deadline=None)
def test_degrees_count_repeated_edges(edges: tuple[Tensor, int]) -> None:
    edge_index, num_nodes = edges
    graph = Graph.from_edge_index(edge_index, num_nodes)
    assert torch.equal(graph.in_degree, torch.bincount(edge_index[1], minlength=num_nodes))
    assert torch.equal(graph.out_degree, torch.bincount(edge_index[0], minlength=num_nodes))


def test_equal_edges_stay_in_the_callers_order() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 0, 0], [1, 0, 1, 1]]))
    assert graph.sort_edges(torch.arange(4)).tolist() == [1, 0, 2, 3]


def test_sorted_edges_need_no_permutation() -> None:
    graph = Graph.from_edge_index(Graph.from_edge_index(EDGES).edge_index)
    values = torch.randn(5, 2)
    assert graph.edge_ids is None
    assert graph.sort_edges(values) is values


def test_isolated_last_nodes_are_kept_if_told() -> None:
    assert Graph.from_edge_index(EDGES).num_nodes == 4
    assert Graph.from_edge_index(EDGES, 7).in_degree.tolist() == [1, 2, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("num_nodes", [0, 3])
def test_no_edges(num_nodes: int) -> None:
    graph = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), num_nodes)
    assert graph.num_edges == graph.reverse.num_edges == 0
    assert graph.in_degree.tolist() == [0] * num_nodes
    assert graph.is_symmetric
    assert graph.self_looped.num_edges == num_nodes


# ---------------------------------------------------------------------- derived graphs
@given(edge_lists())
@settings(deadline=None)
def test_the_reverse_is_the_same_edges_by_source(edges: tuple[Tensor, int]) -> None:
    graph = Graph.from_edge_index(*edges)
    reverse = graph.reverse
    assert reverse.edge_ids is not None
    assert torch.equal(reverse.edge_index.flip(0), graph.edge_index[:, reverse.edge_ids])
    assert reverse.edge_ids.sort().values.tolist() == list(range(graph.num_edges))
    assert graph.is_symmetric == (_pairs(graph.edge_index) == _pairs(graph.edge_index.flip(0)))


def test_a_symmetric_graph_shares_its_storage_with_its_reverse() -> None:
    graph = Graph.from_edge_index(torch.cat([EDGES, EDGES.flip(0)], 1))
    assert graph.is_symmetric
    assert graph.reverse.indices is graph.indices
    assert graph.reverse.indptr is graph.indptr


@given(edge_lists())
@settings(deadline=None)
def test_self_looped_has_one_loop_per_node(edges: tuple[Tensor, int]) -> None:
    graph = Graph.from_edge_index(*edges)
    looped = graph.self_looped
    kept = [pair for pair in _pairs(graph.edge_index) if pair[0] != pair[1]]
    assert _pairs(looped.edge_index) == sorted(kept + [(node, node) for node in range(graph.num_nodes)])
    assert looped.self_looped is looped


def test_a_graph_moves_and_is_shared_by_copies() -> None:
    graph = Graph.from_edge_index(EDGES)
    assert graph.to("cpu") is graph
    moved = graph.to("meta")
    assert moved.device.type == "meta"
    assert moved.num_edges == graph.num_edges
    assert copy.deepcopy({"graph": graph})["graph"] is graph


def test_what_is_kept_is_made_once() -> None:
    graph, made = Graph.from_edge_index(EDGES), []
    for _ in range(2):
        graph.keep("vector", lambda: made.append(1) or torch.ones(3))
    assert len(made) == 1


# ---------------------------------------------------------------------- several graphs
def test_batched_graphs() -> None:
    graph = Graph.from_edge_index(EDGES, batch=torch.tensor([0, 0, 1, 1]), num_graphs=3)
    assert graph.num_graphs == 3
    assert graph.reverse.batch is graph.batch
    assert graph.self_looped.num_graphs == 3
    assert Graph.from_edge_index(EDGES, batch=torch.tensor([0, 0, 1, 1])).num_graphs == 2


def test_from_pygs_data_and_batch() -> None:
    data = Data(edge_index=EDGES, num_nodes=6)
    assert Graph.from_data(data).num_nodes == 6
    graph = Graph.from_data(Batch.from_data_list([data, data]))
    assert (graph.num_nodes, graph.num_graphs, graph.num_edges) == (12, 2, 10)


# ---------------------------------------------------------------------- the border
def test_data_without_edges() -> None:
    with pytest.raises(ValueError, match=r"data.edge_index is missing: .* an empty one is torch.empty\(2, 0\)"):
        Graph.from_data(Data(x=torch.ones(3, 1)))


def test_not_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"edge_index must be a tensor \[2, E\], got list"):
        Graph.from_edge_index([[0], [1]])  # type: ignore[arg-type]


def test_wrong_dtype() -> None:
    with pytest.raises(TypeError, match=r"must be int64 or int32, got torch.float32; convert it with .long\(\)"):
        Graph.from_edge_index(EDGES.float())


@pytest.mark.parametrize("shape", [(5, 2), (2,), (2, 3, 1)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \[2, E\], got .*; transpose it if its rows are edges"):
        Graph.from_edge_index(torch.zeros(shape, dtype=torch.int64))


def test_index_out_of_range_names_the_first_edge() -> None:
    edges = torch.tensor([[0, 1, 2], [1, 5, -1]])
    with pytest.raises(ValueError, match=r"must lie in 0..2: edge 1 has destination 5 \(2 such edges\)"):
        Graph.from_edge_index(edges, 3)


@pytest.mark.parametrize(
    ("batch", "num_graphs", "message"),
    [
        ([0, 0, 0], None, r"batch must have shape \[4\], got \[3\]"),
        ([0, 1, 0, 1], None, "batch must be ascending and start at 0 or above"),
        ([-1, 0, 0, 1], None, "batch must be ascending and start at 0 or above"),
        ([0, 0, 1, 2], 2, "num_graphs=2 but batch names graph 2; pass at least 3"),
    ],
)
def test_wrong_batch(batch: list[int], num_graphs: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graph.from_edge_index(EDGES, batch=torch.tensor(batch), num_graphs=num_graphs)


def test_edge_features_of_another_number() -> None:
    with pytest.raises(ValueError, match="one row per edge: got 4 rows for 5 edges"):
        Graph.from_edge_index(EDGES).sort_edges(torch.ones(4, 2))


def test_finite_or_named() -> None:
    values = torch.ones(4, 2)
    check_finite(values, "x")
    check_finite(torch.ones(3, dtype=torch.int64), "x")
    values[2, 1], values[3, 0] = float("nan"), float("inf")
    with pytest.raises(
        ValueError, match="x must be finite: row 2 is the first of 2 with NaN or infinity; fill or drop them"
    ):
        check_finite(values, "x")


# ---------------------------------------------------------------------- edge_index in place of a graph
def test_an_edge_index_is_converted_once_while_it_is_unchanged() -> None:
    edge_index = EDGES.clone()
    graph = as_graph(edge_index, 4)
    assert as_graph(edge_index, 4) is graph
    assert as_graph(edge_index, 5) is not graph
    graph = as_graph(edge_index, 4)
    edge_index[0, 0] = 3
    changed = as_graph(edge_index, 4)
    assert changed is not graph
    assert _pairs(changed.edge_index) == _pairs(edge_index)


def test_as_graph_checks() -> None:
    graph = Graph.from_edge_index(EDGES)
    assert as_graph(graph, 4) is graph
    with pytest.raises(ValueError, match="x has 5 rows but the graph has 4 nodes; they must be equal"):
        as_graph(graph, 5)
    with pytest.raises(TypeError, match=r"expected a revgnn.Graph or an edge_index tensor \[2, E\], got list"):
        as_graph([[0], [1]], 2)  # type: ignore[arg-type]
