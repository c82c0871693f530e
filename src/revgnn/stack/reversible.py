"""One autograd Function for a run of layers: keep the last state, rebuild the rest, one evaluation of f per group.

Two evaluations of each block per step in all: one forward, one in the backward that gives both the block's value (to
rebuild the state) and its vector-Jacobian product. Nothing that the caller can see is written to, resized or freed.

Source: the paper, section 3; the single-visit backward is derived from its equations 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .drift import DriftMonitor
from .fused_head import FusedHead
from .gradients import anchor_of, refusing_second
from .layer_run import Gradients, LayerRun
from .state import FloatingPoint, FloatState, Form, ReversibleState

Advance = Callable[[LayerRun, Tensor, Sequence[Tensor]], tuple[Form, ReversibleState]]
"""``(run, x, context tensors) -> (form, state after the run)``: how the stream is held on the way."""


def advance_float(
    run: LayerRun, x: Tensor, tensors: Sequence[Tensor], *, keep: bool = True
) -> tuple[FloatingPoint, FloatState]:
    """Take a stream through a run in its own dtype; ``keep``: its evaluations will be repeated."""
    form = FloatingPoint(run.coupling.num_groups)
    state = form.open(x)
    run.advance(state, tensors, keep=keep)
    return form, state


def reversible(
    run: LayerRun,
    x: Tensor,
    tensors: Sequence[Tensor],
    advance: Advance = advance_float,
    monitor: DriftMonitor | None = None,
    head: FusedHead | None = None,
) -> Tensor:
    """Run layers forward so that the backward rebuilds their states.

    Args:
        run: the layers; its coupling is invertible.
        x: [N, D] stream, in the dtype in which the state is to be held.
        tensors: the run's context tensors.
        advance: how the stream is held between the layers.
        monitor: is shown the rebuilt input beside a copy of the true one; ``None`` keeps no copy.
        head: evaluated on the last state, which then stays inside; ``None``: that state is the result.
    Returns: [N, D], or what the head makes of it.
    Raises: RuntimeError: on a second derivative, or if a parameter or context tensor was changed in place before the
        backward.
    Cost: saves the last state (N x D) at any depth, and the first where it is monitored; the backward evaluates each
        block once. It copies the last state where somebody else may still need it: where it was handed on, or with
        ``retain_graph``.
    """
    parameters = [*run.recompute.parameters, *([] if head is None else head.recompute.parameters)]
    how = (run, advance, monitor, head)
    out: Tensor = _Reversible.apply(how, len(tensors), x, anchor_of(x), *tensors, *parameters)  # type: ignore[no-untyped-call]
    return out


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: tuple[LayerRun, Advance, DriftMonitor | None, FusedHead | None],
        num_context: int,
        x: Tensor,
        anchor: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        run, advance, ctx.monitor, ctx.head = how
        ctx.form, state = advance(run, x, tensors[:num_context])
        y = state.join()
        kept = ctx.form.kept(state, y)
        entrance = [] if ctx.monitor is None else ctx.form.open(x).parts
        ctx.run, ctx.num_context = run, num_context
        ctx.bounds = len(kept), len(kept) + len(entrance)
        ctx.is_handed_on = ctx.head is None and any(tensor is y for tensor in kept)
        # Parameters are saved too: the backward is that of the values that they have now, wherever it finds them.
        ctx.save_for_backward(*kept, *entrance, anchor, *tensors)
        if ctx.head is None:
            return y
        with run.autocast():
            out: Tensor = ctx.head(y, keep=True)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        _, second = ctx.bounds
        with torch.no_grad():
            found = _take_back(ctx, grad, saved)
        if torch.is_grad_enabled():
            # The caller asked for create_graph.
            found = refusing_second(found, [grad, *saved[second:]], "a reversible stack", _REMEDY)
        return None, None, found[0], None, *found[1:]


def _take_back(ctx: Any, grad: Tensor, saved: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of x, the context tensors and the parameters."""
    run: LayerRun = ctx.run
    first, second = ctx.bounds
    kept, entrance, tensors = saved[:first], saved[first:second], saved[second + 1 :]
    context, parameters = tensors[: ctx.num_context], tensors[ctx.num_context :]
    needed = ctx.needs_input_grad[4:]
    sums = Gradients(context, parameters, needed)
    needed = needed[ctx.num_context :]
    of_blocks = len(run.recompute.parameters)
    run.recompute.bind(parameters[:of_blocks], needed[:of_blocks])
    state = ctx.form.reopen(kept, copy=ctx.is_handed_on or _graph_is_kept())
    if ctx.head is None:
        grads = FloatState(grad, run.coupling.num_groups)
    else:
        ctx.head.recompute.bind(parameters[of_blocks:], needed[of_blocks:])
        with run.autocast():
            grad_y = ctx.head.pull_back(state.join(), grad, lambda k, share: sums.parameters.add(of_blocks + k, share))
        grads = FloatState(grad_y, run.coupling.num_groups, copy=False)
    run.reverse(state, grads.parts, context, sums)
    if ctx.monitor is not None:
        ctx.monitor.compare(run.first, state.parts, entrance)
    return [grads.join() if ctx.needs_input_grad[2] else None, *sums.results()]


_REMEDY = (
    "for gradient penalties, forces and Hessians choose backprop='store' or 'checkpoint', which changes neither "
    "weights nor values"
)


def _graph_is_kept() -> bool:
    """Whether the running backward may be followed by another over the same graph; where torch does not say, yes."""
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if tell is None else bool(tell())
