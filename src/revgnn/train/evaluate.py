"""How a model does on every split: logits of all rows gathered over the batches, then one metric and one loss.

Rows that come several times (in several views of the graph) are known by their ids, and their logits are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data.batch import SPLITS, Batch, Batches
from .curve import Score
from .objective import LOSSES, METRICS


def evaluate(
    model: nn.Module, batches: Batches, *, loss: str, metric: str, forward: Callable[[Batch], tuple[Tensor, Batch]]
) -> dict[str, Score]:
    """Score every split that has rows, without dropout and without gradients; the model comes back in its mode.

    Args:
        batches: whose ``evaluate()`` covers every row of every split once; or several times, with ``ids``.
        loss: a key of `LOSSES`.
        metric: a key of `METRICS`.
        forward: a batch -> its logits, and the batch on the device of the model.
    Returns: split name -> score; a figure that is undefined or not finite is ``None``.
    Raises: ValueError: some batches of a split have ids and others have none.
    Cost: one forward pass over the batches; one row of logits for each row of every split is kept on the CPU, however
        often it comes.
    """
    with _evaluating(model):
        gathered = _gather(batches, forward)
    scores: dict[str, Score] = {}
    for split, (logits, y) in gathered.items():
        scores[split] = Score(
            metric=_finite(METRICS[metric].compute(logits, y)), loss=_finite(float(LOSSES[loss](logits, y)))
        )
    return scores


def predict(model: nn.Module, batches: Batches) -> Tensor:
    """Give the logits of every row of a data set, whatever split it is in, averaged over the times that it comes.

    Args:
        model: lies where it shall run, and comes back in its mode.
        batches: whose ``evaluate()`` covers every row; with `LoaderConfig`'s ``eval_parts`` and ``eval_views``, part by
            part and in several views.
    Returns: [n, T] float32 on the CPU, in the order of the rows' ids; of batches without ids, in the order of batches.
    Raises: ValueError: some batches have ids and others have none.
    Cost: one forward pass over the batches; [n, T] on the CPU.
    """
    device = next(model.parameters()).device
    gathered = _Gathered("all")
    with _evaluating(model):
        for batch in batches.evaluate():
            placed = batch.to(device)
            logits = model(placed.x, placed.graph, placed.edge_attr, seed=None)
            gathered.add(logits.float().cpu(), batch.y, batch.ids)
    return gathered.result()[0]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
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


def _gather(batches: Batches, forward: Callable[[Batch], tuple[Tensor, Batch]]) -> dict[str, tuple[Tensor, Tensor]]:
    gathered: dict[str, _Gathered] = {split: _Gathered(split) for split in SPLITS}
    for batch in batches.evaluate():
        logits, placed = forward(batch)
        for split, rows in placed.rows.items():
            if rows.numel():
                ids = None if placed.ids is None else placed.ids[rows].cpu()
                gathered.setdefault(split, _Gathered(split)).add(logits[rows].cpu(), placed.y[rows].cpu(), ids)
    return {split: rows.result() for split, rows in gathered.items() if rows.logits}


class _Gathered:
    """Logits and labels of one split: one after the other, or sums by row where rows have ids."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.logits: list[Tensor] = []
        self.y: list[Tensor] = []
        self.count: Tensor | None = None
        """[m] how often each row came; ``None``: rows have no ids, and the lists hold all of them."""

    def add(self, logits: Tensor, y: Tensor, ids: Tensor | None) -> None:
        if self.logits and (ids is None) != (self.count is None):
            raise ValueError(
                f"either all batches of an evaluation have ids or none has; those of the split {self.split!r} are mixed"
            )
        if ids is None:
            self.logits.append(logits)
            self.y.append(y)
            return
        if self.count is None:
            self.logits, self.y = [logits.new_zeros(0, *logits.shape[1:])], [y.new_zeros(0, *y.shape[1:])]
            self.count = ids.new_zeros(0)
        most = int(ids.max()) + 1
        if most > self.count.numel():
            self.logits[0], self.y[0], self.count = (
                torch.cat([old, old.new_zeros(most - old.size(0), *old.shape[1:])])
                for old in (self.logits[0], self.y[0], self.count)
            )
        self.logits[0].index_add_(0, ids, logits)
        self.y[0][ids] = y
        self.count.index_add_(0, ids, torch.ones_like(ids))

    def result(self) -> tuple[Tensor, Tensor]:
        if self.count is None:
            return torch.cat(self.logits), torch.cat(self.y)
        rows = self.count.nonzero()[:, 0]
        return self.logits[0][rows] / self.count[rows, None], self.y[0][rows]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
