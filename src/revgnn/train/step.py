"""Takes one training step: forward and backward of this rank's batches, mean gradient over ranks, and update.

Random choices are a pure function of (seed, epoch, batch number), independent of the rank that processes the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batch import Batch
from .config import TrainConfig, remedy
from .distill import load_teacher, rows_of, with_teacher
from .distributed.batch_sharding import RankBatch
from .distributed.ranks import Ranks, scale_gradients
from .forward import Forward
from .labels import num_labelled
from .model_hooks import LayerStack, ModelHooks
from .optim import check_and_clip, find_decays, make_optimizer


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Return the 63-bit seed of a training batch, a pure function of the run's seed, epoch and batch number.

    Examples:
        >>> from revgnn.train import step_seed
        >>> step_seed(0, epoch=1, step=0) == step_seed(0, epoch=1, step=0)
        True
    """
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Loss and row count of a step, over all ranks."""

    loss: float
    """Mean loss over the rows."""
    rows: int
    """Number of training rows."""


def optimizer_for(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a run, with the weight decay of each submodule."""
    return make_optimizer(
        config.optimizer,
        model.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        decays=find_decays(model, config.weight_decays),
    )


class Stepper:
    """Takes training steps of a model.

    Args:
        forward: calls the model; its ``trained`` is the module that `Ranks.wrap` returned.
        optimizer: optimizer of the model's parameters.
        loss: logits, labels and weights of a batch's training rows, as `Objective.training_loss`.
    """

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        ranks: Ranks,
        loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    ) -> None:
        self.forward, self.optimizer, self.config, self.ranks, self.loss = forward, optimizer, config, ranks, loss
        self.model = forward.model
        self.stacks = [module for module in self.model.modules() if isinstance(module, LayerStack)]
        teacher = load_teacher(config.teacher, seed=config.seed)
        self.teacher = None if teacher is None else teacher.to(ranks.accelerator.device)

    def step(self, rank_batches: list[RankBatch], *, epoch: int, step: int) -> StepResult:
        """Take one step.

        Args:
            rank_batches: this rank's batches of the step, from `RankPosition.training`.
            epoch, step: counted from 1; named in error messages.
        Raises: FloatingPointError: the loss or a gradient is not finite; raised on every rank, before the update.
        """
        self.optimizer.zero_grad(set_to_none=True)
        alone = self.ranks.batches_per_step == 1
        sums = [0.0, 0.0, 0.0]
        for rank_batch in rank_batches:
            with self.ranks.exchange(
                self.forward.trained, last=rank_batch is rank_batches[-1], counts=rank_batch.counts
            ):
                seed = step_seed(self.config.seed, epoch, rank_batch.number)
                loss, weight, rows = self._loss(rank_batch.batch, seed, rank_batch.counts, alone=alone)
                self.ranks.accelerator.backward(loss if alone else loss * weight)
            value = float(loss.detach())
            sums = [sums[0] + value * weight, sums[1] + weight, sums[2] + rows]
        self.ranks.agree(self.stacks)
        weighted, labels, counted = self.ranks.total(*sums)
        if not alone:
            scale_gradients(self.model.parameters(), self.ranks.size / max(labels, 1))
        mean = loss.detach() if alone else torch.tensor(weighted / max(labels, 1))
        try:
            value = check_and_clip(self.model, mean, self.config.clip_norm)
        except FloatingPointError as error:
            raise FloatingPointError(f"epoch {epoch}, step {step}: {error}; {remedy(self.config)}") from None
        self.optimizer.step()
        return StepResult(loss=value, rows=int(counted))

    def _loss(self, batch: Batch, seed: int, counts: bool, *, alone: bool) -> tuple[Tensor, int, int]:
        """Return the loss of a batch, its weight among batches (the labels that it averages), and its training rows."""
        if not alone:
            # Ranks draw differently often, so the global state would depend on the assignment of batches.
            torch.manual_seed(seed)
        logits, placed = self.forward(batch, seed)
        rows = placed.rows["train"]
        y = placed.y[rows]
        weight, row_weight = num_labelled(y) if counts else 0, placed.loss_weight
        if row_weight is not None:
            # Such batches are drawn alike, and each one's sum estimates the loss of all rows.
            weight, row_weight = int(counts), row_weight[rows]

        def loss_of(logits: Tensor) -> Tensor:
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return self.loss(wide[rows], y, row_weight) if weight or alone else wide.sum() * 0.0

        loss = loss_of(logits)
        if self.teacher is not None:
            loss = with_teacher(loss, logits, rows_of(self.teacher, batch.ids), self.config.teacher)
        auxiliary = self.model.auxiliary_loss(loss_of) if isinstance(self.model, ModelHooks) else None
        if auxiliary is not None:
            loss = loss + auxiliary
        return loss, weight, rows.numel() if counts else 0
