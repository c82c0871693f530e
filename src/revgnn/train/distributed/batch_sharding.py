"""Assigns each epoch's batches to optimizer steps and to ranks, and an evaluation's batches to ranks.

Each rank makes only its own batches of a `Series`; of any other iterable, every rank makes all batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ...data.batch import Batch, Series


@dataclass(frozen=True, kw_only=True, eq=False)
class RankBatch:
    """A batch that a rank processes in a step."""

    number: int
    """Position in the epoch, from 0."""
    batch: Batch
    counts: bool
    """False: a repeated batch of another rank, with weight 0, so that every rank joins every collective operation."""


@dataclass(frozen=True, kw_only=True)
class RankPosition:
    """The number of a rank and the number of ranks."""

    rank: int
    size: int
    """W, the number of ranks."""

    def training(self, epoch: Iterable[Batch], *, accumulate: int, done: int) -> Iterator[list[RankBatch]]:
        """Divide an epoch into steps, and yield this rank's batches of each step after the first ``done``.

        In step s a rank takes batches ``s * W * A + a * W + rank`` for a = 0..A-1. If the last step has fewer batches
        for a rank than for others, the rank repeats the step's first batch with weight 0, so that all ranks process
        equally many batches.

        Args:
            epoch: the batches of an epoch.
            accumulate: A, batches per rank and step.
        Cost: all of a rank's batches of a step are in memory at once.
        """
        if not isinstance(epoch, Series):
            yield from self._dealt(epoch, self.size * accumulate, done)
            return
        together, count = self.size * accumulate, len(epoch)
        steps = []
        for first in range(done * together, count, together):
            last = min(first + together, count)
            own = [(number, True) for number in range(first + self.rank, last, self.size)]
            steps.append(own + [(first, False)] * (-(-(last - first) // self.size) - len(own)))
        made = epoch.take(number for step in steps for number, _ in step)
        for step in steps:
            yield [RankBatch(number=number, batch=next(made), counts=counts) for number, counts in step]

    def _dealt(self, epoch: Iterable[Batch], together: int, done: int) -> Iterator[list[RankBatch]]:
        numbered = islice(enumerate(epoch), done * together, None)
        while (first := next(numbered, None)) is not None:
            own = [RankBatch(number=first[0], batch=first[1], counts=True)] if self.rank == 0 else []
            place = 0
            for place, (number, batch) in enumerate(islice(numbered, together - 1), start=1):
                if place % self.size == self.rank:
                    own.append(RankBatch(number=number, batch=batch, counts=True))
            filler = RankBatch(number=first[0], batch=first[1], counts=False)
            yield own + [filler] * (place // self.size + 1 - len(own))

    def evaluation(self, batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
        """Yield this rank's batches of an evaluation, every W-th one, each with its number."""
        if isinstance(batches, Series):
            numbers = range(self.rank, len(batches), self.size)
            return zip(numbers, batches.take(numbers), strict=True)
        return islice(enumerate(batches), self.rank, None, self.size)
