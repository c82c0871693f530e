"""Accumulates the metric and loss of one split over batches, and combines the accumulators of several ranks.

If each row occurs in one batch, metric and loss are computed per batch and averaged. If rows occur in several batches
(in several views of the graph), they are identified by their ids and their logits are averaged first. Metrics that
cannot be combined over batches, such as ROC-AUC, need all logits at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .curve import Score
from .labels import num_labelled
from .metrics import METRICS, mean
from .objective import Objective
from .row_sums import RowArray, Sums

_ROWS = 2**16
"""Rows that are averaged, scored or sent at a time."""


class MetricAccumulator:
    """Accumulates one split: metric and loss per batch with weights, or sums of logits per row if rows have ids.

    Args:
        split: its name, used in error messages.
        objective: the loss and the metric.
    """

    def __init__(self, split: str, objective: Objective) -> None:
        self.split, self._objective = split, objective
        self._figures: list[tuple[int, float, float, int]] = []
        """Number, loss, metric and count of labelled entries of each batch."""
        self._rows: list[tuple[int, Tensor, Tensor]] = []
        """Number, logits and labels of each batch, for metrics that need all of them at once."""
        self._sums: Sums | None = None
        self._y: RowArray | None = None

    def add(self, number: int, logits: Tensor, y: Tensor, ids: Tensor | None) -> None:
        """Add the rows of a batch.

        Args:
            number: the batch's position in the evaluation.
            logits: [n, T].
            y: [n] or [n, T].
            ids: [n] int64; ``None``: each row occurs in one batch only.
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
        """Return the split's metric and loss; a value that is undefined or not finite is ``None``."""
        if self._sums is not None and self._y is not None:
            for low in range(0, len(self._sums), _ROWS):
                ids, logits = self._sums.means(low, low + _ROWS)
                if ids.numel():
                    self._count(low, logits, self._y.reach(0)[ids])
        combine = METRICS[self._objective.metric].combine
        if combine is None:
            # In batch order, independent of the rank that evaluated each batch.
            ordered = sorted(self._rows, key=lambda row: row[0])
            logits, y = torch.cat([row[1] for row in ordered]), torch.cat([row[2] for row in ordered])
            metric, loss = self._objective.score(logits, y), float(self._objective.evaluation_loss(logits, y))
        else:
            # Batches without labels have no scores; if all batches are such, the first one's (NaN) are the result.
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
        """Yield the accumulated values in pieces for another rank's `take`."""
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
        """Add a piece of another rank's accumulated values."""
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
        if METRICS[self._objective.metric].combine is None:
            self._rows.append((number, logits, y))
            return
        loss = float(self._objective.evaluation_loss(logits, y))
        self._figures.append((number, loss, self._objective.score(logits, y), num_labelled(y)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
