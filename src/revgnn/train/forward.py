"""Computes the logits of a batch, for training, evaluation and prediction."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from .label_inputs import LabelOptions, reuse_labels

Precision = Literal["float32", "bf16"]


class Forward:
    """Calls a model on batches: moves them to its device, applies autocast, and optionally adds labels to the input.

    The model's mode selects training or evaluation; the caller enables or disables gradients.

    Args:
        model: on the device where it runs.
        labels: how labels are used as an input; ``None``: they are not.
        num_outputs: T, number of label columns; only needed with ``labels.reuse``.
        precision: "bf16" runs the model in bfloat16 autocast.
        trained: called instead of ``model`` in training, for example a wrapper that averages gradients; ``None``: the
            model.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import Forward
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> (batch,) = revgnn.make_batches(data).evaluate()
        >>> logits, placed = Forward(revgnn.build_model(revgnn.ModelConfig(num_layers=2), data.info))(batch)
        >>> logits.shape
        torch.Size([34, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: LabelOptions | None = None,
        num_outputs: int | None = None,
        precision: Precision = "float32",
        trained: nn.Module | None = None,
    ) -> None:
        self.model, self.trained = model, model if trained is None else trained
        self._labels, self._num_outputs, self._precision = labels or LabelOptions(), num_outputs, precision
        self._placed: tuple[Batch, Batch] | None = None
        """The last batch: as given, and on the device."""

    def __call__(self, batch: Batch, seed: int | None = None) -> tuple[Tensor, Batch]:
        """Compute the logits of a batch.

        Args:
            batch: features without labels.
            seed: seed of a training step's random choices; ``None`` in evaluation.
        Returns: [n, T] logits in float32 or wider; and the batch on the model's device, with any labels that were added
            to the input. Its ``rows["train"]`` are the rows that the loss covers.
        Raises: ValueError: the number of logit rows differs from the number of labels; or the sampler weighs edges,
            which a model with a true attribute ``takes_edge_weight`` applies, and this one has none; or batches are
            layer-wise, which a model with a true attribute ``takes_hops`` takes as ``hops=``.
        """
        placed = self._on_device(batch)
        if not self._labels.reuse:
            return self._logits(placed, seed), placed
        assert self._num_outputs is not None, "who reuses labels says how many columns they have"
        return reuse_labels(
            self._logits, placed, self._labels, model=self.model, num_outputs=self._num_outputs, seed=seed
        )

    def _on_device(self, batch: Batch) -> Batch:
        # A full batch is the same object every time: keep it and its graph's caches on the device.
        if self._placed is None or self._placed[0] is not batch:
            self._placed = None
            self._placed = batch, batch.to(self._device)
        return self._placed[1]

    def _logits(self, placed: Batch, seed: int | None) -> Tensor:
        # Ranks evaluate different numbers of batches, so DDP must not synchronise buffers.
        model = self.trained if self.model.training else self.model
        if placed.graph.edge_weight is not None and not getattr(self.model, "takes_edge_weight", False):
            raise ValueError(
                "the sampler weighs edges, and this model does not apply weights; choose conv gcn or sage, or "
                "loader.saint.aggr_norm=false, or leave loader.diagonal out"
            )
        hops = {} if placed.hops is None else {"hops": placed.hops}
        if hops and not getattr(self.model, "takes_hops", False):
            raise ValueError(
                "loader.layer_wise computes each layer on the rows that later layers need, and this model evaluates "
                "all its layers on one set of rows, as a reversible stack, an equilibrium or a network of your own "
                "without `takes_hops` does; choose model.backprop=store or checkpoint, or loader.layer_wise=false"
            )
        with self._autocast():
            logits: Tensor = model(placed.x, placed.graph, placed.edge_attr, seed=seed, **hops)
        if logits.size(0) != placed.y.size(0):
            raise ValueError(
                f"the model must give one row of logits per row of labels, got {logits.size(0)} for {placed.y.size(0)}"
            )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self._device.type, torch.bfloat16) if self._precision == "bf16" else nullcontext()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
