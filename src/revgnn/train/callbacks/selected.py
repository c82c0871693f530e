"""Callbacks that use the best weights after training: final scores on other batches, and logits for a student."""

from __future__ import annotations

from ...data.batch import Batches
from ..distill import save_logits
from ..evaluate import evaluating
from .callback import Callback, TrainState


class FinalScores(Callback):
    """Evaluates the best weights again, on separate batches, for the scores of the result.

    Args:
        batches: as in training; ``None``: keep the scores of the selection.
    """

    every_rank = True

    def __init__(self, batches: Batches | None) -> None:
        self._batches = batches

    def on_selected(self, run: TrainState) -> None:
        """Set the final scores."""
        if self._batches is not None:
            run.final_scores = run.evaluate(self._batches)


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
