"""How a model does on every split: one metric and one loss, of all rows of all batches, whichever rank took them."""

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
from .metric_accumulator import MetricAccumulator
from .metrics import METRICS
from .row_sums import Sums

Forward = Callable[[Batch], tuple[Tensor, Batch]]
"""A batch -> its logits, and the batch on the device of the model."""


def evaluate(
    model: nn.Module, batches: Batches, *, loss: str, metric: str, forward: Forward, ranks: Ranks | None = None
) -> dict[str, Score]:
    """Score every split that has rows, without dropout and without gradients; the model comes back in its mode.

    Of W ranks each takes every W-th batch, and the first adds up what all of them counted.

    Args:
        batches: whose ``evaluate()`` covers every row of every split once; or several times, with ``ids``.
        loss: a key of `LOSSES`.
        metric: a key of `METRICS`.
        forward: see `Forward`.
        ranks: those who call this together; ``None``: this process alone.
    Returns: split name -> score, on every rank; a figure that is undefined or not finite is ``None``.
    Raises: ValueError: some batches of a split have ids and others have none.
    Cost: one forward pass over the batches. Kept are, without ids, a few numbers for each batch; with ids, one row of
        logits for each row of every split, however often it comes, in a temporary file where they are many. Metrics
        that do not add up over batches, such as ROC-AUC, keep them all in memory. Ranks send what they keep to the
        first.
    """
    accumulators: dict[str, MetricAccumulator] = {}
    place = RankPosition(rank=0, size=1) if ranks is None else ranks.place
    with evaluating(model), nullcontext() if ranks is None else ranks.evaluating(model):
        for number, batch in place.evaluation(batches.evaluate()):
            logits, placed = forward(batch)
            for split, rows in placed.rows.items():
                if rows.numel():
                    ids = None if placed.ids is None else placed.ids[rows].cpu()
                    accumulator = accumulators.setdefault(split, MetricAccumulator(split, loss, metric))
                    accumulator.add(number, logits[rows].cpu(), placed.y[rows].cpu(), ids)
    if ranks is None:
        return _scores(accumulators)
    for piece in ranks.collect(_named(accumulators)):
        split = next(iter(piece)).partition("/")[0]
        accumulator = accumulators.setdefault(split, MetricAccumulator(split, loss, metric))
        accumulator.take({name.partition("/")[2]: value for name, value in piece.items()})
    scores: dict[str, Score] = ranks.tell(_scores(accumulators) if ranks.writes else None)
    return scores


def is_better(
    scores: Mapping[str, Score], before: Mapping[str, Score], *, metric: str, config: TrainConfig, epoch: int
) -> bool:
    """Whether the weights of these scores are to be selected over those of the scores before, by the valid split.

    Args:
        scores, before: split -> score; ``before`` is empty where nothing was selected yet.
        metric: a key of `METRICS`.
        config: what of the valid split decides.
        epoch: for the words of an error.
    Raises:
        ValueError: the valid split has no rows, or its metric is undefined.
        FloatingPointError: its loss decides and is not finite.
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
    """What was counted, in pieces whose tensors are named by their split."""
    for split, accumulator in accumulators.items():
        for piece in accumulator.counts():
            yield {f"{split}/{name}": value for name, value in piece.items()}


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

    Not inference_mode: a model of the user's may keep tensors for its next training step, as SGC does.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
