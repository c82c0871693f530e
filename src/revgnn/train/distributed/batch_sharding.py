"""Whose batches are whose: an epoch cut into steps, each step's batches dealt to the ranks; an evaluation likewise.

What comes as a `Series` is made where it is needed alone; of any other iterable every rank makes everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ...data.batch import Batch, Series


@dataclass(frozen=True, kw_only=True, eq=False)
class RankBatch:
    """A batch that a rank takes in a step."""

    number: int
    """Its place among the batches of the epoch, from 0."""
    batch: Batch
    counts: bool
    """False: it is another rank's, repeated with no weight, so that every rank joins every exchange."""


@dataclass(frozen=True, kw_only=True)
class RankPosition:
    """A rank among all of them."""

    rank: int
    size: int
    """W, the number of ranks."""

    def training(self, epoch: Iterable[Batch], *, accumulate: int, done: int) -> Iterator[list[RankBatch]]:
        """Cut an epoch into steps, and give what this rank does in each after the first ``done``.

        Step s takes batches ``s * W * A + a * W + rank`` for a = 0..A-1. A rank that finds fewer than others in the
        last step repeats the first batch of the step without counting it: every rank takes equally many.

        Args:
            epoch: the batches of an epoch.
            accumulate: A, batches of a rank in a step.
        Cost: a rank's batches of a step are held at once.
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
        """Give every W-th batch of an evaluation from this rank's first on, each with its number."""
        if isinstance(batches, Series):
            numbers = range(self.rank, len(batches), self.size)
            return zip(numbers, batches.take(numbers), strict=True)
        return islice(enumerate(batches), self.rank, None, self.size)
