"""What a step of training or evaluation receives: features, graph, labels, and which rows belong to which split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..graph import Graph

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One self-contained piece of a data set: a graph, a part of one, or several graphs side by side.

    The model gives one output row per node, or per graph where `graph.batch` is set and the task is graph-level; `y`
    and `rows` count those rows.
    """

    x: Tensor
    """[N, F] float32, or [N, F] int64 for categorical features (OGB atoms)."""
    graph: Graph
    edge_attr: Tensor | None = None
    """[E, K] float32 in the graph's own order of edges; ``None``: the edges carry nothing."""
    y: Tensor
    """[n] int64 class of each output row, or [n, T] float32 with NaN where a label is missing."""
    rows: Mapping[str, Tensor]
    """Split name -> int64 positions in the output rows; a split without rows here may be absent."""
    ids: Tensor | None = None
    """[n] int64: which row of the data set each output row is, so that an evaluation can average the logits of rows
    that come more than once; ``None``: each comes once."""

    def to(self, device: torch.device | str) -> Batch:
        """Copy every tensor to a device."""
        return Batch(
            x=self.x.to(device),
            graph=self.graph.to(device),
            edge_attr=None if self.edge_attr is None else self.edge_attr.to(device),
            y=self.y.to(device),
            rows={name: rows.to(device) for name, rows in self.rows.items()},
            ids=None if self.ids is None else self.ids.to(device),
        )

    def tensors(self) -> list[Tensor]:
        """Give every tensor of the batch, for counting their bytes."""
        optional = (self.edge_attr, self.ids, self.graph.batch)
        present = [tensor for tensor in optional if tensor is not None]
        return [self.x, self.y, self.graph.indptr, self.graph.indices, *self.rows.values(), *present]


class Series:
    """Batches in order, each made when it is reached; any of them without those before it.

    Args:
        count: how many there are.
        make: gives the batch of a number, from 0; the same one whenever it is asked.
        through: what the batches pass on their way, such as a thread that makes them ahead; ``None``: nothing.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[int], Batch],
        through: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
    ) -> None:
        self._count, self._make, self._through = count, make, through

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        """Go over all of them."""
        return self.take(range(self._count))

    def take(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """Go over those of the given numbers; no other is made."""
        return self._passed(map(self._make, numbers))

    def through(self, channel: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Series:
        """Give the same batches, on their way through one thing more."""
        return Series(self._count, self._make, lambda batches: channel(self._passed(batches)))

    def _passed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return batches if self._through is None else self._through(batches)


class Footprint:
    """What a source of batches takes of memory beside those that a step makes; what such a source may inherit from."""

    @property
    def waiting_bytes(self) -> int:
        """Most bytes of training batches that were made ahead and wait while a step is taken."""
        return 0

    @property
    def most_waiting(self) -> int:
        """Training batches that wait while a step is taken, at most."""
        return 0

    def held(self) -> list[Tensor]:
        """Give the tensors of training batches that stay from step to step."""
        return []

    def record(self, count: int, around: Callable[[], AbstractContextManager[None]]) -> None:
        """Make the next training batches in the caller's thread, where a recording of its allocations sees them.

        Args:
            count: of them.
            around: entered while one is made that another thread would have made.
        """


class Batches(Protocol):
    """Where a training loop takes its batches from. The batches of an epoch are a pure function of (seed, epoch).

    What comes as a `Series` is made by the rank that needs it alone, and a run that resumes goes to where it was at
    once. Of any other iterable every rank makes all batches, and drops those that are not its own.
    """

    def __len__(self) -> int:
        """Training steps in an epoch."""
        ...

    def train(self, epoch: int) -> Iterable[Batch]:
        """The training batches of an epoch (epochs count from 1), each with ``rows["train"]``."""
        ...

    def evaluate(self) -> Iterable[Batch]:
        """Batches that cover every row of every split once; or several times each, with ``ids``."""
        ...
