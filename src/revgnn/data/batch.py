"""The batch of a training or evaluation step: features, graph, labels and the rows of each split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..graph import Graph


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """A batch: a whole graph, a subgraph, or the disjoint union of several graphs.

    The model returns one output row per node, or per graph if `graph.batch` is set and the task is graph-level; `y` and
    `rows` refer to these rows.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> batch = revgnn.Batch(
        ...     x=torch.randn(3, 4),
        ...     graph=revgnn.Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3),
        ...     y=torch.tensor([0, 1, 0]),
        ...     rows={"train": torch.tensor([0, 1]), "test": torch.tensor([2])},
        ... )
    """

    x: Tensor
    """[N, F] float32, or [N, F] int64 for categorical features (OGB atoms)."""
    graph: Graph
    edge_attr: Tensor | None = None
    """[E, K] float32 edge features in the graph's order of edges; ``None``: the edges have no features."""
    y: Tensor
    """[n] int64 class of each output row, or [n, T] float32 with NaN where a label is missing."""
    rows: Mapping[str, Tensor]
    """Split name -> int64 positions in the output rows; a split without rows here may be absent."""
    ids: Tensor | None = None
    """[n] int64 row of the data set of each output row, so that an evaluation can average the logits of a row that
    occurs in several batches; ``None``: each row occurs once."""
    loss_weight: Tensor | None = None
    """[n] float32 weight of each output row in the loss, which is then the sum of weighted losses; ``None``: the loss
    is the mean over the rows. A sampler sets it where nodes are sampled unequally often."""
    hops: tuple[int, ...] | None = None
    """Nodes within 0, 1, ... hops of the output rows, which are the first of them, for layer-wise computation: ``y``,
    `rows` and ``ids`` then cover the first ``hops[0]`` nodes. ``None``: every node is an output row."""
    is_permuted: bool = False
    """Whether the batch is the whole data set in another order: ``ids`` has every row once."""

    def to(self, device: torch.device | str) -> Batch:
        """Copy every tensor to a device."""
        return replace(
            self,
            x=self.x.to(device),
            graph=self.graph.to(device),
            edge_attr=None if self.edge_attr is None else self.edge_attr.to(device),
            y=self.y.to(device),
            rows={name: rows.to(device) for name, rows in self.rows.items()},
            ids=None if self.ids is None else self.ids.to(device),
            loss_weight=None if self.loss_weight is None else self.loss_weight.to(device),
        )

    @property
    def averaged_ids(self) -> Tensor | None:
        """`ids` where rows may occur in other batches too, so that their logits are to be averaged."""
        return None if self.is_permuted else self.ids

    def in_order(self, rows: Tensor) -> Tensor:
        """Return output rows [n, ...] in the data set's order where the batch is the whole data set in another one."""
        if not self.is_permuted:
            return rows
        assert self.ids is not None, "a permuted batch says its order"
        return rows.index_select(0, self.ids.argsort().to(rows.device))

    def tensors(self) -> list[Tensor]:
        """Return every tensor of the batch, to count their bytes."""
        graph = self.graph
        optional = (self.edge_attr, self.ids, self.loss_weight, graph.batch, graph.edge_weight, graph.norm_degree)
        present = [tensor for tensor in optional if tensor is not None]
        return [self.x, self.y, graph.indptr, graph.indices, *self.rows.values(), *present]


class Series:
    """A lazy sequence of batches: each batch is made when it is needed, and can be made without the earlier ones.

    Args:
        count: number of batches.
        make: returns the batch of a number, from 0; repeated calls return the same batch.
        through: wraps the iterator of batches, for example to prefetch them in a thread; ``None``: no wrapper.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import Series
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> (batch,) = revgnn.make_batches(data).evaluate()
        >>> series = Series(3, lambda number: batch)
        >>> len(series), len(list(series.take([2])))
        (3, 1)
    """

    def __init__(
        self,
        count: int,
        make: Callable[[int], Batch],
        through: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
    ) -> None:
        self._count, self._make, self._through = count, make, through

    def __len__(self) -> int:
        """Number of batches."""
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over all batches."""
        return self.take(range(self._count))

    def take(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """Iterate over the batches of the given numbers; no other batch is made."""
        return self._passed(map(self._make, numbers))

    def through(self, channel: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Series:
        """Return the same batches with one more wrapper."""
        return Series(self._count, self._make, lambda batches: channel(self._passed(batches)))

    def _passed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return batches if self._through is None else self._through(batches)


class Footprint:
    """Base class for sources of batches: the memory that a source uses in addition to a step's own batch."""

    @property
    def waiting_bytes(self) -> int:
        """Largest total bytes of prefetched training batches that wait during a step."""
        return 0

    @property
    def most_waiting(self) -> int:
        """Largest number of training batches that wait during a step."""
        return 0

    def held(self) -> list[Tensor]:
        """Return the tensors of training batches that stay in memory between steps."""
        return []

    def record(self, count: int, around: Callable[[], AbstractContextManager[None]]) -> None:
        """Make the next training batches in the caller's thread, so that a recording sees their allocations.

        Args:
            count: number of batches.
            around: context for making a batch that another thread would otherwise make.
        """


class Batches(Protocol):
    """A source of batches for the training loop. The batches of an epoch are a pure function of (seed, epoch).

    Each rank makes only its own batches of a `Series`, and a resumed run skips earlier batches at no cost. Of any other
    iterable every rank makes all batches and drops those of other ranks.

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> class Twice:  # no subclass is needed
        ...     def __len__(self):
        ...         return 2
        ...
        ...     def train(self, epoch):
        ...         return [*revgnn.make_batches(data).train(epoch)] * 2
        ...
        ...     def evaluate(self):
        ...         return revgnn.make_batches(data).evaluate()
        >>> batches: revgnn.Batches = Twice()
    """

    def __len__(self) -> int:
        """Training steps in an epoch."""
        ...

    def train(self, epoch: int) -> Iterable[Batch]:
        """Return the training batches of an epoch (counted from 1), each with ``rows["train"]``."""
        ...

    def evaluate(self) -> Iterable[Batch]:
        """Return batches that cover every row of every split once, or several times with ``ids``."""
        ...


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError for values with NaN or infinity, naming the first row; integers always pass."""
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad = ~torch.isfinite(values.reshape(values.size(0), -1)).all(1)
    row = int(bad.nonzero()[0])
    raise ValueError(
        f"{what} must be finite: row {row} is the first of {int(bad.sum())} with NaN or infinity; fill or drop them"
    )
