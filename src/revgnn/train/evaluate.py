"""Evaluates a model on every split: one metric and one loss over all rows of all batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..data.batch import Batch, Batches
from ..data.task import SPLITS
from .config import TrainConfig, remedy
from .curve import Score
from .distributed.batch_sharding import RankPosition
from .distributed.ranks import Ranks
from .forward import Forward
from .metric_accumulator import MetricAccumulator
from .metrics import METRICS
from .objective import Objective
from .row_sums import Sums

Logits = Callable[[Batch], tuple[Tensor, Batch]]
"""Batch -> its logits, and the batch on the model's device; for example a `Forward`."""


def evaluate(
    model: nn.Module, batches: Batches, *, objective: Objective, forward: Logits, ranks: Ranks | None = None
) -> dict[str, Score]:
    """Score every non-empty split without dropout and without gradients; the model's mode is restored afterwards.

    Each of W ranks evaluates every W-th batch; the first rank combines the results.

    Args:
        batches: ``batches.evaluate()`` must cover every row of every split once, or several times with ``ids``.
        objective: the loss and the metric.
        forward: computes the logits, as `Forward` does.
        ranks: the ranks that call this together; ``None``: this process alone.
    Returns: split name -> score, on every rank; a value that is undefined or not finite is ``None``.
    Raises: ValueError: some batches of a split have ids and others have none.
    Cost: one forward pass over the batches. Without ids it keeps a few numbers per batch; with ids it keeps one row of
        logits per row of every split, in a temporary file if they are large. Metrics that cannot be combined over
        batches, such as ROC-AUC, keep all logits in memory. Every rank sends its part to the first rank.
    """
    accumulators = accumulate(
        model, batches.evaluate(), lambda split: MetricAccumulator(split, objective), forward=forward, ranks=ranks
    )
    if ranks is None:
        return _scores(accumulators)
    return ranks.tell(_scores(accumulators) if ranks.writes else None)


class Accumulator(Protocol):
    """Accumulates the rows of one split over batches and ranks."""

    def add(self, number: int, logits: Tensor, y: Tensor, ids: Tensor | None) -> None:
        """Add the rows of batch ``number``: logits [n, T], labels, and row numbers [n] int64 if the batch has them."""
        ...

    def counts(self) -> Iterator[dict[str, Tensor]]:
        """Yield what was accumulated, in pieces for another rank's `take`."""
        ...

    def take(self, counts: Mapping[str, Tensor]) -> None:
        """Add a piece of another rank."""
        ...


A = TypeVar("A", bound=Accumulator)


def accumulate(
    model: nn.Module,
    batches: Iterable[Batch],
    make: Callable[[str], A],
    *,
    forward: Logits,
    ranks: Ranks | None = None,
    splits: Collection[str] | None = None,
    ids_of: Callable[[Batch], Tensor | None] = lambda batch: batch.averaged_ids,
) -> dict[str, A]:
    """Evaluate batches and accumulate the rows of every non-empty split.

    Args:
        batches: as in `evaluate`.
        make: split name -> an empty accumulator.
        forward, ranks: as in `evaluate`.
        splits: splits to accumulate; ``None``: all.
        ids_of: a batch on the device -> row numbers of its rows for the accumulators; ``None``: they have none.
    Returns: split name -> accumulator; on the first rank with the rows of all ranks, on others with their own rows.
    """
    accumulators: dict[str, A] = {}
    place = RankPosition(rank=0, size=1) if ranks is None else ranks.place
    with evaluating(model), nullcontext() if ranks is None else ranks.evaluating(model):
        for number, batch in place.evaluation(batches):
            logits, placed = forward(batch)
            for split, rows in placed.rows.items():
                if rows.numel() and (splits is None or split in splits):
                    numbers = ids_of(placed)
                    ids = None if numbers is None else numbers[rows].cpu()
                    accumulator = accumulators.get(split) or accumulators.setdefault(split, make(split))
                    accumulator.add(number, logits[rows].cpu(), placed.y[rows].cpu(), ids)
    for piece in () if ranks is None else ranks.collect(_named(accumulators)):
        split = next(iter(piece)).partition("/")[0]
        accumulator = accumulators.get(split) or accumulators.setdefault(split, make(split))
        accumulator.take({name.partition("/")[2]: value for name, value in piece.items()})
    return accumulators


def is_better(
    scores: Mapping[str, Score], before: Mapping[str, Score], *, metric: str, config: TrainConfig, epoch: int
) -> bool:
    """Whether scores are better than the best scores so far, on the valid split; of equal metrics the lower loss is.

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
        raise ValueError(
            "the best weights are selected on the split 'valid', which has no rows; move a part of 'train' there, "
            "such as a tenth"
        )
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
    if value == best:
        loss, lowest = scores["valid"]["loss"], before["valid"]["loss"]
        return loss is not None and lowest is not None and loss < lowest
    larger = select == "metric" and METRICS[metric].larger_is_better
    return value > best if larger else value < best


def _scores(accumulators: Mapping[str, MetricAccumulator]) -> dict[str, Score]:
    order = (*SPLITS, *(split for split in accumulators if split not in SPLITS))
    return {split: accumulators[split].score() for split in order if split in accumulators}


def _named(accumulators: Mapping[str, Accumulator]) -> Iterator[dict[str, Tensor]]:
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

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2), data.info)
        >>> revgnn.train.predict(model, revgnn.make_batches(data)).shape
        torch.Size([34, 4])
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
