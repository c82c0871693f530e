"""What is done with the selected weights before the result: scores on other batches, and logits for a student."""

from __future__ import annotations

from ...data.batch import Batches
from ..distill import save_logits
from ..evaluate import evaluating
from .callback import Callback, TrainState


class FinalScores(Callback):
    """Evaluates the selected weights once more, on batches of its own, for the scores of the result.

    Args:
        batches: as in training; ``None``: the scores are those by which the weights were selected.
    """

    every_rank = True

    def __init__(self, batches: Batches | None) -> None:
        self._batches = batches

    def on_selected(self, run: TrainState) -> None:
        """Set the final scores."""
        if self._batches is not None:
            run.final_scores = run.evaluate(self._batches)


class KeepLogits(Callback):
    """Writes the logits of every row by the selected weights into the run folder; of one whole graph."""

    every_rank = True

    def on_selected(self, run: TrainState) -> None:
        """Write them."""
        assert run.out is not None, "fit() has checked it"
        with evaluating(run.model), run.ranks.evaluating(run.model):
            if run.ranks.writes:
                (batch,) = run.batches.evaluate()
                save_logits(run.out, run.forward(batch)[0], batch.ids)
