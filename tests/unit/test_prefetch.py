"""Batches made ahead: the same as others, never more than asked for, and no thread left behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drawn_graphs import one_graph
from revgnn.data import Batch, FullBatch, LoaderConfig, Prefetched, buffers, make_batches
from revgnn.measure import tensor_bytes
from revgnn.train import Interrupted, TrainConfig, fit


class Counting:
    """Batches that note how many were begun, by which thread, and fail where asked to."""

    def __init__(self, count: int = 6, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.begun: list[str] = []
        self.batch = FullBatch(one_graph(8, 20)).batch

    def __len__(self) -> int:
        return self.count

    def train(self, epoch: int) -> Iterator[Batch]:
        for number in range(self.count):
            self.begun.append(threading.current_thread().name)
            if number == self.fail_at:
                raise RuntimeError("a file went away")
            yield self.batch

    def evaluate(self) -> Iterator[Batch]:
        return self.train(0)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("revgnn-prefetch")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not threads()


@pytest.mark.parametrize(
    "loader",
    [
        {"kind": "random", "num_parts": 7, "eval_parts": 3, "eval_views": 2},
        {"kind": "neighbor", "fanouts": (3, 2), "batch_size": 4},
    ],
)
@pytest.mark.parametrize("depth", [1, 2, 50])
def test_the_same_batches_in_the_same_order(loader: dict[str, Any], depth: int) -> None:
    data = one_graph(50, 200)
    plain = make_batches(data, None, 1, LoaderConfig(prefetch=0, **loader))
    ahead = make_batches(data, None, 1, LoaderConfig(prefetch=depth, **loader))
    assert isinstance(ahead, Prefetched)
    assert not isinstance(plain, Prefetched)
    assert len(ahead) == len(plain)
    for one, other in ((plain.train(1), ahead.train(1)), (plain.train(4), ahead.train(4))):
        for mine, theirs in zip(one, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine.tensors(), theirs.tensors(), strict=True))
    for mine, theirs in zip(plain.evaluate(), ahead.evaluate(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.tensors(), theirs.tensors(), strict=True))


def test_they_are_made_while_the_model_works_and_no_further_than_asked() -> None:
    source = Counting(20)
    for number, _ in enumerate(Prefetched(source, 3).train(1)):
        deadline = time.monotonic() + 10
        wanted = min(number + 4, 20)
        while len(source.begun) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(source.begun) == wanted
    assert {name.rpartition("_")[0] for name in source.begun} == {"revgnn-prefetch"}


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_epoch_that_is_left_early_ends_its_thread(taken: int) -> None:
    source = Counting(1000)
    stream = Prefetched(source, 2).train(1)
    for _ in range(taken):
        next(stream)
    del stream
    gc.collect()
    assert not threads()
    assert len(source.begun) <= taken + 3


def test_what_has_not_begun_when_an_epoch_is_left_never_does() -> None:
    source, go_on = Counting(10), threading.Event()

    class Slow(Counting):
        def train(self, epoch: int) -> Iterator[Batch]:
            for batch in source.train(epoch):
                if len(source.begun) == 2:
                    go_on.wait(10)
                yield batch

    stream = Prefetched(Slow(), 2).train(1)
    next(stream)
    while len(source.begun) < 2:
        time.sleep(0.001)
    threading.Timer(0.2, go_on.set).start()
    # The second is on its way and is waited for; the third waits for the second, and is called off.
    stream.close()  # type: ignore[attr-defined]
    assert not threads()
    assert len(source.begun) == 2


def test_an_exception_comes_where_the_batch_is_wanted() -> None:
    stream = Prefetched(Counting(6, fail_at=2), 4).train(1)
    next(stream)
    next(stream)
    with pytest.raises(RuntimeError, match="a file went away"):
        next(stream)
    assert not threads()
    with pytest.raises(StopIteration):
        next(stream)


class Net(nn.Module):
    """A linear map that raises at one call."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.linear, self.error, self.calls = nn.Linear(1, 3), error, 0

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        self.calls += 1
        if self.error is not None and self.calls == 3:
            raise self.error
        return self.linear(x)


@pytest.mark.parametrize("error", [RuntimeError("in the model"), KeyboardInterrupt()])
def test_a_run_that_stops_in_an_epoch_ends_the_thread(error: BaseException) -> None:
    source = Counting(500)
    with pytest.raises(type(error)):
        fit(Net(error), Prefetched(source), TrainConfig(epochs=2), metric="accuracy", device="cpu")
    # The exception still holds the frames of the run; the epoch is closed all the same.
    assert not threads()
    assert len(source.begun) < 10


def test_a_signal_ends_the_thread() -> None:
    import signal

    class Stops(Net):
        def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
            if self.calls == 3:
                signal.raise_signal(signal.SIGTERM)
            return super().forward(x)

    with pytest.raises(Interrupted, match="nothing was kept"):
        fit(Stops(), Prefetched(Counting(500)), TrainConfig(epochs=2), metric="accuracy", device="cpu")
    assert not threads()


def test_the_first_batches_can_be_made_in_the_callers_thread() -> None:
    source = Counting(4)
    ahead = Prefetched(source, 2)
    made = []

    @contextmanager
    def around() -> Iterator[None]:
        made.append(len(source.begun))
        yield

    ahead.record(5, around)
    assert len(list(ahead.train(1))) == 4
    assert len(list(ahead.train(2))) == 4
    assert source.begun[:5] == ["MainThread"] * 5
    assert all(name.startswith("revgnn-prefetch") for name in source.begun[5:])
    # The end of an epoch is asked for as well.
    assert made == [0, 1, 2, 3, 4, 4]


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers also for the small arrays of a test."""
    monkeypatch.setattr(buffers, "_LEAST", 1)


@pytest.mark.usefixtures("small_buffers")
def test_memory_in_use_is_not_overwritten() -> None:
    data, loader = one_graph(500, 4000), {"kind": "neighbor", "fanouts": (3, 2), "batch_size": 4}
    plain = make_batches(data, None, 1, LoaderConfig(prefetch=0, **loader))  # type: ignore[arg-type]
    ahead = make_batches(data, None, 1, LoaderConfig(prefetch=2, **loader))  # type: ignore[arg-type]
    places, kept, views = [], [], []
    for number, batch in enumerate(ahead.train(1)):
        places.append(batch.x.data_ptr())
        if number % 5 == 0:
            kept.append((number, batch))
        elif number % 5 == 1:
            views.append((number, batch.x[2:].T))  # the storage outlives the tensor that the batch had
        del batch
    wanted = list(plain.train(1))
    assert len(places) == len(wanted) > 50
    assert len(set(places)) < len(places) / 2 + 10, "memory that nobody has is used again"
    held = {batch.x.data_ptr() for _, batch in kept} | {view.data_ptr() for _, view in views}
    assert len(held) == len(kept) + len(views)
    for number, batch in kept:
        assert all(torch.equal(a, b) for a, b in zip(batch.tensors(), wanted[number].tensors(), strict=True))
    for number, view in views:
        assert torch.equal(view, wanted[number].x[2:].T)


@pytest.mark.usefixtures("small_buffers")
def test_memory_comes_back_when_autograd_is_done_with_it() -> None:
    pool, weight = buffers.Buffers(), torch.ones(3, requires_grad=True)
    with pool.used():
        x = buffers.take_rows(torch.eye(3), torch.tensor([2, 1]))
        place = x.data_ptr()
        loss = (x * weight).sum()
        del x
        other = buffers.empty((2, 3), torch.float32)
        assert other.data_ptr() != place, "autograd has it still"
        other.fill_(torch.nan)
        loss.backward()
        assert weight.grad is not None and weight.grad.tolist() == [0, 1, 1]
        del loss
        assert buffers.empty((2, 3), torch.float32).data_ptr() == place
        assert buffers.empty((200, 3), torch.float32).shape == (200, 3)
        assert buffers.empty((0, 3), torch.float32).shape == (0, 3)
    assert buffers.empty((2, 3), torch.float32).data_ptr() != place, "only who asks for buffers gets one"


def test_what_waits_is_counted() -> None:
    source = Counting(3)
    ahead = Prefetched(source, 3)
    list(ahead.evaluate())
    assert ahead.waiting_bytes == 0, "nothing of an evaluation waits while a step is taken"
    list(ahead.train(1))
    # Of three steps two are left to wait for the first.
    assert ahead.waiting_bytes == 2 * tensor_bytes(source.batch.tensors()) > 0


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=0 must be at least 1; for no batches ahead"):
        Prefetched(Counting(), 0)
