"""Evaluates a model on every split: one metric and one loss over all rows of all batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ..data.batch import SPLITS, Batch, Batches
from .config import TrainConfig, remedy
from .curve import Score
from .distributed.batch_sharding import RankPosition
from .distributed.ranks import Ranks
from .forward import Forward
from .metric_accumulator import MetricAccumulator
from .metrics import METRICS
from .row_sums import Sums

Logits = Callable[[Batch], tuple[Tensor, Batch]]
"""Batch -> its logits, and the batch on the model's device; for example a `Forward`."""


def evaluate(
    model: nn.Module, batches: Batches, *, loss: str, metric: str, forward: Logits, ranks: Ranks | None = None
) -> dict[str, Score]:
    """Score every non-empty split without dropout and without gradients; the model's mode is restored afterwards.

    Each of W ranks evaluates every W-th batch; the first rank combines the results.

    Args:
        batches: ``batches.evaluate()`` must cover every row of every split once, or several times with ``ids``.
        loss: a key of `LOSSES`.
        metric: a key of `METRICS`.
        forward: computes the logits, as `Forward` does.
        ranks: the ranks that call this together; ``None``: this process alone.
    Returns: split name -> score, on every rank; a value that is undefined or not finite is ``None``.
    Raises: ValueError: some batches of a split have ids and others have none.
    Cost: one forward pass over the batches. Without ids it keeps a few numbers per batch; with ids it keeps one row of
        logits per row of every split, in a temporary file if they are large. Metrics that cannot be combined over
        batches, such as ROC-AUC, keep all logits in memory. Every rank sends its part to the first rank.
    """
    accumulators: dict[str, MetricAccumulator] = {}
    place = RankPosition(rank=0, size=1) if ranks is None else ranks.place
    with evaluating(model), nullcontext() if ranks is None else ranks.evaluating(model):
        for number, batch in place.evaluation(batches.evaluate()):
            logits, placed = forward(batch)
            for split, rows in placed.rows.items():
                if rows.numel():
                    ids = None if placed.averaged_ids is None else placed.averaged_ids[rows].cpu()
                    accumulator = accumulators.setdefault(split, MetricAccumulator(split, loss, metric))
                    accumulator.add(number, logits[rows].cpu(), placed.y[rows].cpu(), ids)
    if ranks is None:
        return _scores(accumulators)
    for piece in ranks.collect(_named(accumulators)):
        split = next(iter(piece)).partition("/")[0]
        accumulator = accumulators.setdefault(split, MetricAccumulator(split, loss, metric))
        accumulator.take({name.partition("/")[2]: value for name, value in piece.items()})
    return ranks.tell(_scores(accumulators) if ranks.writes else None)


def is_better(
    scores: Mapping[str, Score], before: Mapping[str, Score], *, metric: str, config: TrainConfig, epoch: int
) -> bool:
    """Whether scores are better than the best scores so far, on the valid split.

    Args:
        scores, before: split -> score; ``before`` is empty if no weights were selected yet.
        metric: a key of `METRICS`.
        config: its ``select`` chooses between metric and loss.
        epoch: named in error messages.
    Raises:
        ValueError: the valid split has no rows, or its metric is undefined.
        FloatingPointError: weights are selected by the loss, and it is not finite.
    """
    select = config.select
    if "valid" not in scores:
        raise ValueError("the best weights are selected on the split 'valid', which has no rows; give it some")
    value = scores["valid"][select]
    if value is None and select == "loss":
        raise FloatingPointError(f"epoch {epoch}: the loss on the valid split is not finite; {remedy(config)}")
    if value is None:
        raise ValueError(
            f"{metric} is undefined on the split 'valid' (no task with both classes, or no labels); "
            "use another split, or select='loss'"
        )
    if not before:
        return True
    best = before["valid"][select]
    assert best is not None, "only defined values are selected"
    larger = select == "metric" and METRICS[metric].larger_is_better
    return value > best if larger else value < best


def _scores(accumulators: Mapping[str, MetricAccumulator]) -> dict[str, Score]:
    order = (*SPLITS, *(split for split in accumulators if split not in SPLITS))
    return {split: accumulators[split].score() for split in order if split in accumulators}


def _named(accumulators: Mapping[str, MetricAccumulator]) -> Iterator[dict[str, Tensor]]:
    """Yield the accumulated counts in pieces; tensor names begin with the split's name."""
    for split, accumulator in accumulators.items():
        for piece in accumulator.counts():
            yield {f"{split}/{name}": value for name, value in piece.items()}


def predict(model: nn.Module, batches: Batches, forward: Logits | None = None) -> Tensor:
    """Return the logits of every row of a data set, of all splits, averaged over the batches that contain the row.

    Args:
        model: on the device where it runs; its mode is restored afterwards.
        batches: ``batches.evaluate()`` must cover every row; with `LoaderConfig`'s ``eval_parts`` and ``eval_views``
            part by part and in several views.
        forward: computes the logits; ``None``: a `Forward` of the model, which must then take no labels as an input.
    Returns: [n, T] float32 on the CPU, ordered by the rows' ids, or by batch if the batches have no ids.
    Raises: ValueError: some batches have ids and others have none.
    Cost: one forward pass over the batches; [n, T] on the CPU.
    """
    forward = forward or Forward(model)
    sums: Sums | None = None
    logits_of: list[Tensor] = []
    with evaluating(model):
        for batch in batches.evaluate():
            logits = forward(batch)[0].float().cpu()
            ids = batch.averaged_ids
            if (ids is None) != (sums is None) and (logits_of or sums is not None):
                raise ValueError("either all batches of an evaluation have ids or none has; those given are mixed")
            if ids is None:
                logits_of.append(batch.in_order(logits))
            else:
                sums = sums or Sums(logits.size(1))
                sums.add(ids.cpu(), logits)
    return torch.cat(logits_of) if sums is None else sums.means(0, len(sums))[1]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode and disable gradients inside the context; restore the model's mode at the end.

    Not inference_mode: a user's model may cache tensors for its next training step, as SGC does.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
