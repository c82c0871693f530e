"""The interface of a callback, and the state of a training run that it is told with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...data.batch import Batches
from ..config import TrainConfig
from ..curve import Curve, Row, Score
from ..distributed.ranks import Ranks
from ..evaluate import evaluate
from ..forward import Forward
from ..requests import Requests


@dataclass(kw_only=True, eq=False)
class TrainState:
    """A training run: what it was given, and where it stands. Only the loop and a checkpoint move it."""

    model: nn.Module
    batches: Batches
    config: TrainConfig
    metric: str
    """A key of `METRICS`."""
    out: Path | None
    """The run folder; ``None``: nothing is written."""
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    forward: Forward
    """Computes logits as in training and evaluation."""
    curve: Curve
    callbacks: list[Callback] = field(default_factory=list)
    """Those that are told on this rank, in order."""
    requests: Requests = field(default_factory=Requests)
    """What a callback asks of the loop."""

    epoch: int = 0
    """Epochs that are finished."""
    step: int = 0
    """Steps taken in the one after them; the three sums are over these."""
    loss_sum: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    """Mean loss of the last step."""
    phase: str | None = None
    """What the model calls the way in which it computes in this epoch; ``None``: it has only one."""
    memory: int | None = None
    """Peak bytes of the epoch's steps; ``None``: no callback measured them."""
    best: dict[str, Tensor] | None = None
    """The selected weights, on the CPU; ``None``: none yet."""
    best_epoch: int = 0
    """0: nothing was selected yet."""
    best_scores: dict[str, Score] = field(default_factory=dict)
    """Split -> score by which the weights were selected."""
    final_scores: dict[str, Score] | None = None
    """Split -> score that the result gives; ``None``: those by which the weights were selected."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; the last one may find fewer batches than the others."""
        return self.ranks.steps(len(self.batches))

    @property
    def row(self) -> Row:
        """The newest row of the curve."""
        return self.curve.rows[-1]

    def evaluate(self, batches: Batches) -> dict[str, Score]:
        """Score the weights as they are, on every rank together."""
        assert self.config.loss is not None, "fit() has chosen one"
        return evaluate(
            self.model, batches, loss=self.config.loss, metric=self.metric, forward=self.forward, ranks=self.ranks
        )


class Callback:
    """Is told of a training run as it goes on. Every method does nothing; override those that matter.

    A callback may read all of the state and set ``run.requests``; it changes nothing else unless it says so. An
    exception that it raises ends the run.
    """

    every_rank: ClassVar[bool] = False
    """Whether every rank of a run tells its own copy; otherwise only the rank that writes does."""

    def on_start(self, run: TrainState) -> None:
        """The first step comes next; what a checkpoint held is restored."""

    def on_epoch_start(self, run: TrainState) -> None:
        """The first step of an epoch comes next, or the one after those that a resumed run had taken."""

    def on_step_end(self, run: TrainState) -> None:
        """Step ``run.step`` of epoch ``run.epoch + 1`` was taken, both counted from 1, with the loss ``run.loss``."""

    def on_steps_end(self, run: TrainState) -> None:
        """All steps of an epoch are taken; its evaluation may come next."""

    def around_evaluation(self, run: TrainState) -> AbstractContextManager[None]:
        """Give a context in which the weights are evaluated and selected."""
        return nullcontext()

    def on_epoch_end(self, run: TrainState) -> None:
        """Epoch ``run.epoch`` is finished; ``run.row`` has its figures."""

    def on_checkpoint(self, run: TrainState) -> None:
        """A checkpoint is written, on every rank after the same step: keep what a resumed run needs."""

    def on_end(self, run: TrainState) -> None:
        """Training is over, however it ended, and even where `on_start` was not reached."""

    def on_selected(self, run: TrainState) -> None:
        """Training has finished, and the model holds the selected weights; the result comes next."""

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint keeps of this callback, under the name of its class; JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; not called where a checkpoint has nothing of this callback."""
