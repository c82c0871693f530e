"""Partitions and induced subgraphs against loops over nodes and edges, on graphs of every kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drawn_graphs import graphs, one_graph
from revgnn.data import LoaderConfig, induced, make_batches
from revgnn.data.induced import Cut, Subgraph, induce
from revgnn.data.sampling.clusters import ClusterPartition
from revgnn.data.sampling.random import RandomPartition
from revgnn.graph import Graph
from revgnn.nn.convs import SAGEConv, SAGEOptions
from revgnn.node_order import metis_clusters
from tolerances import assert_close


def by_hand(graph: Graph, nodes: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Edges between some nodes, as (source, destination) in their new numbers, and where they stand."""
    number = {node: place for place, node in enumerate(nodes)}
    kept = [
        (position, number[src], number[dst])
        for position, (src, dst) in enumerate(graph.edge_index.T.tolist())
        if src in number and dst in number
    ]
    return [[src, dst] for _, src, dst in kept], [position for position, _, _ in kept]


def check_piece(graph: Graph, subgraph: Subgraph, nodes: Sequence[int]) -> None:
    edges, positions = by_hand(graph, nodes)
    assert subgraph.nodes.tolist() == list(nodes)
    assert subgraph.edges.tolist() == positions
    assert subgraph.graph.edge_index.T.tolist() == edges
    # What the constructor of a graph would have made of the same edges: order, dtypes, and no permutation.
    built = Graph.from_edge_index(torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T.contiguous(), len(nodes))
    assert built.edge_ids is None
    assert subgraph.graph.edge_ids is None
    for mine, theirs in ((subgraph.graph.indptr, built.indptr), (subgraph.graph.indices, built.indices)):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert subgraph.graph.num_nodes == len(nodes)


@given(graphs(), st.integers(1, 15), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_a_cut_gives_the_subgraph_of_every_part(graph: Graph, parts: int, at_once: int, seed: int) -> None:
    part = RandomPartition(graph.num_nodes)(np.random.default_rng(seed), parts)
    assert part.shape == (graph.num_nodes,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(induced, "EDGES_AT_ONCE", at_once)
        cut = Cut(graph, part, parts)
    subgraphs = [cut.subgraph(number) for number in range(parts)]
    for number, subgraph in enumerate(subgraphs):
        check_piece(graph, subgraph, [node for node in range(graph.num_nodes) if part[node] == number])
    assert sorted(torch.cat([subgraph.nodes for subgraph in subgraphs]).tolist()) == list(range(graph.num_nodes))


@given(graphs(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_induce_gives_the_subgraph_of_any_nodes(graph: Graph, rng: object) -> None:
    nodes = [node for node in range(graph.num_nodes) if rng.random() < 0.6]  # type: ignore[attr-defined]
    check_piece(graph, induce(graph, torch.tensor(nodes, dtype=torch.int64)), nodes)


@pytest.mark.parametrize("parts", [2, 255, 256, 257, 2**15 + 1])
def test_part_numbers_of_every_width(parts: int) -> None:
    rng = np.random.default_rng(0)
    graph = Graph.from_edge_index(torch.from_numpy(rng.integers(0, 30, (2, 200))), 30)
    # Pairs of nodes in the parts with the highest and the lowest numbers.
    part = torch.tensor([parts - 1, 0, parts - 2] * 10)
    cut = Cut(graph, part, parts)
    for number in (0, parts - 2, parts - 1):
        check_piece(graph, cut.subgraph(number), (part == number).nonzero()[:, 0].tolist())


def test_a_subgraph_of_wide_indices_is_narrow() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 1]]), 3)
    wide = Graph(num_nodes=3, indptr=graph.indptr.long(), indices=graph.indices.long())
    check_piece(graph, induce(wide, torch.tensor([1, 2])), [1, 2])
    check_piece(graph, Cut(wide, torch.tensor([1, 0, 0]), 2).subgraph(0), [1, 2])


def test_random_parts_are_drawn_independently_and_evenly() -> None:
    part = RandomPartition(30_000)(np.random.default_rng(0), 3)
    counts = torch.bincount(part, minlength=3).double()
    # Four standard deviations of a binomial count; equal counts would be a shuffled partition, not independent draws.
    assert bool(((counts - 10_000).abs() < 4 * (30_000 * 2 / 9) ** 0.5).all())
    assert len(set(counts.tolist())) > 1


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 30), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_clusters_stay_whole_and_parts_have_equally_many(clusters: int, parts: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = torch.from_numpy(rng.integers(0, clusters, n))
    # All clusters appear, so that how many a part has can be counted.
    owner = torch.cat([owner, torch.arange(clusters)])
    part = ClusterPartition(owner, clusters)(rng, parts)
    of_cluster = {int(cluster): set(part[owner == cluster].tolist()) for cluster in owner.unique()}
    assert all(len(where) == 1 for where in of_cluster.values())
    sizes = np.bincount([where.pop() for where in of_cluster.values()], minlength=parts)
    assert sizes.sum() == clusters
    assert sizes.max() - sizes.min() <= 1


def test_clusters_come_together_anew() -> None:
    partition = ClusterPartition(torch.arange(12), 12)
    draws = {tuple(partition(np.random.default_rng((0, epoch)), 3).tolist()) for epoch in range(20)}
    assert len(draws) == 20


def two_rings(size: int) -> Tensor:
    """Edges of two rings, joined by one edge, each edge one way."""
    ring = torch.stack([torch.arange(size), (torch.arange(size) + 1) % size])
    return torch.cat([ring, ring + size, torch.tensor([[0], [size]])], 1)


def test_metis_finds_what_belongs_together() -> None:
    pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    graph = Graph.from_edge_index(two_rings(40), 80)
    clusters = metis_clusters(graph.edge_index.numpy(), 80, 2)
    assert clusters.dtype == np.int64
    assert len(set(clusters[:40].tolist())) == 1
    assert len(set(clusters[40:].tolist())) == 1
    assert clusters[0] != clusters[40]
    # Loops, repeats and directions change nothing, and neither does asking again.
    loops = torch.arange(80).repeat(2, 1)
    more = Graph.from_edge_index(torch.cat([two_rings(40), two_rings(40).flip(0), two_rings(40), loops], 1), 80)
    assert np.array_equal(metis_clusters(more.edge_index.numpy(), 80, 2), clusters)


@given(graphs(most=9), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_metis_gives_every_node_one_cluster(graph: Graph, count: int) -> None:
    pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    clusters = metis_clusters(graph.edge_index.numpy(), graph.num_nodes, count)
    assert clusters.shape == (graph.num_nodes,)
    assert ((clusters >= 0) & (clusters < count)).all()
    if count >= graph.num_nodes:
        assert len(set(clusters.tolist())) == graph.num_nodes


def test_without_pymetis_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'revgnn\[metis\]', or choose kind='random'"):
        metis_clusters(two_rings(4).numpy(), 8, 2)


def test_the_diagonal_of_clusters_is_enhanced_as_published() -> None:
    """Equation 11 of Cluster-GCN with dense matrices, for a mean over the neighbours; existing loops are replaced."""
    pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    data, boost = one_graph(40, 200, seed=3, plain=True), 0.7
    loader = LoaderConfig(kind="clusters", num_parts=9, parts_per_batch=3, diagonal=boost, prefetch=0)
    plain = make_batches(data, None, 0, replace(loader, diagonal=None))
    conv = SAGEConv(1, 2, options=SAGEOptions(root_weight=False, bias=False))
    for batch, before in zip(make_batches(data, None, 0, loader).train(1), plain.train(1), strict=True):
        adjacency = torch.zeros(before.graph.num_nodes, before.graph.num_nodes)
        for src, dst in before.graph.edge_index.T.tolist():
            adjacency[dst, src] += src != dst
        adjacency += torch.eye(len(adjacency))
        adjacency /= adjacency.sum(1, keepdim=True)
        wanted = (adjacency + boost * adjacency.diag().diag()) @ batch.x @ conv.lin_l.weight.T
        assert_close(conv(batch.x, batch.graph), wanted)
        assert torch.equal(batch.x, before.x)
    with pytest.raises(ValueError, match=r"loader\.diagonal=0\.7 gives every node a loop without features"):
        make_batches(one_graph(40, 200, seed=3), None, 0, loader)
    with pytest.raises(ValueError, match=r"loader\.diagonal must be at least 0, got -1"):
        replace(loader, diagonal=-1.0)
