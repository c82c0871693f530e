"""One step of training: the batches of this rank forward and backward, the mean over all rows of the step, the weights.

What is random in it is a pure function of (seed, epoch, number of the batch), whoever takes the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batch import Batch
from .averaging import follow
from .config import TrainConfig, remedy
from .distill import load_teacher, rows_of, with_teacher
from .distributed.batch_sharding import RankBatch
from .distributed.ranks import Ranks, scale_gradients
from .label_inputs import reuse_labels
from .losses import LOSSES
from .model_hooks import ModelHooks, Ranged
from .optim import check_and_clip


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Give the seed of one training batch: 63 bits, a pure function of the run's seed, the epoch and the batch."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step came to, over all ranks."""

    loss: float
    """Mean over the rows."""
    rows: int
    """Training rows."""
    asked: bool
    """Whether a rank was asked to stop."""
    due: bool
    """Whether a rank wants a checkpoint."""


class Stepper:
    """Takes steps with a model, and forwards of an evaluation.

    Args:
        model: lies on the device of the ranks.
        trained: what `Ranks.wrap` made of it.
        optimizer: of its parameters.
        num_outputs: T; only ``config.labels.reuse`` asks for it.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        ranks: Ranks,
        num_outputs: int,
    ) -> None:
        self.model, self.trained, self.optimizer, self.config, self.ranks = model, trained, optimizer, config, ranks
        if config.loss is None:
            raise ValueError("train.loss must be named here, where nothing says what the task of the data is")
        self.num_outputs, self.loss = num_outputs, config.loss
        self.ranged = [module for module in model.modules() if isinstance(module, Ranged)]
        self.placed: tuple[Batch, Batch] | None = None
        """The last batch as it came and as it lies on the device."""
        teacher = load_teacher(config.teacher, seed=config.seed)
        self.teacher = None if teacher is None else teacher.to(ranks.accelerator.device)

    def step(
        self,
        rank_batches: list[RankBatch],
        *,
        epoch: int,
        step: int,
        asked: Callable[[], bool],
        due: Callable[[], bool],
    ) -> StepResult:
        """Take one step.

        Args:
            shares: what `RankPosition.training` gave.
            epoch, step: for the words of an error, from 1.
            asked, due: whether this rank was asked to stop, and wants a checkpoint, looked up after its last backward.
        Raises: FloatingPointError: the loss or a gradient is not finite, on every rank; the optimizer has not stepped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        alone = self.ranks.batches_per_step == 1
        sums = [0.0, 0.0, 0.0]
        for rank_batch in rank_batches:
            with self.ranks.exchange(self.trained, last=rank_batch is rank_batches[-1], counts=rank_batch.counts):
                seed = step_seed(self.config.seed, epoch, rank_batch.number)
                loss, weight, rows = self._loss(rank_batch.batch, seed, rank_batch.counts, alone=alone)
                self.ranks.accelerator.backward(loss if alone else loss * weight)
            value = float(loss.detach())
            sums = [sums[0] + value * weight, sums[1] + weight, sums[2] + rows]
        self.ranks.agree(self.ranged)
        weighted, labels, counted, asking, wanting = self.ranks.total(*sums, float(asked()), float(due()))
        if not alone:
            scale_gradients(self.model.parameters(), self.ranks.size / max(labels, 1))
        mean = loss.detach() if alone else torch.tensor(weighted / max(labels, 1))
        try:
            value = check_and_clip(self.model, mean, self.config.clip_norm)
        except FloatingPointError as error:
            raise FloatingPointError(f"epoch {epoch}, step {step}: {error}; {remedy(self.config)}") from None
        self.optimizer.step()
        if self.config.ema_decay is not None:
            follow(self.optimizer, self.config.ema_decay)
        return StepResult(loss=value, rows=int(counted), asked=asking > 0, due=wanting > 0)

    def forward(self, batch: Batch, seed: int | None = None) -> tuple[Tensor, Batch]:
        """Give the logits of a batch in float32 or wider, and the batch on the device."""
        # A full batch is the same object every time: it, and what its graph derived, stay on the device.
        if self.placed is None or self.placed[0] is not batch:
            self.placed = None
            self.placed = batch, batch.to(self.ranks.accelerator.device)
        placed = self.placed[1]
        if not self.config.labels.reuse:
            return self._logits(placed, seed), placed
        return reuse_labels(
            self._logits, placed, self.config.labels, model=self.model, num_outputs=self.num_outputs, seed=seed
        )

    def _loss(self, batch: Batch, seed: int, counts: bool, *, alone: bool) -> tuple[Tensor, int, int]:
        """The mean loss of a batch, how many labels it is the mean of, and its training rows."""
        if not alone:
            # Ranks draw differently often: global states would depend on who took which batch.
            torch.manual_seed(seed)
        logits, placed = self.forward(batch, seed)
        rows = placed.rows["train"]
        y = placed.y[rows]
        weight = (int(y.isfinite().sum()) if y.is_floating_point() else rows.numel()) if counts else 0
        loss = LOSSES[self.loss](logits[rows], y) if weight or alone else logits.sum() * 0.0
        if self.teacher is not None:
            loss = with_teacher(loss, logits, rows_of(self.teacher, batch.ids), self.config.teacher)
        auxiliary = self.model.auxiliary_loss() if isinstance(self.model, ModelHooks) else None
        if auxiliary is not None:
            loss = loss + auxiliary
        return loss, weight, rows.numel() if counts else 0

    def _logits(self, placed: Batch, seed: int | None) -> Tensor:
        # Ranks evaluate different batches, and must not meet in the exchange of buffers.
        model = self.trained if self.model.training else self.model
        with self.ranks.accelerator.autocast():
            logits: Tensor = model(placed.x, placed.graph, placed.edge_attr, seed=seed)
        if logits.size(0) != placed.y.size(0):
            raise ValueError(
                f"the model must give one row of logits per row of labels, got {logits.size(0)} for {placed.y.size(0)}"
            )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
