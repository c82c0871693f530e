"""What an evaluation counts of one split, batch by batch, and how the counts of several ranks come together.

Rows that come once are counted batch by batch. Rows that come several times (in several views of the graph) are known
by their ids, and their logits are averaged first. Metrics that do
not add up over batches, such as ROC-AUC, need all logits at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .curve import Score
from .labels import num_labelled
from .losses import LOSSES
from .metrics import METRICS, mean
from .row_sums import RowArray, Sums

_ROWS = 2**16
"""Rows that are averaged, scored or sent together."""


class MetricAccumulator:
    """One split: figures of batches and their weights; or sums of logits by row, where rows have ids.

    Args:
        split: its name, for the words of an error.
        loss: a key of `LOSSES`.
        metric: a key of `METRICS`.
    """

    def __init__(self, split: str, loss: str, metric: str) -> None:
        self.split, self._loss, self._metric = split, loss, metric
        self._figures: list[tuple[int, float, float, int]] = []
        """Number, loss, metric and labelled entries of each batch."""
        self._rows: list[tuple[int, Tensor, Tensor]] = []
        """Number, logits and labels of each batch, where the metric needs all of them at once."""
        self._sums: Sums | None = None
        self._y: RowArray | None = None

    def add(self, number: int, logits: Tensor, y: Tensor, ids: Tensor | None) -> None:
        """Count the rows of a batch.

        Args:
            number: of the batch in the evaluation.
            logits: [n, T].
            y: [n] or [n, T].
            ids: [n] int64; ``None``: these rows come once.
        Raises: ValueError: some batches have ids and others have none.
        """
        if (ids is None) != (self._sums is None) and (self._rows or self._figures or self._sums is not None):
            raise ValueError(
                f"either all batches of an evaluation have ids or none has; those of the split {self.split!r} are mixed"
            )
        if ids is None:
            self._count(number, logits, y)
            return
        sums, labels = self._by_id(logits, y)
        sums.add(ids, logits)
        labels.reach(len(sums))[ids] = y

    def score(self) -> Score:
        """Give the figures of the split; one that is undefined or not finite is ``None``."""
        if self._sums is not None and self._y is not None:
            for low in range(0, len(self._sums), _ROWS):
                ids, logits = self._sums.means(low, low + _ROWS)
                if ids.numel():
                    self._count(low, logits, self._y.reach(0)[ids])
        combine = METRICS[self._metric].combine
        if combine is None:
            # In the order of the batches, whoever evaluated them.
            ordered = sorted(self._rows, key=lambda row: row[0])
            logits, y = torch.cat([row[1] for row in ordered]), torch.cat([row[2] for row in ordered])
            metric, loss = METRICS[self._metric].compute(logits, y), float(LOSSES[self._loss](logits, y))
        else:
            # Batches without a label have no figures; of nothing but such, the first says so.
            ordered_figures = sorted(self._figures, key=lambda row: row[0])
            figures = [row for row in ordered_figures if row[3]] or ordered_figures[:1]
            if len(figures) == 1:
                _, loss, metric, _ = figures[0]
            else:
                weights = [row[3] for row in figures]
                loss = mean([row[1] for row in figures], weights)
                metric = combine([row[2] for row in figures], weights)
        return Score(metric=_finite(metric), loss=_finite(loss))

    def counts(self) -> Iterator[dict[str, Tensor]]:
        """Yield what was counted, in pieces that another rank's tally of the split can `take`."""
        if self._figures:
            yield {"figures": torch.tensor(self._figures, dtype=torch.float64)}
        for number, logits, y in self._rows:
            yield {"number": torch.tensor(number), "logits": logits.contiguous(), "y": y.contiguous()}
        if self._sums is not None and self._y is not None:
            for low in range(0, len(self._sums), _ROWS):
                ids, sums, counts = self._sums.sums(low, low + _ROWS)
                if ids.numel():
                    yield {"ids": ids, "sums": sums, "counts": counts, "y": self._y.reach(0)[ids]}

    def take(self, counts: Mapping[str, Tensor]) -> None:
        """Add what a rank counted."""
        if "figures" in counts:
            self._figures += [(int(row[0]), row[1], row[2], int(row[3])) for row in counts["figures"].tolist()]
        elif "ids" in counts:
            sums, labels = self._by_id(counts["sums"], counts["y"])
            sums.add(counts["ids"], counts["sums"], counts["counts"])
            labels.reach(len(sums))[counts["ids"]] = counts["y"]
        else:
            self._rows.append((int(counts["number"]), counts["logits"], counts["y"]))

    def _by_id(self, logits: Tensor, y: Tensor) -> tuple[Sums, RowArray]:
        if self._sums is None or self._y is None:
            self._sums, self._y = Sums(logits.size(1)), RowArray(None if y.dim() == 1 else y.size(1), y.dtype)
        return self._sums, self._y

    def _count(self, number: int, logits: Tensor, y: Tensor) -> None:
        metric = METRICS[self._metric]
        if metric.combine is None:
            self._rows.append((number, logits, y))
            return
        loss = float(LOSSES[self._loss](logits, y))
        self._figures.append((number, loss, metric.compute(logits, y), num_labelled(y)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
