"""Reversible backpropagation of a run of layers: save its last state and reconstruct the others in the backward.

Each block is evaluated twice per step: once in the forward, and once in the backward, for both its value (which
reconstructs the state) and its vector-Jacobian product. No tensor of the caller's is written to, resized or freed.

Source: the paper, section 3; the backward with one evaluation is derived from its equations 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .drift import DriftMonitor
from .fused_head import FusedHead
from .gradients import (
    FunctionContext,
    Gradients,
    anchor_of,
    check_single,
    outside_inference,
    refusing_second,
    save,
    saved,
)
from .layer_run import LayerRun
from .state import DenseState, FloatingPoint, FloatState, Form, State, StoredState

Advance = Callable[[LayerRun, Tensor, Sequence[Tensor]], tuple[Form, State]]
"""``(run, x, context tensors) -> (form, state after the run)``: advance a state in some number format."""


def advance_float(run: LayerRun, x: Tensor, tensors: Sequence[Tensor]) -> tuple[FloatingPoint, DenseState]:
    """Apply a run in the stream's own dtype."""
    form = FloatingPoint(run.coupling.num_groups)
    state = form.open(x)
    run.advance(state, tensors, keep=True)
    return form, state


def advance_stored(
    run: LayerRun, x: Tensor, tensors: Sequence[Tensor], after_layer: Callable[[int], object] | None = None
) -> Tensor:
    """Apply a run and let autograd store its activations."""
    state = StoredState(x, run.coupling.num_groups)
    run.advance(state, tensors, after_layer)
    return state.join()


def advance_without_grad(run: LayerRun, x: Tensor, tensors: Sequence[Tensor], *, copy: bool = True) -> Tensor:
    """Apply a run whose evaluations will not be repeated; without ``copy`` in the memory of ``x``."""
    state = FloatState(x, run.coupling.num_groups, copy=copy or not x.is_contiguous())
    run.advance(state, tensors)
    return state.join()


def reversible(
    run: LayerRun,
    x: Tensor,
    tensors: Sequence[Tensor],
    advance: Advance = advance_float,
    monitor: DriftMonitor | None = None,
    head: FusedHead | None = None,
) -> Tensor:
    """Run layers forward; the backward reconstructs their states.

    Args:
        run: the layers; its coupling is invertible.
        x: [N, D] stream, in the dtype of the state.
        tensors: the run's context tensors.
        advance: advances the state in its number format.
        monitor: compares the reconstructed input with a copy of the true one; ``None`` keeps no copy.
        head: applied to the last state, which the caller then never sees; ``None``: that state is the result.
    Returns: [N, D], or the head's output.
    Raises: RuntimeError: on a second derivative, or if a parameter or context tensor was changed in place before the
        backward.
    Cost: saves the last state (N x D) at any depth, and the first for a monitor; the backward evaluates each block
        once. It copies the last state under ``retain_graph``.
    """
    parameters = [*run.recompute.parameters, *([] if head is None else head.recompute.parameters)]
    settings = (run, advance, monitor, head)
    out: Tensor = _Reversible.apply(settings, len(tensors), x, anchor_of(x), *tensors, *parameters)  # type: ignore[no-untyped-call]
    return out


class _ReversibleContext(FunctionContext):
    run: LayerRun
    monitor: DriftMonitor | None
    head: FusedHead | None
    form: Form
    num_context: int
    """Number of context tensors."""
    bounds: tuple[int, int]
    """Where the kept state, and the true input, end among the saved tensors."""


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _ReversibleContext,
        settings: tuple[LayerRun, Advance, DriftMonitor | None, FusedHead | None],
        num_context: int,
        x: Tensor,
        anchor: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        run, advance, ctx.monitor, ctx.head = settings
        ctx.form, state = advance(run, x, tensors[:num_context])
        kept = state.kept()
        true_input = [] if ctx.monitor is None else ctx.form.open(x).parts
        ctx.run, ctx.num_context = run, num_context
        ctx.bounds = len(kept), len(kept) + len(true_input)
        # Parameters are saved too, so that the backward uses their current values.
        save(ctx, *kept, *true_input, anchor, *tensors)
        if ctx.head is None:
            return state.join()
        with run.autocast():
            out: Tensor = ctx.head(*state.columns(), keep=True)
        return out

    @staticmethod
    def backward(ctx: _ReversibleContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_single(grad, "a reversible stack", "choose backprop='store'")
        tensors = saved(ctx)
        _, second = ctx.bounds
        with outside_inference(), torch.no_grad():
            found = _reversed(ctx, grad, tensors)
        if torch.is_grad_enabled():
            # Grad mode in a backward means create_graph.
            found = refusing_second(found, [grad, *tensors[second:]], "a reversible stack", _REMEDY)
        return None, None, found[0], None, *found[1:]


def _reversed(ctx: _ReversibleContext, grad: Tensor, saved: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of x, the context tensors and the parameters."""
    run = ctx.run
    first, second = ctx.bounds
    kept, true_input, tensors = saved[:first], saved[first:second], saved[second + 1 :]
    context, parameters = tensors[: ctx.num_context], tensors[ctx.num_context :]
    needed = ctx.needs_input_grad[4:]
    sums = Gradients(context, parameters, needed)
    needed = needed[ctx.num_context :]
    of_blocks = len(run.recompute.parameters)
    run.recompute.bind(parameters[:of_blocks], needed[:of_blocks])
    state = ctx.form.reopen(kept, copy=_graph_is_kept())
    if ctx.head is None:
        grads = DenseState.of(grad, run.coupling.num_groups)
    else:
        ctx.head.recompute.bind(parameters[of_blocks:], needed[of_blocks:])
        with run.autocast():
            of_rows = ctx.head.pull_back(
                state.columns(), grad, run.coupling.num_groups,
                lambda k, share: sums.parameters.add(of_blocks + k, share),
            )  # fmt: skip
        grads = DenseState(of_rows)
    run.reverse(state, grads.parts, context, sums)
    if ctx.monitor is not None:
        ctx.monitor.compare(run.first, state.parts, true_input)
    # The input's state is not needed any more.
    memory = state.stream if isinstance(state, DenseState) and state.stream.dtype is grads.stream.dtype else None
    return [grads.join(memory) if ctx.needs_input_grad[2] else None, *sums.results()]


_REMEDY = (
    "for gradient penalties, forces and Hessians choose backprop='store' or 'checkpoint', which changes neither "
    "weights nor values"
)


def _graph_is_kept() -> bool:
    """Whether the running backward retains its graph for another one; assumed where torch cannot tell."""
    keeps = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if keeps is None else bool(keeps())
