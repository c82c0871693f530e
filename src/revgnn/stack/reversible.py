"""One autograd Function for a run of layers: keep the last state, rebuild the rest, one evaluation of f per group.

Two evaluations of each block per step in all: one forward, one in the backward that gives both the block's value (to
rebuild the state) and its vector-Jacobian product. Nothing that the caller can see is written to, resized or freed.

Source: the paper, section 3; the single-visit backward is derived from its equations 1 to 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .run import GradientSums, Run
from .state import FloatState


def reversible(run: Run, x: Tensor, tensors: list[Tensor]) -> Tensor:
    """Run layers forward so that the backward rebuilds their states.

    Args:
        run: the layers; its coupling is invertible.
        x: [N, D] stream, in the dtype in which the state is to be held.
        tensors: the run's context tensors.
    Returns: [N, D].
    Raises: RuntimeError: on a second derivative, or if a parameter or context tensor was changed before the backward.
    Cost: saves the output (N x D) at any depth; the backward evaluates each block once.
    """
    unique = {parameter: None for blocks in run.layers for block in blocks for parameter in block.parameters()}
    parameters = [parameter for parameter in unique if parameter.requires_grad]
    out: Tensor = _Reversible.apply(run, len(tensors), x, *tensors, *parameters)  # type: ignore[no-untyped-call]
    return out


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, num_context: int, x: Tensor, *tensors: Tensor) -> Tensor:
        state = FloatState(x, run.coupling.num_groups)
        run.advance(state, tensors[:num_context])
        y = state.join()
        ctx.run, ctx.num_context = run, num_context
        # Parameters are saved for their version counters alone: one that changed before the backward is an error.
        ctx.save_for_backward(y, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        run: Run = ctx.run
        y, *tensors = ctx.saved_tensors
        context, parameters = tensors[: ctx.num_context], tensors[ctx.num_context :]
        sums = GradientSums(run, context, ctx.needs_input_grad[3 : 3 + ctx.num_context])
        state = FloatState(y, run.coupling.num_groups)
        grads = FloatState(grad, run.coupling.num_groups)
        run.reverse(state, grads.parts, context, sums)
        grad_x = grads.join() if ctx.needs_input_grad[2] else None
        return None, None, grad_x, *sums.of_context(), *sums.of_parameters(parameters)
