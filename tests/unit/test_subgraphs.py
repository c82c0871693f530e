"""Batches of one graph: what is in them, what they are a function of, and views of all of it against a hand loop."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drawn_graphs import EDGE_SIZES, one_graph
from revgnn.data import (
    Batch,
    Batches,
    Dataset,
    FullBatch,
    GraphInfo,
    LoaderConfig,
    SaintOptions,
    final_batches,
    make_batches,
)
from revgnn.data.sampling.parts import Views
from revgnn.data.subgraphs import GraphSource
from revgnn.graph import Graph
from revgnn.measure import peak_memory, tensor_bytes
from revgnn.train import FinalScores, FitResult, TrainConfig, fit, predict
from revgnn.train.evaluate import evaluate
from revgnn.train.objective import Objective
from tolerances import assert_close

RANDOM = LoaderConfig(kind="random", num_parts=4, eval_parts=3, eval_views=2)
NEIGHBOR = LoaderConfig(kind="neighbor", fanouts=(2, 2), batch_size=5)
SAINT = LoaderConfig(kind="saint", saint=SaintOptions(budget=4, coverage=2))
OBJECTIVE = Objective(loss="cross_entropy", metric="accuracy")
CLUSTERS = LoaderConfig(kind="clusters", num_parts=9, parts_per_batch=2)


def edge_value(data: Dataset, edge: int) -> tuple[float, ...]:
    """What a batch should hold for an edge of a data set."""
    assert data.edge_attr is not None
    values = data.edge_attr[edge].tolist()
    if data.info.edge_categories is None:
        return tuple(values)
    return tuple(float(code == hot) for code, size in zip(values, EDGE_SIZES, strict=True) for hot in range(size))


def check_batch(data: Dataset, batch: Batch, *, splits: bool = True, sampled: bool = False) -> None:
    """Compare a batch with a loop over the edges of its data set; a sampled one has some of them."""
    assert batch.ids is not None
    nodes = batch.ids.tolist()
    assert nodes == sorted(set(nodes))
    assert torch.equal(batch.x, data.x[batch.ids].to(batch.x.dtype))
    assert batch.x.dtype == (torch.int64 if data.info.categories else torch.float32)
    assert torch.equal(batch.y, data.y[batch.ids])
    number = {node: place for place, node in enumerate(nodes)}
    wanted = Counter(
        (number[src], number[dst], None if data.edge_attr is None else edge_value(data, edge))
        for edge, (src, dst) in enumerate(data.edge_index.T.tolist())
        if src in number and dst in number
    )
    pairs = batch.graph.edge_index.T.tolist()
    values = [None] * len(pairs) if batch.edge_attr is None else map(tuple, batch.edge_attr.tolist())
    found = Counter((src, dst, value) for (src, dst), value in zip(pairs, values, strict=True))
    assert found <= wanted if sampled else found == wanted
    if splits:
        for name, ids in data.splits.items():
            assert [nodes[row] for row in batch.rows[name].tolist()] == sorted(set(ids.tolist()) & set(nodes))


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches have the same bits."""
    pairs = itertools.zip_longest(one.tensors(), other.tensors())
    return one.rows.keys() == other.rows.keys() and all(torch.equal(a, b) for a, b in pairs)


@given(
    n=st.integers(2, 25),
    edges=st.integers(0, 60),
    parts=st.integers(2, 30),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["coded", "plain", "numbers"]),
)
@settings(deadline=None, max_examples=80)
def test_the_parts_of_an_epoch_are_every_training_node_once(
    n: int, edges: int, parts: int, seed: int, kind: str
) -> None:
    data = one_graph(n, edges, seed=seed, coded=kind == "coded", plain=kind == "plain")
    batches = make_batches(data, None, seed, LoaderConfig(kind="random", num_parts=parts, prefetch=0))
    train: list[int] = []
    epoch = list(batches.train(1))
    for batch in epoch:
        check_batch(data, batch)
        assert batch.ids is not None
        assert batch.rows["train"].numel(), "nothing is learned from a part without training nodes"
        train += batch.ids[batch.rows["train"]].tolist()
    assert sorted(train) == sorted(data.splits["train"].tolist())
    assert 1 <= len(epoch) <= len(batches) == parts


def test_parts_of_clusters_keep_the_edges_between_them() -> None:
    pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    data = one_graph(40, 200, seed=3)
    batches = make_batches(data, None, 0, CLUSTERS)
    assert len(batches) == 5
    members = []
    for epoch in (1, 2):
        epoch_batches = list(batches.train(epoch))
        for batch in epoch_batches:
            check_batch(data, batch)
        members.append({tuple(batch.ids.tolist()) for batch in epoch_batches if batch.ids is not None})
    assert members[0] != members[1], "clusters come together anew in every epoch"


@pytest.mark.parametrize("fanouts", [(-1,), (-1, -1), (2, 1)])
def test_neighbourhoods_are_trained_on_their_seeds_alone(fanouts: tuple[int, ...]) -> None:
    data = one_graph(40, 60, seed=1)
    batches = make_batches(data, None, 0, LoaderConfig(kind="neighbor", fanouts=fanouts, batch_size=7, prefetch=0))
    seeds: list[int] = []
    sizes = []
    for batch in batches.train(3):
        check_batch(data, batch, splits=False, sampled=True)
        assert batch.ids is not None
        assert batch.rows.keys() == {"train"}
        sizes.append(batch.rows["train"].numel())
        seeds += batch.ids[batch.rows["train"]].tolist()
        if fanouts == (-1,):
            own = set(batch.ids[batch.rows["train"]].tolist())
            sources = {src for src, dst in data.edge_index.T.tolist() if dst in own}
            assert set(batch.ids.tolist()) == own | sources
    assert sizes == [7, 7, 6]
    assert len(batches) == 3
    assert sorted(seeds) == sorted(data.splits["train"].tolist())
    assert seeds != sorted(seeds), "the order is drawn"


@pytest.mark.parametrize("loader", [RANDOM, NEIGHBOR, replace(NEIGHBOR, with_replacement=True), SAINT, CLUSTERS])
def test_batches_are_a_function_of_seed_epoch_and_step(loader: LoaderConfig) -> None:
    if loader.kind == "clusters":
        pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    data = one_graph(60, 300)

    def epoch_of(seed: int, epoch: int, *before: int) -> list[Batch]:
        batches = make_batches(data, None, seed, loader)
        for earlier in before:
            next(iter(batches.train(earlier)))
        torch.rand(7), np.random.rand(3)
        return list(batches.train(epoch))

    once, again = epoch_of(0, 2), epoch_of(0, 2, 1, 2)
    assert len(once) == len(again)
    assert all(same(a, b) for a, b in zip(once, again, strict=True))
    for other in (epoch_of(0, 3), epoch_of(1, 2)):
        assert not all(same(a, b) for a, b in zip(once, other, strict=False))
    state = torch.get_rng_state()
    list(make_batches(data, None, 0, loader).train(1))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is the model's"


def test_the_neighbours_of_one_node_are_drawn_anew_in_every_epoch_and_step() -> None:
    # Two training nodes with the same 60 sources: what differs between steps and epochs is the draw alone.
    data = one_graph(64, 10)
    ends = [(source, node) for node in (0, 1) for source in range(4, 64)]
    data = replace(
        data,
        edge_index=torch.tensor(ends).T.contiguous(),
        edge_attr=None,
        splits={"train": torch.tensor([0, 1]), "valid": torch.tensor([2])},
    )
    batches = make_batches(data, None, 0, LoaderConfig(kind="neighbor", fanouts=(5,), batch_size=1))
    drawn = []
    for epoch in (1, 2, 3):
        for batch in batches.train(epoch):
            assert batch.ids is not None
            assert batch.graph.num_edges == 5
            drawn.append(tuple(batch.ids[1:].tolist()))
    assert len(set(drawn)) == 6


@given(n=st.integers(2, 25), parts=st.integers(2, 30), views=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_every_node_comes_once_in_every_view(n: int, parts: int, views: int, seed: int) -> None:
    data = one_graph(n, 3 * n, seed=seed)
    loader = LoaderConfig(kind="random", num_parts=2, eval_parts=parts, eval_views=views)
    batches = make_batches(data, None, seed, loader)
    count = torch.zeros(n, dtype=torch.int64)
    for batch in batches.evaluate():
        check_batch(data, batch)
        assert batch.ids is not None
        assert batch.ids.numel()
        count[batch.ids] += 1
    assert count.tolist() == [views] * n
    assert all(same(a, b) for a, b in zip(batches.evaluate(), batches.evaluate(), strict=True))


class Net(nn.Module):
    """Mean of the neighbours and a linear map: what a node gets depends on which edges were cut."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        src, dst = graph.edge_index
        total = torch.zeros_like(x).index_add_(0, dst, x[src])
        mean = total / graph.in_degree.clamp(min=1)[:, None]
        return self.linear(torch.cat([x, mean], 1) / 10)


def test_logits_of_views_are_averaged_as_in_a_hand_loop() -> None:
    data = one_graph(50, 400, seed=5)
    model = Net().eval()
    batches = make_batches(data, None, 7, LoaderConfig(kind="random", num_parts=2, eval_parts=3, eval_views=4))

    def forward(batch: Batch) -> tuple[Tensor, Batch]:
        return model(batch.x, batch.graph), batch

    scores = evaluate(model, batches, objective=OBJECTIVE, forward=forward)
    total = torch.zeros(50, 3)
    for view in range(4):
        part = torch.from_numpy(np.random.default_rng((7, 0, view)).integers(0, 3, 50, dtype=np.int32))
        for number in range(3):
            nodes = (part == number).nonzero()[:, 0]
            place = {int(node): at for at, node in enumerate(nodes)}
            edges = [
                (place[src], place[dst]) for src, dst in data.edge_index.T.tolist() if src in place and dst in place
            ]
            graph = Graph.from_edge_index(torch.tensor(edges).reshape(-1, 2).T.contiguous(), len(nodes))
            total[nodes] += model(data.x[nodes], graph).detach() / 4
    assert_close(predict(model.train(), batches), total)
    assert model.training
    full = model(data.x, Graph.from_edge_index(data.edge_index, 50)).detach()
    assert_close(predict(model, make_batches(data)), full)
    for split, ids in data.splits.items():
        wanted = nn.functional.cross_entropy(total[ids], data.y[ids])
        assert scores[split]["loss"] == pytest.approx(float(wanted), rel=1e-5)
        assert scores[split]["metric"] == pytest.approx(float((total[ids].argmax(1) == data.y[ids]).double().mean()))
    # The views do change what is seen, so that averaging them is tested at all.
    assert float((full - total).abs().mean()) > 0.01


def test_batches_with_and_without_ids_do_not_mix() -> None:
    (batch,) = Views(GraphSource(one_graph(5, 5)), _Everything(), 1, 1, 0).evaluate()

    class Mixed:
        def __len__(self) -> int:
            return 2

        def train(self, epoch: int) -> Iterator[Batch]:
            return iter([])

        def evaluate(self) -> Iterator[Batch]:
            yield batch
            yield FullBatch(one_graph(5, 5)).batch

    model = Net()
    with pytest.raises(ValueError, match="either all batches of an evaluation have ids or none has"):
        evaluate(
            model,
            Mixed(),
            objective=OBJECTIVE,
            forward=lambda batch: (model(batch.x, batch.graph), batch),
        )
    assert model.training


class _Everything:
    def __call__(self, rng: np.random.Generator, num_parts: int) -> Tensor:
        return torch.zeros(5, dtype=torch.int64)


def score_of(data: Dataset, loader: LoaderConfig, *, epochs: int = 2) -> tuple[FitResult, Batches]:
    torch.manual_seed(0)
    batches = make_batches(data, None, 0, loader)
    config = TrainConfig(epochs=epochs, lr=0.05, checkpoint_every=None)
    final = [FinalScores(final_batches(batches))]
    return fit(Net(), batches, config, metric="accuracy", callbacks=final, device="cpu"), batches


def test_the_final_evaluation_gives_the_scores_and_the_first_one_selects() -> None:
    data = one_graph(60, 500, seed=2)
    plain, _ = score_of(data, LoaderConfig(kind="random", num_parts=3, eval_parts=2))
    final, _ = score_of(data, LoaderConfig(kind="random", num_parts=3, eval_parts=2, final_parts=3, final_views=5))
    assert plain.scores == plain.selection == final.selection
    assert final.scores.keys() == plain.scores.keys()
    assert final.scores["test"]["loss"] != plain.scores["test"]["loss"]
    assert final.best_epoch == plain.best_epoch


def test_the_whole_graph_in_one_step_is_what_it_was() -> None:
    data = one_graph(30, 90)
    assert isinstance(make_batches(data), FullBatch)
    result, batches = score_of(data, LoaderConfig(eval_parts=2, final_parts=1), epochs=1)
    (batch,) = batches.train(1)
    assert same(batch, FullBatch(data).batch)
    again, _ = score_of(data, LoaderConfig(), epochs=1)
    assert result.scores == again.scores
    assert result.selection != result.scores


def test_steps_are_counted_where_parts_are_left_out() -> None:
    data = one_graph(6, 10)
    result, batches = score_of(data, LoaderConfig(kind="random", num_parts=20), epochs=3)
    taken = sum(sum(1 for _ in batches.train(epoch)) for epoch in (1, 2, 3))
    assert result.steps == taken < 60


def test_neither_an_epoch_nor_a_view_copies_the_edges_whole() -> None:
    rng, n, edges = np.random.default_rng(0), 2_000, 200_000
    data = Dataset(
        info=GraphInfo(name="many edges", num_outputs=2),
        x=torch.ones(n, 1),
        edge_index=torch.from_numpy(rng.integers(0, n, (2, edges))),
        edge_attr=torch.rand(edges, 32),
        y=torch.zeros(n, dtype=torch.int64),
        splits={"train": torch.arange(1000), "valid": torch.arange(1000, n)},
    )
    loader = LoaderConfig(kind="random", num_parts=10, eval_parts=10, eval_views=3, prefetch=0)
    batches = make_batches(data, None, 0, loader)
    assert data.edge_attr is not None
    whole = tensor_bytes([data.edge_attr])

    def largest(stream: Iterator[Batch]) -> int:
        return max(tensor_bytes(batch.tensors()) for batch in stream)

    def run_through(stream: Callable[[], Iterator[Batch]]) -> None:
        # Without a name for the batch: it goes before the next one comes.
        deque(stream(), maxlen=0)

    for stream in (lambda: batches.train(1), batches.evaluate):
        # A part has a hundredth of the edges; all parts together hold a tenth, and the pass over the edges its numbers.
        assert largest(stream()) < whole / 50
        assert peak_memory(lambda stream=stream: run_through(stream)) < whole / 8
    # The measure does see what the evaluation of the whole graph copies.
    full = make_batches(data, None, 0, LoaderConfig(kind="random", num_parts=10, prefetch=0))
    assert peak_memory(lambda: run_through(full.evaluate)) >= whole
