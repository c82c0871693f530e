"""Callbacks that use the best weights after training: final scores, outputs row by row, and logits for a student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ...data.batch import Batch, Batches
from ..distill import save_logits
from ..evaluate import accumulate, evaluating
from ..split_rows import RowOutputs, SplitRows
from .callback import Callback, TrainState


class FinalScores(Callback):
    """Evaluates the best weights again, on separate batches, for the scores of the result.

    Args:
        batches: as in training; ``None``: keep the scores of the selection.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import FinalScores
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> callbacks = [FinalScores(revgnn.make_batches(data))]  # for ``fit``: scores of these batches
    """

    every_rank = True

    def __init__(self, batches: Batches | None) -> None:
        self._batches = batches

    def on_selected(self, run: TrainState) -> None:
        """Set the final scores."""
        if self._batches is not None:
            run.final_scores = run.evaluate(self._batches)


class KeepOutputs(Callback):
    """Keeps the best weights' outputs for the rows of some splits, on the rank that writes.

    Args:
        batches: returns batches with ``ids`` that cover every row of the splits.
        strides: split -> every how many rows are kept.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import KeepOutputs
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> source = revgnn.data.DatasetSource(data, revgnn.make_batches(data))
        >>> kept = KeepOutputs(source.batches, {"test": 1})
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2), data.info)
        >>> result = revgnn.fit(
        ...     model, revgnn.make_batches(data), revgnn.TrainConfig(epochs=1), metric="accuracy", callbacks=[kept]
        ... )
        >>> list(kept.outputs)
        ['test']
    """

    every_rank = True

    def __init__(self, batches: Callable[[], Iterable[Batch]], strides: Mapping[str, int]) -> None:
        self._batches, self._strides = batches, strides
        self.outputs: dict[str, RowOutputs] = {}
        """Split -> outputs; empty until the end of training, and on other ranks."""

    def on_selected(self, run: TrainState) -> None:
        """Evaluate the splits."""
        kept = accumulate(
            run.model,
            self._batches(),
            lambda split: SplitRows(self._strides[split]),
            forward=run.forward,
            ranks=run.ranks,
            splits=self._strides,
            ids_of=lambda batch: batch.ids,
        )
        if run.ranks.writes:
            self.outputs = {split: kept[split].outputs() for split in self._strides if split in kept}


class KeepLogits(Callback):
    """Writes the best weights' logits of every row into the run folder; for a single graph in one batch."""

    every_rank = True

    def on_selected(self, run: TrainState) -> None:
        """Write the logits."""
        assert run.out is not None, "fit() has checked it"
        with evaluating(run.model), run.ranks.evaluating(run.model):
            if run.ranks.writes:
                (batch,) = run.batches.evaluate()
                save_logits(run.out, run.forward(batch)[0], batch.ids)
