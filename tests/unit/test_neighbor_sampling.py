"""The neighbourhood sampler against a search node by node, and the chances of its draws against the binomials."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_graphs import graphs
from revgnn.data.sampling.neighbor import _distinct, sample_neighbors
from revgnn.graph import Graph


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


@given(graphs(least=1), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_all_edges_of_every_hop_are_a_breadth_first_search(graph: Graph, hops: int, random: object) -> None:
    seeds = [node for node in range(graph.num_nodes) if random.random() < 0.3]  # type: ignore[attr-defined]
    wanted = sorted(within(graph, seeds, hops))
    for fanout in (-1, 1000):
        found = sample_neighbors(graph, torch.tensor(seeds, dtype=torch.int64), [fanout] * hops, rng(0))
        assert found.tolist() == wanted


@given(graphs(least=1), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_some_edges_of_a_hop_are_a_part_of_it(graph: Graph, fanouts: list[int], seed: int) -> None:
    seeds = [0]
    found = set(sample_neighbors(graph, torch.tensor(seeds), fanouts, rng(seed)).tolist())
    again = set(sample_neighbors(graph, torch.tensor(seeds), fanouts, rng(seed)).tolist())
    assert found == again
    assert {0} <= found <= within(graph, seeds, len(fanouts))
    most, width = 1, 1
    for fanout in fanouts:
        width *= fanout
        most += width
    assert len(found) <= most


@pytest.mark.parametrize("fanouts", [[2], [2, 3], [3, 1, 2], [5, 5]])
def test_a_tree_gives_exactly_as_many_as_asked(fanouts: list[int]) -> None:
    # Every node has four sources of its own, three hops deep: no draw meets what was there before.
    edges, newest, count = [], [0], 1
    for _ in range(3):
        fresh = []
        for node in newest:
            for _ in range(4):
                edges.append((count, node))
                fresh.append(count)
                count += 1
        newest = fresh
    graph = Graph.from_edge_index(torch.tensor(edges).T.contiguous(), count)
    wanted, width = 1, 1
    for fanout in fanouts:
        width *= min(fanout, 4)
        wanted += width
    for seed in range(5):
        assert sample_neighbors(graph, torch.tensor([0]), fanouts, rng(seed)).numel() == wanted


def test_an_isolated_seed_stands_alone() -> None:
    graph = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3)
    assert sample_neighbors(graph, torch.tensor([2]), [5, -1], rng(0)).tolist() == [2]
    assert sample_neighbors(graph, torch.tensor([], dtype=torch.int64), [5, -1], rng(0)).tolist() == []


@pytest.mark.parametrize(("below", "count"), [(5, 1), (5, 2), (5, 4), (6, 3)])
def test_every_set_is_drawn_equally_often(below: int, count: int) -> None:
    rows = 20_000
    drawn = _distinct(np.full(rows, below), count, rng(1))
    assert all(len(set(row)) == count for row in drawn.tolist())
    sets = Counter(tuple(sorted(row)) for row in drawn.tolist())
    possible = math.comb(below, count)
    assert sets.keys() == set(itertools.combinations(range(below), count))
    spread = math.sqrt(rows / possible * (1 - 1 / possible))
    assert all(abs(number - rows / possible) < 4.5 * spread for number in sets.values())


def test_bounds_of_their_own_are_kept_to() -> None:
    below = np.array([4, 100, 7, 5])
    drawn = _distinct(np.tile(below, 500), 3, rng(2)).reshape(500, 4, 3)
    assert drawn.min() >= 0
    assert (drawn.max(axis=(0, 2)) < below).all()
    assert drawn[:, 1].max() > 90


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
