"""Activation checkpointing of a run of layers: save its input, recompute it in the backward, and differentiate.

Like `torch.utils.checkpoint`, but the recomputation also uses the parameters, buffers, flags and random numbers of the
first evaluation, and gradients accumulate in buffers that are allocated before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .gradients import FunctionContext, Gradients, check_single, outside_inference, pull_back, save, saved
from .layer_run import LayerRun
from .recompute import detached_leaves
from .state import FloatState, StoredState


def checkpointed(run: LayerRun, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Run layers forward; the backward recomputes them from their input.

    Args:
        run: the layers.
        x: [N, D] stream, in the dtype of the state.
        tensors: the run's context tensors.
    Returns: [N, D].
    Raises: RuntimeError: if a parameter or context tensor was changed in place before the backward.
    Cost: saves the input (N x D); the backward evaluates each block once more and keeps the graph of all its layers.
    """
    parameters = run.recompute.parameters
    out: Tensor = _Checkpointed.apply(run, len(tensors), x, *tensors, *parameters)  # type: ignore[no-untyped-call]
    return out


class _CheckpointedContext(FunctionContext):
    run: LayerRun
    num_context: int


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _CheckpointedContext, run: LayerRun, num_context: int, x: Tensor, *tensors: Tensor) -> Tensor:
        state = FloatState(x, run.coupling.num_groups)
        run.advance(state, tensors[:num_context], keep=True)
        ctx.run, ctx.num_context = run, num_context
        save(ctx, x, *tensors)
        return state.join()

    @staticmethod
    def backward(ctx: _CheckpointedContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_single(grad, "a checkpointed stack", "choose backprop='store'")
        with outside_inference():
            return None, None, *_recomputed(ctx, grad, saved(ctx))


def _recomputed(ctx: _CheckpointedContext, grad: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Recompute the run and return the gradients of the saved tensors."""
    run, needed = ctx.run, ctx.needs_input_grad[2:]
    # Under create_graph gradients are taken at aliases of the saved tensors, so that they have a graph.
    creates_graph = torch.is_grad_enabled()
    count = 1 + ctx.num_context
    if creates_graph:
        # Aliases, because one of them may be another, or be computed from it.
        values = [value.view_as(value) if need else value.detach() for value, need in zip(tensors, needed, strict=True)]
    else:
        sums = Gradients(tensors[:count], tensors[count:], needed)
        values = detached_leaves(tensors, needed)
    run.recompute.bind_leaves(values[count:])
    with torch.enable_grad():
        state = StoredState(values[0], run.coupling.num_groups)
        run.advance(state, values[1:count], again=True)
        y = state.join()
    wanted = [k for k, need in enumerate(needed) if need]
    if y.requires_grad and not creates_graph:
        run.check_closed(y, [values[k] for k in wanted], run.layers[0][0])
    leaves = [values[k] for k in wanted]
    if not y.requires_grad:
        return [None for _ in values]
    if creates_graph:
        found = torch.autograd.grad(y, leaves, grad, allow_unused=True, create_graph=True)
        by_place = dict(zip(wanted, found, strict=True))
        return [by_place.get(k) for k in range(len(values))]
    for k, share in zip(wanted, pull_back(y, grad, leaves), strict=True):
        if k < count:
            sums.context.add(k, share)
        else:
            sums.parameters.add(k - count, share)
    return sums.results()
