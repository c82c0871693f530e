"""Runs a trained model on batches and yields its logits and, on request, its last hidden state."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from .evaluate import evaluating
from .forward import Forward, Precision
from .label_inputs import LabelOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class InferenceBatch:
    """A model's outputs for a batch, on the CPU.

    Examples:
        >>> import torch
        >>> from revgnn.train import InferenceBatch
        >>> InferenceBatch(logits=torch.zeros(3, 2)).hidden is None
        True
    """

    logits: Tensor
    """[n, T] float32."""
    hidden: Tensor | None = None
    """[n, D] float32 input of the head, of graphs its mean over their nodes; ``None``: not requested."""


class Inference:
    """Runs a trained model in the way that it was evaluated in training.

    Args:
        model: on the device where it runs.
        labels: how labels were used as an input.
        num_outputs: T.
        precision: "bf16" runs it in bfloat16 autocast, as in training.
        hidden: whether to return the last hidden state.
    Raises: ValueError: ``hidden`` is set and the model has no head.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import Inference, LabelOptions
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2, hidden_channels=8), data.info)
        >>> inference = Inference(model, labels=LabelOptions(), num_outputs=4, hidden=True)
        >>> [tuple(answer.hidden.shape) for _, answer in inference.answers(revgnn.make_batches(data).evaluate())]
        [(34, 8)]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: LabelOptions,
        num_outputs: int,
        precision: Precision = "float32",
        hidden: bool = False,
    ) -> None:
        self._model = model
        self._forward = Forward(model, labels=labels, num_outputs=num_outputs, precision=precision)
        head = getattr(model, "head", None)
        if hidden and not isinstance(head, nn.Module):
            raise ValueError(
                f"{type(model).__name__} has no last hidden state apart from its answer; leave the embeddings out"
            )
        self._head = head if hidden else None

    def answers(self, batches: Iterable[Batch]) -> Generator[tuple[Batch, InferenceBatch]]:
        """Yield each batch with the model's outputs; the model's mode is restored at the end."""
        seen: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(evaluating(self._model))
            if self._head is not None:
                # A head with hooks is called as a module, so that the hook receives its input.
                hook = self._head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
                stack.callback(hook.remove)
            for batch in batches:
                seen.clear()
                logits, placed = self._forward(batch)
                hidden = seen[-1].float() if seen else None
                if hidden is not None and hidden.size(0) != logits.size(0):
                    assert placed.graph.batch is not None, "an answer for several rows is one of their graph"
                    hidden = _graph_means(hidden, placed.graph.batch, logits.size(0))
                yield (
                    batch,
                    InferenceBatch(logits=logits.float().cpu(), hidden=None if hidden is None else hidden.cpu()),
                )


def _graph_means(x: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Average the rows [N, D] of each graph; of a graph without nodes 0."""
    counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
    return x.new_zeros(num_graphs, x.size(1)).index_add_(0, batch, x) / counts[:, None]
