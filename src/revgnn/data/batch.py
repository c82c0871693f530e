"""What a step of training or evaluation receives: features, graph, labels, and which rows belong to which split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class Batches(Protocol):
    """Where a training loop takes its batches from. The batches of an epoch are a pure function of (seed, epoch)."""

    def __len__(self) -> int:
        """Training steps in an epoch."""
        ...

    def train(self, epoch: int) -> Iterator[Batch]:
        """The training batches of an epoch (epochs count from 1), each with ``rows["train"]``."""
        ...

    def evaluate(self) -> Iterator[Batch]:
        """Batches that cover every row of every split once; or several times each, with ``ids``."""
        ...
