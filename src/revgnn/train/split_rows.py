"""Collects the logits, labels and row numbers of one split over batches and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class RowOutputs:
    """Outputs of a model for some rows of a data set."""

    ids: Tensor
    """[n] int64 row numbers, ascending, each once."""
    logits: Tensor
    """[n, T] float32 or wider; averaged if a row occurred in several batches."""
    y: Tensor
    """[n] or [n, T] labels."""


class SplitRows:
    """Collects the rows of a split whose number is a multiple of ``stride``.

    Args:
        stride: 1 collects every row.
    """

    def __init__(self, stride: int = 1) -> None:
        self._stride = stride
        self._pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        """Row numbers, logits and labels of each batch."""

    def add(self, number: int, logits: Tensor, y: Tensor, ids: Tensor | None) -> None:
        """Add the rows of a batch.

        Args:
            number: not used; rows are ordered by their own numbers.
            logits, y: [n, T] and [n] or [n, T].
            ids: [n] int64 row numbers.
        """
        assert ids is not None, "batches of an inference source have ids"
        kept = ids % self._stride == 0
        self._pieces.append((ids[kept], logits[kept], y[kept]))

    def counts(self) -> Iterator[dict[str, Tensor]]:
        """Yield the rows in pieces for another rank's `take`."""
        for ids, logits, y in self._pieces:
            yield {"ids": ids, "logits": logits.contiguous(), "y": y.contiguous()}

    def take(self, counts: Mapping[str, Tensor]) -> None:
        """Add a piece of another rank."""
        self._pieces.append((counts["ids"], counts["logits"], counts["y"]))

    def outputs(self) -> RowOutputs:
        """Return all rows; the logits of a row in several batches are averaged."""
        ids, logits, y = (torch.cat(list(parts)) for parts in zip(*self._pieces, strict=True))
        rows, place, times = torch.unique(ids, return_inverse=True, return_counts=True)
        if rows.numel() < ids.numel():
            summed = torch.zeros(rows.numel(), logits.size(1), dtype=logits.dtype).index_add_(0, place, logits)
            labels = torch.empty(rows.numel(), *y.shape[1:], dtype=y.dtype)
            labels[place] = y
            return RowOutputs(ids=rows, logits=summed / times[:, None], y=labels)
        order = ids.argsort()
        return RowOutputs(ids=rows, logits=logits[order], y=y[order])
