"""How a model does on every split: logits of all rows gathered over the batches, then one metric and one loss."""

from __future__ import annotations

import math
from collections.abc import Callable

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
        batches: whose ``evaluate()`` covers every row of every split once.
        loss: a key of `LOSSES`.
        metric: a key of `METRICS`.
        forward: a batch -> its logits, and the batch on the device of the model.
    Returns: split name -> score; a figure that is undefined or not finite is ``None``.
    Cost: one forward pass over the data; the logits of all splits are kept on the CPU.
    """
    was_training = model.training
    model.eval()
    try:
        gathered = _gather(batches, forward)
    finally:
        model.train(was_training)
    scores: dict[str, Score] = {}
    for split, (logits, y) in gathered.items():
        scores[split] = Score(
            metric=_finite(METRICS[metric].compute(logits, y)), loss=_finite(float(LOSSES[loss](logits, y)))
        )
    return scores


def _gather(batches: Batches, forward: Callable[[Batch], tuple[Tensor, Batch]]) -> dict[str, tuple[Tensor, Tensor]]:
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {split: [] for split in SPLITS}
    # Not inference_mode: a graph keeps vectors derived on the way, and the next training step differentiates through
    # them, which inference tensors forbid.
    with torch.no_grad():
        for batch in batches.evaluate():
            logits, placed = forward(batch)
            for split, rows in placed.rows.items():
                if rows.numel():
                    parts.setdefault(split, []).append((logits[rows].cpu(), placed.y[rows].cpu()))
    return {
        split: (torch.cat([logits for logits, _ in pairs]), torch.cat([y for _, y in pairs]))
        for split, pairs in parts.items()
        if pairs
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
