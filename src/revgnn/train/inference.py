"""Answers of a trained model, batch by batch: logits with labels as an input where it was trained so, and its last
hidden state where that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from .evaluate import evaluating
from .label_inputs import LabelOptions, reuse_labels


@dataclass(frozen=True, kw_only=True, eq=False)
class InferenceBatch:
    """What a model says of a batch, on the CPU."""

    logits: Tensor
    """[n, T] float32."""
    hidden: Tensor | None = None
    """[n, D] float32, what the head read; ``None``: not asked for."""


class Inference:
    """A trained model as it was evaluated in training.

    Args:
        model: lies where it shall run.
        labels: how labels were an input.
        num_outputs: T.
        precision: "bf16" runs it in bfloat16 autocast, as in training.
        hidden: whether the last hidden state is wanted.
    Raises: ValueError: the model has no head that reads one.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: LabelOptions,
        num_outputs: int,
        precision: Literal["float32", "bf16"] = "float32",
        hidden: bool = False,
    ) -> None:
        self._model, self._labels, self._num_outputs = model, labels, num_outputs
        self._device = next(model.parameters()).device
        self._low = precision == "bf16"
        head = getattr(model, "head", None)
        if hidden and not isinstance(head, nn.Module):
            raise ValueError(
                f"{type(model).__name__} has no last hidden state apart from its answer; leave the embeddings out"
            )
        self._head = head if hidden else None

    def answers(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, InferenceBatch]]:
        """Yield each batch with what the model says of it; the model comes back in its mode at the end."""
        seen: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(evaluating(self._model))
            if self._head is not None:
                # A head that is watched is called as a module, whatever else it could be done with.
                hook = self._head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
                stack.callback(hook.remove)
            for batch in batches:
                seen.clear()
                logits, _ = self(batch)
                hidden = seen[-1].float().cpu() if seen else None
                yield batch, InferenceBatch(logits=logits.float().cpu(), hidden=hidden)

    def __call__(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Give the logits of a batch, and the batch on the device of the model."""
        placed = batch.to(self._device)
        if not self._labels.reuse:
            return self._forward(placed, None), placed
        return reuse_labels(
            self._forward, placed, self._labels, model=self._model, num_outputs=self._num_outputs, seed=None
        )

    def _forward(self, placed: Batch, seed: int | None) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            logits: Tensor = self._model(placed.x, placed.graph, placed.edge_attr, seed=seed)
        return logits.float()
