"""The neighbour sampler against a search node by node, and the probabilities of its draws against exact ones."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from drawn_graphs import graphs
from revgnn.data.induced import Subgraph
from revgnn.data.sampling.neighbor import _distinct, sample_neighbors
from revgnn.graph import Graph


def sample(
    graph: Graph, seeds: Sequence[int], fanouts: Sequence[int], generator: np.random.Generator, *, replace: bool = False
) -> Subgraph:
    """Sample, and check that the subgraph is one: its edges are edges of the graph, in order."""
    numbers = np.array(seeds, np.int64)
    found = sample_neighbors(graph.indptr.numpy(), graph.indices.numpy(), numbers, fanouts, generator, replace=replace)
    assert found.graph.num_nodes == found.nodes.numel()
    assert found.nodes.tolist() == sorted(set(found.nodes.tolist()))
    assert found.edges.tolist() == sorted(found.edges.tolist())
    if not replace:
        assert len(set(found.edges.tolist())) == found.edges.numel()
    assert torch.equal(found.nodes[found.graph.edge_index], graph.edge_index[:, found.edges])
    return found


def sources_of(graph: Graph, node: int) -> list[int]:
    low, high = graph.indptr[node : node + 2].tolist()
    return graph.indices[low:high].tolist()


def within(graph: Graph, seeds: list[int], hops: int) -> set[int]:
    """Every node from which a message can come in so many hops, by a search node by node."""
    found, newest = set(seeds), set(seeds)
    for _ in range(hops):
        newest = {source for node in newest for source in sources_of(graph, node)} - found
        found |= newest
    return found


@given(graphs(least=1), st.integers(0, 3), st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_all_edges_of_every_hop_are_a_breadth_first_search(
    graph: Graph, hops: int, replace: bool, random: object
) -> None:
    seeds = [node for node in range(graph.num_nodes) if random.random() < 0.3]  # type: ignore[attr-defined]
    inner = within(graph, seeds, hops - 1) if hops else set()
    edges = [edge for edge, node in enumerate(graph.destinations.tolist()) if node in inner]
    for fanout in (-1,) if replace else (-1, 1000):
        found = sample(graph, seeds, [fanout] * hops, rng(0), replace=replace)
        assert found.nodes.tolist() == sorted(within(graph, seeds, hops))
        assert found.edges.tolist() == edges, "every edge into a node nearer than the last hop, and no other"


@given(graphs(least=1), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_every_reached_node_draws_its_hops_fanout_once(
    graph: Graph, fanouts: list[int], replace: bool, seed: int
) -> None:
    found, again = (sample(graph, [0], fanouts, rng(seed), replace=replace) for _ in range(2))
    assert torch.equal(found.nodes, again.nodes) and torch.equal(found.edges, again.edges)
    # Walk the drawn edges from the seed: the hop in which a node is first met says how many edges it draws.
    place = int((found.nodes == 0).nonzero())
    newest, met = {place}, {place}
    for fanout in [*fanouts, 0]:
        for node in newest:
            whole = int(graph.in_degree[found.nodes[node]])
            wanted = (fanout if whole else 0) if replace else min(fanout, whole)
            assert int(found.graph.in_degree[node]) == wanted
        newest = {source for node in newest for source in sources_of(found.graph, node)} - met
        met |= newest
    assert len(met) == found.nodes.numel(), "nothing else is in the subgraph"


@given(graphs(least=1), st.lists(st.integers(-1, 4), min_size=0, max_size=3), st.booleans(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_the_order_of_hops_is_another_order_of_the_same_sample(
    graph: Graph, fanouts: list[int], replace: bool, seed: int
) -> None:
    fanouts = [fanout or -1 for fanout in fanouts]
    seeds = np.arange(0, graph.num_nodes, 3)
    arrays = graph.indptr.numpy(), graph.indices.numpy()
    plain = sample_neighbors(*arrays, seeds, fanouts, rng(seed), replace=replace)
    found = sample_neighbors(*arrays, seeds, fanouts, rng(seed), replace=replace, by_hop=True)
    assert plain.hops is None and found.hops is not None
    assert torch.equal(found.nodes.sort().values, plain.nodes)
    assert torch.equal(found.edges.sort().values, plain.edges)
    assert torch.equal(found.nodes[found.graph.edge_index], graph.edge_index[:, found.edges])
    sources, ends = found.graph.edge_index
    key = ends * found.graph.num_nodes + sources
    assert torch.equal(key.sort().values, key), "edges by (destination, source)"
    # The hop of a node is the length of the shortest walk along drawn edges from it to a seed.
    starts = [0, *found.hops]
    assert len(found.hops) == len(fanouts) + 1 and found.hops[-1] == found.nodes.numel()
    met = newest = set(range(len(seeds)))
    for low, high in itertools.pairwise(starts):
        assert newest == set(range(low, high))
        assert found.nodes[low:high].tolist() == sorted(found.nodes[low:high].tolist())
        newest = {source for node in newest for source in sources_of(found.graph, node)} - met
        met = met | newest


def test_an_isolated_seed_stands_alone() -> None:
    graph = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3)
    assert sample(graph, [2], [5, -1], rng(0)).nodes.tolist() == [2]
    assert sample(graph, [2], [5, -1], rng(0), replace=True).edges.tolist() == []
    assert sample(graph, [], [5, -1], rng(0)).nodes.tolist() == []


# ------------------------------------------------------------------ probabilities
def check_chances(counts: Sequence[int], chances: Sequence[float]) -> None:
    """Compare counts of exclusive outcomes with their chances: a chi-square test that errs once in 10^4 seeds."""
    expected = np.asarray(chances) * sum(counts)
    assert sum(chances) == pytest.approx(1.0)
    statistic = float(((np.asarray(counts) - expected) ** 2 / expected).sum())
    assert statistic < chi2.ppf(1 - 1e-4, len(counts) - 1)


@pytest.mark.parametrize(("below", "count"), [(5, 1), (5, 2), (5, 4), (6, 3)])
def test_every_set_is_drawn_equally_often(below: int, count: int) -> None:
    drawn = _distinct(np.full(20_000, below), count, rng(1)).T
    assert all(len(set(row)) == count for row in drawn.tolist())
    sets = Counter(tuple(sorted(row)) for row in drawn.tolist())
    possible = list(itertools.combinations(range(below), count))
    assert sets.keys() == set(possible)
    check_chances([sets[each] for each in possible], [1 / len(possible)] * len(possible))


def test_bounds_of_their_own_are_kept_to() -> None:
    below = np.array([4, 100, 7, 5])
    drawn = _distinct(np.tile(below, 500), 3, rng(2)).reshape(3, 500, 4)
    assert drawn.min() >= 0
    assert (drawn.max(axis=(0, 1)) < below).all()
    assert drawn[:, :, 1].max() > 90


TWO_HOPS = Graph.from_edge_index(
    torch.tensor([[1, 2, 3, 3, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 2, 1, 1, 1, 2, 3]]), num_nodes=9
)
"""Node 0 hears 1, 2 and 3; these hear 3 to 6, 3 and 7, and 8. So 3 may be reached in the first hop or in the second."""


@pytest.mark.parametrize("replace", [False, True])
def test_edges_of_two_hops_are_drawn_with_exact_probabilities(replace: bool) -> None:
    """Enumerate the first hop (fanout 2 of 3 edges); given it, each node's own draw is a plain urn."""
    graph, draws = TWO_HOPS, 6000
    seen: Counter[tuple[int, ...]] = Counter()
    second: dict[int, Counter[tuple[int, ...]]] = {node: Counter() for node in (1, 2, 3)}
    generator = rng(3)
    for _ in range(draws):
        found = sample(graph, [0], [2, 2], generator, replace=replace)
        into = graph.destinations[found.edges].tolist()
        drawn = {
            node: tuple(e for e, end in zip(found.edges.tolist(), into, strict=True) if end == node)
            for node in range(9)
        }
        seen[drawn[0]] += 1
        for node in {graph.indices[edge].item() for edge in drawn[0]}:
            second[node][drawn[node]] += 1
        assert all(not drawn[node] for node in range(1, 9) if node not in graph.indices[list(drawn[0])].tolist())
    for node, counts in ((0, seen), *second.items()):
        low, high = graph.indptr[node : node + 2].tolist()
        edges = range(low, high)
        if replace:
            urn = Counter(tuple(sorted(pair)) for pair in itertools.product(edges, repeat=2))
        else:
            urn = Counter(itertools.combinations(edges, min(2, len(edges))))
        assert counts.keys() <= urn.keys()
        if len(urn) > 1:
            check_chances([counts[each] for each in urn], [ways / urn.total() for ways in urn.values()])


@pytest.mark.parametrize("replace", [False, True])
def test_pyg_draws_edges_equally_often(replace: bool) -> None:
    import torch_geometric.typing as optional
    from torch_geometric.data import Data

    # torch-sparse 0.6.18 draws unevenly without replacement: of three edges it takes the first one always.
    if not (optional.WITH_PYG_LIB or (replace and optional.WITH_TORCH_SPARSE)):
        pytest.skip("PyG's NeighborLoader needs pyg-lib, or torch-sparse with replacement, compiled for this torch")
    from torch_geometric.loader import NeighborLoader

    graph, draws = TWO_HOPS, 3000
    data = Data(edge_index=graph.edge_index, num_nodes=9)
    theirs: Counter[int] = Counter()
    seeds = torch.zeros(draws, dtype=torch.int64)
    for batch in NeighborLoader(data, num_neighbors=[2, 2], input_nodes=seeds, batch_size=1, replace=replace):
        theirs.update(set(batch.e_id.tolist()))
    own: Counter[int] = Counter()
    generator = rng(4)
    for _ in range(draws):
        own.update(set(sample(graph, [0], [2, 2], generator, replace=replace).edges.tolist()))
    for edge in range(graph.num_edges):
        share = (own[edge] + theirs[edge]) / (2 * draws)
        spread = max((share * (1 - share) * 2 / draws) ** 0.5, 1e-9)
        assert abs(own[edge] - theirs[edge]) / draws < 4.5 * spread


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
