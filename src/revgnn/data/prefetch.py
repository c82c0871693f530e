"""Prefetches batches in a background thread while the model processes the previous ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from ..measure import tensor_bytes
from .batch import Batch, Batches, Footprint, Series
from .buffers import Buffers


class Prefetched(Footprint):
    """The same batches in the same order, each made up to ``depth`` batches before it is needed.

    The batches must not depend on global random states, which the thread would share with the model; this package's
    batches do not. An exception in making a batch is raised when that batch is requested. The thread ends with the
    epoch, or when the iterator is closed or deleted.

    Args:
        batches: the batches to prefetch.
        depth: largest number of waiting batches, at least 1.
    Raises: ValueError: ``depth`` is below 1.
    Cost: the memory of ``depth`` additional batches.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import Prefetched
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> batches = Prefetched(revgnn.make_batches(data), depth=1)
        >>> len(list(batches.train(1)))
        1
    """

    def __init__(self, batches: Batches, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth} must be at least 1; for no batches ahead, use the batches themselves")
        self.batches, self.depth = batches, depth
        self._direct = 0
        self._around: Callable[[], AbstractContextManager[None]] = nullcontext
        self._largest = 0

    def __getstate__(self) -> dict[str, object]:
        # A recording refers to these batches, not to copies.
        return {**self.__dict__, "_direct": 0, "_around": nullcontext}

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.batches)

    def train(self, epoch: int) -> Iterable[Batch]:
        """Give the training batches of an epoch."""
        source = self.batches.train(epoch)
        return source.through(self._training) if isinstance(source, Series) else self._training(iter(source))

    def evaluate(self) -> Iterable[Batch]:
        """Give the batches of an evaluation."""
        source = self.batches.evaluate()
        return source.through(self._ahead) if isinstance(source, Series) else self._ahead(iter(source))

    @property
    def waiting_bytes(self) -> int:
        """Upper bound on the bytes of waiting training batches, from the largest batch so far."""
        return self.most_waiting * self._largest

    @property
    def most_waiting(self) -> int:
        """Largest number of training batches that wait during a step, all of the same epoch."""
        return min(self.depth, max(len(self) - 1, 0))

    def record(self, count: int, around: Callable[[], AbstractContextManager[None]]) -> None:
        """Make the next training batches in the caller's thread, so that a recording sees their allocations.

        Args:
            count: number of batches.
            around: context for making a batch.
        """
        self._direct, self._around = count, around

    def _training(self, source: Iterator[Batch]) -> Iterator[Batch]:
        for batch in self._direct_first(source):
            self._largest = max(self._largest, tensor_bytes(batch.tensors()))
            yield batch

    def _direct_first(self, source: Iterator[Batch]) -> Iterator[Batch]:
        while self._direct:
            with self._around():
                batch = next(source, None)
            if batch is None:
                return
            self._direct -= 1
            yield batch
        yield from self._ahead(source)

    def _ahead(self, source: Iterator[Batch]) -> Iterator[Batch]:
        buffers = Buffers()

        def make() -> Batch | None:
            with buffers.used():
                return next(source, None)

        with ThreadPoolExecutor(1, thread_name_prefix="revgnn-prefetch") as thread:
            waiting: deque[Future[Batch | None]] = deque(thread.submit(make) for _ in range(self.depth))
            try:
                while (batch := waiting.popleft().result()) is not None:
                    waiting.append(thread.submit(make))
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()
