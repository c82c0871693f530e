"""Computes gradients by the reference when a backward is itself differentiated (``create_graph=True``).

The kernels support first-order gradients. If the backward is recorded by autograd, or a kernel cannot read a cotangent,
gradients are computed by differentiating the reference, which supports any order. A custom op, which may be part of a
compiled graph, raises an error instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch._library.custom_ops import CustomOpDef

from .checks import is_readable


def asks_reference(*cotangents: Tensor) -> bool:
    """Whether the current backward is itself differentiated, or has a cotangent that no kernel can read."""
    return torch.is_grad_enabled() or not is_readable(*cotangents)


def gradients(
    call: Callable[..., Tensor | tuple[Tensor | None, ...]],
    inputs: Sequence[Tensor | None],
    cotangents: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Differentiate ``call(*inputs)`` by autograd, in a way that can be differentiated again where that is asked for.

    Args:
        call: the op by the reference; returns a tensor, or a tuple of tensors and ``None``.
        inputs: what it is called with.
        cotangents: of the tensors that it returns.
        needs: whose gradients are wanted.
    Returns: one gradient for each input, ``None`` where none is wanted.
    Raises: RuntimeError: a cotangent stands for many.
    """
    if any(is_legacy_batchedtensor(cotangent) for cotangent in cotangents):
        raise RuntimeError(
            "a kernel's gradient takes one cotangent at a time, got many at once (is_grads_batched or vectorize=True); "
            'call it once for each, or evaluate the forward inside of revgnn.ops.using("reference")'
        )
    tracks_autograd = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that what is wanted are the gradients at this call alone.
        aliases = [
            value.view_as(value) if need and value is not None else value
            for value, need in zip(inputs, needs, strict=True)
        ]
        found = call(*aliases)
    outputs = [out for out in (found if isinstance(found, tuple) else (found,)) if out is not None]
    wanted = [alias for alias, need in zip(aliases, needs, strict=True) if need and alias is not None]
    grads = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=tracks_autograd, allow_unused=True))
    return [next(grads) if need and alias is not None else None for alias, need in zip(aliases, needs, strict=True)]


def refuse_second(backward_op: CustomOpDef) -> None:
    """Let the gradient of a custom op that is itself a gradient be an error that says what to do."""

    def refuse(ctx: object, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{backward_op._qualname} is a gradient, and has none of its own where torch.compile or a tensor subclass "
            'holds the op; differentiate twice outside of it, or inside of revgnn.ops.using("reference")'
        )

    backward_op.register_autograd(refuse)
