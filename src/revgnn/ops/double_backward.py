"""Gradients by the reference: where a backward is itself differentiated (``create_graph=True``).

The kernels differentiate once. Where autograd follows a backward, its gradients are formed by differentiating the plain
reference, which can be differentiated any number of times; so are those of a cotangent that no kernel can read. A
custom op, which a compiler may hold, says no instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from ..graph import Graph
from .checks import is_readable


def asks_reference(*cotangents: Tensor) -> bool:
    """Whether the backward that runs is to be differentiated again, or given what no kernel can read."""
    return torch.is_grad_enabled() or not is_readable(*cotangents)


def gradients(
    call: Callable[..., Any], inputs: Sequence[Tensor | None], cotangents: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor | None]:
    """Differentiate ``call(*inputs)`` by autograd, in a way that can be differentiated again where that is asked for.

    Args:
        call: the op by the reference; returns a tensor, or a tuple of tensors and ``None``.
        inputs: what it is called with.
        cotangents: of the tensors that it returns.
        needs: whose gradients are wanted.
    Returns: one gradient for each input, ``None`` where none is wanted.
    """
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


def of_maximum(grad: Tensor, arg: Tensor, graph: Graph) -> Tensor:
    """Send each gradient to the source of the edge that ``arg`` [N, D] names, -1 for none."""
    if graph.num_edges == 0:
        return grad * 0
    sources = graph.indices[arg.clamp(min=0).long()].long()
    return torch.zeros_like(grad).scatter_add(0, sources, grad * (arg >= 0))


def of_edge_maximum(grad: Tensor, arg: Tensor, edge_attr: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of edge_attr [E, K], weight [K, D] and bias [D] of the messages that ``arg`` [N, D] names."""
    grad = grad.to(weight.dtype) * (arg >= 0)
    edges = arg.clamp(min=0).long()
    if edge_attr.size(0) == 0:
        return edge_attr * 0, weight * 0, grad.sum(0)
    terms = (grad.unsqueeze(2) * weight.t()).flatten(0, 1)
    dedge_attr = torch.zeros_like(edge_attr).index_add(0, edges.flatten(), terms)
    return dedge_attr, torch.einsum("nd,ndk->kd", grad, edge_attr[edges]), grad.sum(0)


def refuse_second(backward_op: CustomOpDef) -> None:
    """Let the gradient of a custom op that is itself a gradient be an error that says what to do."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{backward_op._qualname} is a gradient, and has none of its own where torch.compile or a tensor subclass "
            'holds the op; differentiate twice outside of it, or inside of revgnn.ops.using("reference")'
        )

    backward_op.register_autograd(refuse)
