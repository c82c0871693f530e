"""The objective of a run: the loss that training minimises, and the metric that judges it in the user's unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.task import TargetScale
from .labels import num_labelled
from .losses import LOSSES
from .metrics import METRICS


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """A loss and a metric, with the scale and the class weights of the training labels."""

    loss: str
    """A key of `LOSSES`; computed on standardised labels if there is a scale."""
    metric: str
    """A key of `METRICS`; computed in the user's unit."""
    scale: TargetScale | None = None
    """``None``: the model's outputs are in the user's unit."""
    class_weights: Tensor | None = None
    """[T] of classes, or [2, T] of flags; ``None``: every label counts the same in training."""

    def training_loss(self, logits: Tensor, y: Tensor, row_weight: Tensor | None = None) -> Tensor:
        """Return the mean loss over the labels, each weighted by its class.

        Args:
            logits, y: of the training rows.
            row_weight: [n] weights of a sampler, by which the losses of the rows are summed; ``None``: their mean.
        """
        weights = self.class_weights
        if row_weight is not None:
            return self._weighted_sum(logits, y, row_weight)
        if weights is None:
            return self.evaluation_loss(logits, y)
        loss, total = LOSSES[self.loss], logits.sum() * 0.0
        if weights.dim() == 1:
            for number in torch.unique(y).tolist():
                rows = y == number
                total = total + weights[number] * rows.sum() * loss(logits[rows], y[rows])
            return total / max(num_labelled(y), 1)
        for column in range(y.size(1)):
            values, labels = logits[:, column, None], y[:, column, None]
            for number in (0, 1):
                one = torch.where(labels == number, labels, torch.nan)
                total = total + weights[number, column] * num_labelled(one) * loss(values, one)
        return total / max(num_labelled(y), 1)

    def _weighted_sum(self, logits: Tensor, y: Tensor, row_weight: Tensor) -> Tensor:
        weights = self.class_weights
        if weights is not None and weights.dim() > 1:
            raise ValueError(
                "train.class_weight weighs each column of the labels, and the sampler each row; set class_weight to "
                "none, or choose another loader.kind"
            )
        if weights is not None:
            row_weight = row_weight * weights[y]
        return LOSSES[self.loss](logits, y if self.scale is None else self.scale.standardise(y), row_weight)

    def evaluation_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss over the labels."""
        return LOSSES[self.loss](logits, y if self.scale is None else self.scale.standardise(y))

    def score(self, logits: Tensor, y: Tensor, metric: str | None = None) -> float:
        """Return a metric of a split's rows; ``None``: the metric of the run."""
        values = logits if self.scale is None else self.scale.restore(logits)
        return METRICS[metric or self.metric].compute(values, y)
