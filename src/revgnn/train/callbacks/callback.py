"""The interface of a callback, and the state of a training run that callbacks receive."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...data.batch import Batches
from ..config import TrainConfig
from ..curve import Curve, Row, Score
from ..distributed.ranks import Ranks
from ..evaluate import evaluate
from ..forward import Forward
from ..objective import Objective
from ..requests import Requests


@dataclass(kw_only=True, eq=False)
class TrainState:
    """The inputs and the progress of a training run; only the loop and a restored checkpoint change it.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import TrainState
        >>> class StopEarly(revgnn.Callback):
        ...     def on_epoch_end(self, run: TrainState):
        ...         if run.row["loss"] < 0.1:
        ...             run.requests.stop = 15
    """

    model: nn.Module
    batches: Batches
    config: TrainConfig
    objective: Objective
    """The loss and the metric."""
    out: Path | None
    """The run folder; ``None``: nothing is written."""
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    forward: Forward
    """Computes logits as in training and evaluation."""
    curve: Curve
    callbacks: list[Callback] = field(default_factory=list)
    """Callbacks of this rank, in calling order."""
    requests: Requests = field(default_factory=Requests)
    """Requests of callbacks to the loop."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Steps taken in the current epoch; the three sums are over these steps."""
    loss_sum: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    """Mean loss of the last step."""
    phase: str | None = None
    """The model's phase in this epoch; ``None``: the model has no phases."""
    memory: int | None = None
    """Peak memory of the epoch's steps in bytes; ``None``: no callback measured it."""
    best: dict[str, Tensor] | None = None
    """The best weights, on the CPU; ``None``: none yet."""
    best_epoch: int = 0
    """Epoch of the best weights; 0: none yet."""
    best_scores: dict[str, Score] = field(default_factory=dict)
    """Split -> score of the best weights when they were selected."""
    final_scores: dict[str, Score] | None = None
    """Split -> score in the result; ``None``: ``best_scores``."""

    @property
    def metric(self) -> str:
        """The key of the metric in `METRICS`."""
        return self.objective.metric

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch; the last step may have fewer batches."""
        return self.ranks.steps(len(self.batches))

    @property
    def row(self) -> Row:
        """The newest row of the curve."""
        return self.curve.rows[-1]

    def evaluate(self, batches: Batches) -> dict[str, Score]:
        """Score the current weights; all ranks must call this together."""
        return evaluate(self.model, batches, objective=self.objective, forward=self.forward, ranks=self.ranks)


class Callback:
    """Base class of callbacks: the loop calls these methods during a run. By default they do nothing.

    A callback may read the whole state and set ``run.requests``; it changes nothing else unless its docstring says so.
    An exception from a callback ends the run.

    Examples:
        >>> import revgnn
        >>> class Losses(revgnn.Callback):
        ...     def on_step_end(self, run):
        ...         print(f"epoch {run.epoch + 1}, step {run.step}: {run.loss:.2f}")
        >>> callbacks = [Losses()]  # for ``fit`` and ``run_experiment``
    """

    every_rank: ClassVar[bool] = False
    """Whether the callback runs on every rank; False: only on the rank that writes."""

    def on_start(self, run: TrainState) -> None:
        """Called before the first step, after a checkpoint is restored."""

    def on_epoch_start(self, run: TrainState) -> None:
        """Called before the first step of an epoch; in a resumed epoch, before the first remaining step."""

    def on_step_end(self, run: TrainState) -> None:
        """Called after step ``run.step`` of epoch ``run.epoch + 1``, both counted from 1; its loss is ``run.loss``."""

    def on_steps_end(self, run: TrainState) -> None:
        """Called after all steps of an epoch, before its evaluation."""

    def around_evaluation(self, run: TrainState) -> AbstractContextManager[None]:
        """Return a context in which the weights are evaluated and selected."""
        return nullcontext()

    def on_epoch_end(self, run: TrainState) -> None:
        """Called after epoch ``run.epoch``; ``run.row`` is its row of the curve."""

    def on_checkpoint(self, run: TrainState) -> None:
        """Called to write a checkpoint, on every rank after the same step; save the state that a resumed run needs."""

    def on_end(self, run: TrainState) -> None:
        """Called when training ends, also by an exception, and even if `on_start` was not called."""

    def on_selected(self, run: TrainState) -> None:
        """Called after training with the best weights in the model, before the result is written."""

    def state_dict(self) -> dict[str, object]:
        """Return this callback's state for a checkpoint, as JSON values; it is saved under the name of the class."""
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the result of `state_dict`; not called if the checkpoint has no state of this callback."""
