"""Ranks make and take their own batches and no other, and what they count apart adds up to what one would count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from prepared_graphs import draw_whole, write_store
from rank_jobs import graph_dataset, node_dataset
from revgnn.data import Batch, Dataset, LoaderConfig, SaintOptions, Series, Store, make_batches
from revgnn.data.prefetch import Prefetched
from revgnn.graph import Graph
from revgnn.train.distributed.batch_sharding import RankPosition
from revgnn.train.metric_accumulator import MetricAccumulator
from revgnn.train.objective import Objective


def batch(number: int) -> Batch:
    graph = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 1)
    return Batch(x=torch.full((1, 1), float(number)), graph=graph, y=torch.zeros(1, dtype=torch.int64), rows={})


class Counting:
    """Batches that remember which were made."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, []

    def __len__(self) -> int:
        return self.count

    def train(self, epoch: int) -> Series:
        return Series(self.count, self._make)

    def evaluate(self) -> Series:
        return Series(self.count, self._make)

    def _make(self, number: int) -> Batch:
        self.made.append(number)
        return batch(number)


def taken(epoch: Iterable[Batch], rank: int, size: int, accumulate: int, done: int) -> list[list[tuple[int, bool]]]:
    steps = RankPosition(rank=rank, size=size).training(epoch, accumulate=accumulate, done=done)
    return [[(share.number, share.counts) for share in step if share.batch.x.item() == share.number] for step in steps]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("count", [1, 4, 5, 7, 12])
@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_each_rank_makes_exactly_its_own(size: int, accumulate: int, count: int, prefetch: int) -> None:
    for done in range(3):
        counted = []
        for rank in range(size):
            source = Counting(count)
            epoch = Prefetched(source, prefetch).train(1) if prefetch else source.train(1)
            steps = taken(epoch, rank, size, accumulate, done)
            assert steps == taken(iter(Counting(count).train(1)), rank, size, accumulate, done), "as by going through"
            assert source.made == [number for step in steps for number, _ in step]
            assert len(steps) == max(0, -(-count // (size * accumulate)) - done)
            counted += [number for step in steps for number, counts in step if counts]
        assert sorted(counted) == list(range(min(done * size * accumulate, count), count))


@pytest.mark.parametrize("count", range(1, 14))
def test_every_rank_takes_equally_many_batches_in_a_step(count: int) -> None:
    ranks = [taken(Counting(count).train(1), rank, 3, 2, 0) for rank in range(3)]
    for steps in zip(*ranks, strict=True):
        assert len({len(step) for step in steps}) == 1, "they exchange in every one"


def test_an_evaluation_is_dealt_without_repeats() -> None:
    sources = [Counting(5), Counting(5)]
    numbers = [
        [number for number, _ in RankPosition(rank=rank, size=2).evaluation(source.evaluate())]
        for rank, source in enumerate(sources)
    ]
    assert numbers == [source.made for source in sources] == [[0, 2, 4], [1, 3]]
    through: Iterator[Batch] = iter(Counting(5).evaluate())
    assert [number for number, _ in RankPosition(rank=1, size=2).evaluation(through)] == [1, 3]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("kind", ["random", "clusters", "neighbor", "saint", "ondisk", "graphs"])
def test_every_loader_gives_a_batch_by_its_number(kind: str, prefetch: int, tmp_path: Path) -> None:
    loader = {
        "random": LoaderConfig(kind="random", num_parts=5, eval_parts=3, eval_views=2, prefetch=prefetch),
        "neighbor": LoaderConfig(kind="neighbor", batch_size=11, fanouts=(3, 2), eval_parts=3, prefetch=prefetch),
        "saint": LoaderConfig(kind="saint", saint=SaintOptions(budget=4, coverage=2), eval_parts=3, prefetch=prefetch),
        "ondisk": LoaderConfig(kind="ondisk", eval_parts=3, prefetch=prefetch),
        "graphs": LoaderConfig(),
    }
    if kind == "clusters":
        pytest.importorskip("pymetis")
        loader[kind] = LoaderConfig(kind="clusters", num_parts=12, parts_per_batch=3, eval_parts=3, prefetch=prefetch)
    data: Dataset | Store = graph_dataset() if kind == "graphs" else node_dataset()
    if kind == "ondisk":
        data = Store.open(write_store(tmp_path / "graph", draw_whole(num_parts=4)))
    batches = make_batches(data, 4 if kind == "graphs" else None, 0, loader[kind])
    for series in (batches.train(2), batches.evaluate()):
        assert isinstance(series, Series)
        through = list(series)
        assert len(through) == len(series) >= 3
        for number, alone in zip((2, 0, 1), series.take([2, 0, 1]), strict=True):
            for one, other in zip(alone.tensors(), through[number].tensors(), strict=True):
                torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True)


LOGITS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(3, (40,), generator=torch.Generator().manual_seed(1))
TASKS = torch.where(LOGITS > 1.5, torch.nan, (LOGITS + LOGITS.flip(0) > 0).float())


@pytest.mark.parametrize(
    ("metric", "loss", "y"),
    [("accuracy", "cross_entropy", CLASSES), ("rocauc", "bce", TASKS), ("rmse", "mse", TASKS), ("mae", "mse", TASKS)],
)
@pytest.mark.parametrize("views", [0, 1, 3])
def test_what_ranks_count_adds_up(metric: str, loss: str, y: torch.Tensor, views: int) -> None:
    def accumulator(rank: int, size: int) -> MetricAccumulator:
        own = MetricAccumulator("valid", Objective(loss=loss, metric=metric))
        for number in range(rank, 4 * max(views, 1), size):
            rows = torch.arange(40)[number % 4 :: 4]
            own.add(number, LOGITS[rows] + number // 4, y[rows], rows if views else None)
        return own

    alone = accumulator(0, 1).score()
    first, *others = [accumulator(rank, 3) for rank in range(3)]
    for other in others:
        for piece in other.counts():
            first.take(piece)
    together = first.score()
    if views < 2:
        assert together == alone, "the same sums, to the last bit"
    assert together == pytest.approx(alone, rel=1e-6)


def test_a_rank_that_counted_nothing_takes_the_others() -> None:
    objective = Objective(loss="cross_entropy", metric="accuracy")
    accumulator, empty = MetricAccumulator("test", objective), MetricAccumulator("test", objective)
    accumulator.add(0, LOGITS, CLASSES, None)
    for piece in accumulator.counts():
        empty.take(piece)
    assert empty.score() == accumulator.score()
    assert list(MetricAccumulator("test", objective).counts()) == []
