"""How a model does on every split: one metric and one loss, of all rows of all batches.

Rows that come once are counted batch by batch. Rows that come several times (in several views of the graph) are known
by their ids, and their logits are averaged first. Only ROC-AUC, which ranks all rows, needs all logits at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data.batch import SPLITS, Batch, Batches
from .curve import Score
from .objective import LOSSES, METRICS, mean, num_labelled
from .sums import Rows, Sums

Forward = Callable[[Batch], tuple[Tensor, Batch]]
"""A batch -> its logits, and the batch on the device of the model."""

_ROWS = 2**16
"""Rows that are averaged and scored together."""


def evaluate(model: nn.Module, batches: Batches, *, loss: str, metric: str, forward: Forward) -> dict[str, Score]:
    """Score every split that has rows, without dropout and without gradients; the model comes back in its mode.

    Args:
        batches: whose ``evaluate()`` covers every row of every split once; or several times, with ``ids``.
        loss: a key of `LOSSES`.
        metric: a key of `METRICS`.
        forward: see `Forward`.
    Returns: split name -> score; a figure that is undefined or not finite is ``None``.
    Raises: ValueError: some batches of a split have ids and others have none.
    Cost: one forward pass over the batches. Kept are, without ids, a few numbers for each batch; with ids, one row of
        logits for each row of every split, however often it comes, in a temporary file where they are many. ROC-AUC
        keeps them all in memory.
    """
    tallies: dict[str, _Tally] = {}
    with evaluating(model):
        for batch in batches.evaluate():
            logits, placed = forward(batch)
            for split, rows in placed.rows.items():
                if rows.numel():
                    ids = None if placed.ids is None else placed.ids[rows].cpu()
                    tally = tallies.setdefault(split, _Tally(split, loss, metric))
                    tally.add(logits[rows].cpu(), placed.y[rows].cpu(), ids)
    order = (*SPLITS, *(split for split in tallies if split not in SPLITS))
    return {split: tallies[split].score() for split in order if split in tallies}


def predict(model: nn.Module, batches: Batches, forward: Forward | None = None) -> Tensor:
    """Give the logits of every row of a data set, whatever split it is in, averaged over the times that it comes.

    Args:
        model: lies where it shall run, and comes back in its mode.
        batches: whose ``evaluate()`` covers every row; with `LoaderConfig`'s ``eval_parts`` and ``eval_views``, part by
            part and in several views.
        forward: see `Forward`; ``None``: of the model alone, which must then take no labels as an input.
    Returns: [n, T] float32 on the CPU, in the order of the rows' ids; of batches without ids, in the order of batches.
    Raises: ValueError: some batches have ids and others have none.
    Cost: one forward pass over the batches; [n, T] on the CPU.
    """
    sums: Sums | None = None
    logits_of: list[Tensor] = []
    with evaluating(model):
        for batch in batches.evaluate():
            logits = (_plain(model, batch) if forward is None else forward(batch)[0]).float().cpu()
            if (batch.ids is None) != (sums is None) and (logits_of or sums is not None):
                raise ValueError("either all batches of an evaluation have ids or none has; those given are mixed")
            if batch.ids is None:
                logits_of.append(logits)
            else:
                sums = sums or Sums(logits.size(1))
                sums.add(batch.ids.cpu(), logits)
    return torch.cat(logits_of) if sums is None else sums.means(0, len(sums))[1]


def _plain(model: nn.Module, batch: Batch) -> Tensor:
    placed = batch.to(next(model.parameters()).device)
    logits: Tensor = model(placed.x, placed.graph, placed.edge_attr, seed=None)
    return logits


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation and back, and take no gradients.

    Not inference_mode: a graph keeps vectors derived on the way, and the next training step differentiates through
    them, which inference tensors forbid.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class _Tally:
    """One split: figures of batches and their weights; or sums of logits by row, where rows have ids."""

    def __init__(self, split: str, loss: str, metric: str) -> None:
        self.split, self._loss, self._metric = split, loss, metric
        self._figures: list[tuple[float, float, int]] = []
        """Loss, metric and labelled entries of each batch."""
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._sums: Sums | None = None
        self._y: Rows | None = None

    def add(self, logits: Tensor, y: Tensor, ids: Tensor | None) -> None:
        if (ids is None) != (self._sums is None) and (self._rows or self._figures or self._sums is not None):
            raise ValueError(
                f"either all batches of an evaluation have ids or none has; those of the split {self.split!r} are mixed"
            )
        if ids is None:
            self._count(logits, y)
            return
        if self._sums is None or self._y is None:
            self._sums, self._y = Sums(logits.size(1)), Rows(None if y.dim() == 1 else y.size(1), y.dtype)
        self._sums.add(ids, logits)
        self._y.reach(len(self._sums))[ids] = y

    def score(self) -> Score:
        if self._sums is not None and self._y is not None:
            for low in range(0, len(self._sums), _ROWS):
                ids, logits = self._sums.means(low, low + _ROWS)
                if ids.numel():
                    self._count(logits, self._y.reach(0)[ids])
        combine = METRICS[self._metric].combine
        if combine is None:
            logits, y = (torch.cat(rows) for rows in zip(*self._rows, strict=True))
            metric, loss = METRICS[self._metric].compute(logits, y), float(LOSSES[self._loss](logits, y))
        elif len(self._figures) == 1:
            loss, metric, _ = self._figures[0]
        else:
            weights = [weight for _, _, weight in self._figures]
            loss = mean([loss for loss, _, _ in self._figures], weights)
            metric = combine([metric for _, metric, _ in self._figures], weights)
        return Score(metric=_finite(metric), loss=_finite(loss))

    def _count(self, logits: Tensor, y: Tensor) -> None:
        metric = METRICS[self._metric]
        if metric.combine is None:
            self._rows.append((logits, y))
            return
        figures = float(LOSSES[self._loss](logits, y)), metric.compute(logits, y), num_labelled(y)
        if figures[2] or not self._figures:
            self._figures.append(figures)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
