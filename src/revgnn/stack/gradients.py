"""Gradients of a hand-written backward: accumulate them in preallocated buffers, and forbid second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd.function import FunctionCtx


class GradientSums:
    """Accumulates gradients over layers and groups, each in one buffer allocated before the backward.

    A gradient allocated between two large temporaries would fragment the heap, and every layer would take new pages of
    the process.

    Args:
        like: tensors that may receive a gradient.
        needed: which of them require one.
    """

    def __init__(self, like: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self._sums: list[Tensor | None] = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) if need and tensor.layout == torch.strided
            else None
            for tensor, need in zip(like, needed, strict=True)
        ]  # fmt: skip
        self.needed = list(needed)
        self.shares: dict[int, Tensor] | None = None
        """Keeps what is added, by position; ``None``: it is not kept."""
        self._is_written = [False] * len(self._sums)

    def add(self, k: int, grad: Tensor | None, part: Callable[[Tensor], Tensor] | None = None) -> None:
        """Add to sum k, or to the view ``part(sum)`` of it."""
        if grad is not None and self.shares is not None:
            self.shares[k] = grad
        if grad is None or not self.needed[k]:
            return
        total = self._sums[k]
        if total is None or grad.layout != torch.strided:
            # A sparse gradient, of an embedding.
            self._sums[k] = grad if total is None or not self._is_written[k] else total + grad
        elif part is not None:
            if not self._is_written[k]:
                total.zero_()
            part(total).add_(grad)
        elif self._is_written[k]:
            total.add_(grad)
        else:
            total.copy_(grad)
        self._is_written[k] = True

    def to_write(self, count: int) -> list[Tensor | None] | None:
        """Return the buffers of the first sums, for a caller who writes all of them or none, with None for those that
        are not needed; ``None``: one has been written to, or has no buffer."""
        buffers = self._sums[:count]
        are_fresh = not any(self._is_written[:count])
        has_all = all(need is (total is not None) for need, total in zip(self.needed, buffers, strict=False))
        return buffers if are_fresh and has_all else None

    def mark(self, count: int) -> None:
        """Say that the first sums are written."""
        self._is_written[:count] = [True] * count

    def results(self) -> list[Tensor | None]:
        """Return the sums in the order of the tensors; ``None`` where nothing was added."""
        return [total if written else None for total, written in zip(self._sums, self._is_written, strict=True)]


class Gradients:
    """Gradients of a run's context tensors and parameters.

    Args:
        context, parameters: values of the context tensors and of the parameters.
        needed: whether each of them, in this order, requires a gradient.
    """

    def __init__(self, context: Sequence[Tensor], parameters: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.context = GradientSums(context, needed[: len(context)])
        self.parameters = GradientSums(parameters, needed[len(context) :])

    def results(self) -> list[Tensor | None]:
        """Return the sums in the order of the tensors."""
        return [*self.context.results(), *self.parameters.results()]


def pull_back(
    value: Tensor, cotangent: Tensor, leaves: Sequence[Tensor], *, retain_graph: bool = False
) -> list[Tensor | None]:
    """Compute the vector-Jacobian products of a value with its leaves; ``None`` where it does not depend on one.

    Uses `torch.autograd.backward`, because profilers of modules put hooks on leaves, which ``torch.autograd.grad`` does
    not support.
    """
    torch.autograd.backward(value, cotangent, retain_graph=retain_graph, inputs=list(leaves))
    found = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return found


class FunctionContext(FunctionCtx):
    """Types of what autograd gives to a Function's ``forward`` and ``backward``; a subclass declares what it stores."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    strides: list[tuple[int, ...]] | None
    """Of the tensors that `save` saved; ``None``: they come back as they were."""

    if TYPE_CHECKING:

        def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def save(ctx: FunctionContext, *tensors: Tensor) -> None:
    """Save tensors for `saved`."""
    has_hooks = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    ctx.strides = [t.stride() if t.layout == torch.strided else () for t in tensors] if has_hooks else None
    ctx.save_for_backward(*tensors)


def saved(ctx: FunctionContext) -> Sequence[Tensor]:
    """Return the tensors of `save` with the strides that they had: a caller's hooks may have packed them in another
    order, in which kernels do not read them and dropout draws other masks."""
    if ctx.strides is None:
        return ctx.saved_tensors
    return [_strided(*pair) for pair in zip(ctx.saved_tensors, ctx.strides, strict=True)]


def _strided(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    if tensor.layout != torch.strided or tensor.stride() == strides or not tensor.numel():
        return tensor
    if 0 in strides:
        return tensor.contiguous()
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def outside_inference() -> AbstractContextManager[object]:
    """Leave inference mode, in which a backward may run but nothing can be differentiated; keep the grad mode."""
    return _outside_inference() if torch.is_inference_mode_enabled() else nullcontext()


@contextmanager
def _outside_inference() -> Iterator[None]:
    is_enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(is_enabled):
        yield


def anchor_of(x: Tensor) -> Tensor:
    """Return an empty tensor that depends on ``x`` in autograd's graph and keeps no memory of it."""
    return x[..., :0].clone()


def check_single(cotangent: Tensor, what: str, remedy: str) -> None:
    """Raise RuntimeError if a cotangent stands for many, as under ``is_grads_batched`` and ``vectorize=True``: the
    backward evaluates modules again, which cannot be done once for many.

    Args:
        what: name of what is differentiated, for the message.
        remedy: what to do instead, for the message.
    """
    if is_legacy_batchedtensor(cotangent):
        raise RuntimeError(
            f"{what} takes one cotangent at a time, got many at once (is_grads_batched or vectorize=True); call it "
            f"once for each, or {remedy}"
        )


def refusing_second(
    grads: Sequence[Tensor | None], inputs: Iterable[Tensor | None], what: str, remedy: str
) -> list[Tensor | None]:
    """Wrap gradients so that differentiating them raises, instead of treating them as constants.

    Args:
        grads: gradients computed without a graph, in a backward under ``create_graph``.
        inputs: all tensors that they depend on, with their graphs.
        what: name of what was differentiated, for the message.
        remedy: what to do instead, for the message.
    """
    places = [k for k, grad in enumerate(grads) if grad is not None]
    anchors = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    found = list(grads)
    if places and anchors:
        marked = _NotTwice.apply((what, remedy), len(anchors), *anchors, *(grads[k] for k in places))  # type: ignore[no-untyped-call]
        for k, grad in zip(places, marked, strict=True):
            found[k] = grad
    return found


class _Words(FunctionContext):
    words: tuple[str, str]


class _NotTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Words, words: tuple[str, str], num_anchors: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.words = words
        return tuple(grad.detach() for grad in tensors[num_anchors:])

    @staticmethod
    def backward(ctx: _Words, *_: Tensor) -> tuple[Tensor | None, ...]:
        what, remedy = ctx.words
        raise RuntimeError(f"{what} cannot be differentiated twice: its gradient is computed without a graph; {remedy}")
