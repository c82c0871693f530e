"""The graph: what it checks at the border, how it orders edges, and the graphs and vectors derived from it."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.queue import ForkingPickler
from torch_geometric.data import Batch, Data

from edge_lists import EDGES, edge_lists, pairs_of, pickled, small_config
from revgnn import build_model
from revgnn.data import GraphInfo
from revgnn.data.batch import check_finite
from revgnn.graph import Graph
from revgnn.nn.convs import CONVS


# ---------------------------------------------------------------------- order
@given(edge_lists())
@settings(deadline=None)
def test_edges_keep_their_identity_in_the_new_order(edges: tuple[Tensor, int]) -> None:
    edge_index, num_nodes = edges
    graph = Graph.from_edge_index(edge_index, num_nodes)
    assert torch.equal(graph.sort_edges(edge_index.t()), graph.edge_index.t())
    assert pairs_of(graph.edge_index) == pairs_of(edge_index)
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
    assert graph.is_symmetric == (pairs_of(graph.edge_index) == pairs_of(graph.edge_index.flip(0)))


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
    kept = [pair for pair in pairs_of(graph.edge_index) if pair[0] != pair[1]]
    assert pairs_of(looped.edge_index) == sorted(kept + [(node, node) for node in range(graph.num_nodes)])
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


# ---------------------------------------------------------------------- devices
@pytest.mark.parametrize("conv", CONVS)
def test_a_graph_elsewhere_is_refused_before_anything_runs(conv: str) -> None:
    """The meta device stands for any other: it exists everywhere, and has no memory."""
    layer, model = CONVS[conv](6, 6), build_model(small_config(conv), GraphInfo(in_channels=6, num_outputs=2))
    graph, x = Graph.from_edge_index(EDGES, 4), torch.randn(4, 6)
    for call in (layer, model, model.eval()):
        with pytest.raises(ValueError, match=r"x is on cpu but the graph is on meta; move one .*\.to\(device\)"):
            call(x, graph.to("meta"))
        with pytest.raises(ValueError, match="x is on cpu but edge_index is on meta"):
            call(x, EDGES.to("meta"))
        with pytest.raises(ValueError, match="x is on meta but the graph is on cpu"):
            call(x.to("meta"), graph)


def test_edges_without_values() -> None:
    with pytest.raises(ValueError, match="edge_index is on meta, where tensors have no values"):
        Graph.from_edge_index(EDGES.to("meta"))


# ---------------------------------------------------------------------- copies
@pytest.mark.parametrize("conv", CONVS)
def test_a_used_graph_travels_without_what_was_derived(conv: str) -> None:
    graph = Graph.from_edge_index(EDGES, 4, batch=torch.zeros(4, dtype=torch.int64))
    model, x = build_model(small_config(conv), GraphInfo(in_channels=6, num_outputs=2)), torch.randn(4, 6)
    expected = model(x, graph)
    expected.sum().backward()
    file = io.BytesIO()
    torch.save({"graph": graph}, file)
    file.seek(0)
    with torch.serialization.safe_globals([Graph]):
        loaded = torch.load(file, weights_only=True)["graph"]
    spawned = pickle.loads(ForkingPickler.dumps(graph))
    fresh = len(pickle.dumps(Graph.from_edge_index(EDGES, 4, batch=torch.zeros(4, dtype=torch.int64))))
    assert len(pickle.dumps(graph)) == fresh
    for other in (loaded, spawned, pickled(graph), copy.copy(graph), replace(graph)):
        assert other is not graph and not other._kept and "reverse" not in other.__dict__
        assert torch.equal(model(x, other), expected)
    assert copy.deepcopy(graph) is graph


def test_another_graph_made_of_one_derives_its_own() -> None:
    graph = Graph.from_edge_index(EDGES, 4)
    graph.keep("vector", lambda: torch.ones(3))
    assert replace(graph, num_graphs=2).keep("vector", lambda: torch.zeros(3)).tolist() == [0, 0, 0]


# ---------------------------------------------------------------------- order of nodes
def far_ring(size: int) -> Tensor:
    """Edges of a ring whose nodes have random numbers, both ways."""
    number = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    ring = torch.stack([number, number.roll(1)])
    return torch.cat([ring, ring.flip(0)], 1)


@given(edge_lists(), st.randoms())
@settings(deadline=None)
def test_a_reordered_graph_has_the_same_edges_under_new_numbers(edges: tuple[Tensor, int], rng: Any) -> None:
    edge_index, num_nodes = edges
    order = list(range(num_nodes))
    rng.shuffle(order)
    graph = Graph.from_edge_index(edge_index, num_nodes)
    found = graph.reordered(torch.tensor(order))
    assert torch.equal(torch.tensor(order)[found.edge_index], found.sort_edges(edge_index.t()).t())
    # Repeated edges keep the order in which the caller gave them.
    again = found.reordered(torch.tensor(order).argsort())
    assert torch.equal(again.indices, graph.indices)
    assert torch.equal(again.sort_edges(torch.arange(graph.num_edges)), graph.sort_edges(torch.arange(graph.num_edges)))


@pytest.mark.parametrize("order", ["rcm", "clusters", "quick", "auto"])
def test_a_local_order_brings_neighbours_together(order: Any) -> None:
    if order == "clusters":
        pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    graph = Graph.from_edge_index(far_ring(20_000), 20_000)
    found = graph.local_order(order)
    assert found is not None
    ends = graph.reordered(found).edge_index
    assert float((ends[0] - ends[1]).abs().double().quantile(0.9)) <= 2
    assert graph.reordered(found).local_order("auto") is None, "neighbours are near already"


def test_an_order_is_taken_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Graph.from_edge_index(far_ring(1_000), 1_000)
    assert small.local_order("auto") is None
    assert small.local_order("rcm") is not None
    large = Graph.from_edge_index(far_ring(20_000), 20_000)
    assert large.local_order("given") is None
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(ModuleNotFoundError, match="node_order='rcm'"):
        large.local_order("clusters")
    empty = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0)
    assert empty.local_order("auto") is None
    found, isolated = empty.local_order("rcm"), Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 5)
    assert found is not None
    assert found.numel() == 0
    assert sorted(isolated.local_order("rcm")) == list(range(5))


def test_an_order_that_is_none_is_refused() -> None:
    graph = Graph.from_edge_index(EDGES, 4)
    for order in ([0, 1, 2, 2], [0, 1, 2], [0, 1, 2, 4]):
        with pytest.raises(ValueError, match=r"must hold every node 0\.\.3 once"):
            graph.reordered(torch.tensor(order))
    with pytest.raises(ValueError, match="a batch of graphs"):
        Graph.from_edge_index(EDGES, 4, batch=torch.tensor([0, 0, 1, 1])).reordered(torch.arange(4))
