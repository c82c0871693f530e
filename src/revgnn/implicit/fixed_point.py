"""Implicit differentiation of a fixed point as one autograd Function, independent of the solver.

The forward solves ``z = f(z)`` without a graph; the backward evaluates ``f`` once at the solution and solves the linear
equation ``v = (df/dz)^T v + dL/dz``. Hides autocast, gradient scaling, and the choice of tensors that get a gradient.
Source: Bai et al. 2019, Deep Equilibrium Models (arXiv:1909.01377).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..stack.conditions import View
from ..stack.context import Autocast
from ..stack.gradients import FunctionContext, check_single, outside_inference, pull_back, save, saved
from ..stack.rank_group import alone
from ..stack.recompute import Recompute, check_recorders, detached_leaves, is_transformed
from ..stack.recomputing import recomputing
from ..stack.repeatable import check_closed
from .solvers import Map, Solver, SolverTrace

Direction = Literal["forward", "backward"]
Report = Callable[[Direction, SolverTrace], None]
"""Receives the trace of every solve."""
Solve = Callable[[Map, Tensor], tuple[Tensor, SolverTrace]]
"""Solves for the fixed point of a map from an initial state; a `Solver` is one."""

FORWARD = Solver()
BACKWARD = Solver(max_iter=40)

_TENSOR = object()


class ConvergenceWarning(UserWarning):
    """A solve missed its tolerance, and its best iterate is used."""


def warn_unconverged(direction: Direction, trace: SolverTrace, *, note: str = "") -> None:
    """Warn with the residual and the remedies if a solve missed its tolerance."""
    if trace.converged:
        return
    if math.isnan(trace.residuals[-1]):
        remedy = f"the map was not finite at iteration {trace.iterations}; look for NaN or overflow in block and input"
    else:
        remedy = (
            "raise max_iter, take another solver, pre-train longer or penalise the Jacobian; "
            "under bfloat16 autocast about 5e-3 is the floor, so raise tol there"
        )
    message = (
        f"the {direction} solve did not converge: {trace.solver} reached relative residual {trace.residual:.2e}, not "
        f"tol={trace.tol:.0e}, in {trace.iterations} iterations; its best iterate is used. Remedy: {remedy}.{note}"
    )
    warnings.warn(message, ConvergenceWarning, stacklevel=2)


def fixed_point(
    f: Callable[..., Tensor],
    z0: Tensor,
    *context: object,
    seed: object = None,
    parameters: Iterable[Tensor] = (),
    forward: Solve = FORWARD,
    backward: Solve = BACKWARD,
    report: Report = warn_unconverged,
) -> Tensor:
    """Return ``z = f(z, seed, *context)``, differentiable by the implicit function theorem.

    ``dL/dw = (df/dw)^T v`` at ``z``, where ``v = (df/dz)^T v + dL/dz``. Every evaluation runs inside `recomputing`: to
    update a block's running statistics, evaluate it once more at the result. The gradient is exact at a fixed point;
    its error is of the order of the residuals where ``f`` is smooth, and can be larger near a kink (ReLU, max).

    Args:
        f: block ``f(z, seed, *context) -> z``. Every evaluation of a module uses the parameters, buffers, flags and
            random numbers of the first; a function must be pure, and tensors that it closes over get no gradient.
        z0: initial state, which sets the state's shape and dtype; gets no gradient.
        context: further arguments of ``f``; tensors that require grad receive gradients, other values pass unchanged.
        seed: constant over the solve and its backward, so that dropout masks are fixed.
        parameters: leaf tensors used by a function ``f`` that receive gradients; a module's parameters always do.
        forward: solver of ``z``.
        backward: solver of ``v``, which starts at ``dL/dz``; ``max_iter=1`` returns the start, the one-step gradient.
        report: called with every trace, in the forward and in the backward; warns by default.
    Returns: the iterate with the lowest residual.
    Raises:
        ValueError: a tensor that requires grad inside a container among ``context``, or see `solve`.
        RuntimeError: in backward, for a second derivative, or if a parameter changed since the forward.
    Cost: saves the state and the tensor context, whatever the iterations. Forward: one evaluation per iteration.
        Backward: one evaluation, one vector-Jacobian product per iteration and one more. Each solver has its workspace
        while it runs.
    """
    refuse_transforms()
    check_recorders(z0, "a fixed point")
    arguments = (seed, *context)
    for argument in arguments:
        _check_visible(argument)
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    recompute = Recompute({f: View(f)}, z0.device) if isinstance(f, nn.Module) else None
    inside = [] if recompute is None else recompute.parameters
    known = {id(parameter) for parameter in inside}
    outside = tuple(parameter for parameter in parameters if id(parameter) not in known)
    job = _Job(
        f=f,
        recompute=recompute,
        arguments=tuple(_TENSOR if isinstance(argument, Tensor) else argument for argument in arguments),
        num_tensors=len(tensors),
        forward=forward,
        backward=backward,
        report=report,
        autocast=Autocast.current(z0.device.type),
        outside=outside,
        versions=tuple(parameter._version for parameter in outside) if torch.is_grad_enabled() else (),
    )
    z: Tensor = _outside_graphs(job, z0.detach(), *tensors, *inside, *outside)
    return z


def refuse_transforms() -> None:
    """Raise RuntimeError under a transform of ``torch.func`` or forward-mode differentiation."""
    if is_transformed():
        raise RuntimeError(
            "a fixed point is differentiated by the implicit function theorem, which torch.func (grad, vmap, jvp) and "
            "forward-mode differentiation do not see; use unrolled, or mode='unroll' of Equilibrium"
        )


def keep_out_of_graphs() -> None:
    """Exclude every solve from torch.compile, as it branches on its residuals; a compiled block inside stays compiled.

    Called before a solve, not at import, because importing the compiler takes seconds.
    """
    global _outside_graphs
    _outside_graphs = torch.compiler.disable(_FixedPoint.apply)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The non-tensor arguments of forward and backward."""

    f: Callable[..., Tensor]
    arguments: tuple[object, ...]
    """Seed and context, with `_TENSOR` in place of every tensor."""
    num_tensors: int
    forward: Solve
    backward: Solve
    report: Report
    autocast: Autocast
    recompute: Recompute | None
    """The evaluator of a module ``f``; ``None`` for a function."""
    outside: tuple[Tensor, ...]
    """The ``parameters`` argument, for a function ``f``."""
    versions: tuple[int, ...]
    """Version counters of `outside` in the forward."""

    @contextmanager
    def again(self) -> Iterator[None]:
        """Restore a module's recorded conditions inside the context."""
        if self.recompute is None:
            with recomputing():
                yield
        else:
            seed = self.arguments[0]
            assert isinstance(self.f, nn.Module)
            with self.recompute.again(_KEY, self.f, seed if isinstance(seed, int) else 0):
                yield

    def evaluate(self, z: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        remaining = iter(tensors)
        with self.autocast(), self.again(), alone():
            return self.f(z, *(next(remaining) if value is _TENSOR else value for value in self.arguments))


_KEY = "fixed point"


class _FixedPointContext(FunctionContext):
    job: _Job


class _FixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _FixedPointContext, job: _Job, z0: Tensor, *tensors: Tensor) -> Tensor:
        if job.recompute is not None:
            assert isinstance(job.f, nn.Module)
            job.recompute.record(_KEY, job.f)
        z, trace = job.forward(lambda state: job.evaluate(state, tensors[: job.num_tensors]), z0)
        job.report("forward", trace)
        ctx.job = job
        # A function's parameters are not saved: it reads them itself, and saved-tensor hooks would return copies.
        save(ctx, z, *tensors[: len(tensors) - len(job.outside)])
        return z

    @staticmethod
    def backward(ctx: _FixedPointContext, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a fixed point is differentiated once: got create_graph=True; "
                "for second derivatives use unrolled, or mode='unroll' of Equilibrium"
            )
        check_single(grad_outputs[0], "a fixed point", "use unrolled, or mode='unroll' of Equilibrium")
        with outside_inference():
            return None, None, *_solved(ctx, grad_outputs[0])


def _solved(ctx: _FixedPointContext, grad: Tensor) -> list[Tensor | None]:
    """Return the gradients of the context and the parameters."""
    job = ctx.job
    _check_unchanged(job.outside, job.versions)
    z, *tensors = saved(ctx)
    needs = ctx.needs_input_grad[2:]
    context, parameters = tensors[: job.num_tensors], tensors[job.num_tensors :]
    z = z.detach().requires_grad_()
    context = [value.detach().requires_grad_(need) for value, need in zip(context, needs, strict=False)]
    if job.recompute is not None:
        needed = needs[job.num_tensors : job.num_tensors + len(parameters)]
        parameters = detached_leaves(parameters, needed)
        job.recompute.bind_leaves(parameters)
    with job.again():
        with torch.enable_grad():
            value = job.evaluate(z, context)
        targets = [tensor for tensor, need in zip([*context, *parameters, *job.outside], needs, strict=True) if need]
        if job.recompute is not None and value.requires_grad:
            check_closed(value, [z, *targets], type(job.f).__name__)
        with _without_hooks(job.outside):
            gradients = iter(_implicit_gradients(job, value, z, targets, grad))
    return [next(gradients) if need else None for need in needs]


def _implicit_gradients(
    job: _Job, value: Tensor, z: Tensor, targets: Sequence[Tensor], grad: Tensor
) -> Sequence[Tensor | None]:
    """Solve ``v = (df/dz)^T v + grad`` on the graph of ``value = f(z)``, then return ``(df/d targets)^T v``."""
    if not value.requires_grad:
        return [None] * len(targets)
    # The equation is linear, so solve it at unit scale: squares of a tiny gradient would underflow in the residual.
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
    scale = grad.abs().amax() if grad.numel() else grad.new_ones(())
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    unit = grad / scale

    def step(v: Tensor) -> Tensor:
        (product,) = pull_back(value, v.to(value.dtype), [z], retain_graph=True)
        return unit if product is None else product.to(unit.dtype) + unit

    v, trace = job.backward(step, unit)
    job.report("backward", trace)
    found: Sequence[Tensor | None]
    if job.outside:
        # These are the caller's own tensors, so their ``grad`` must not be written to.
        found = torch.autograd.grad(value, targets, v.to(value.dtype), allow_unused=True)
    else:
        found = pull_back(value, v.to(value.dtype), targets) if targets else []
    return [None if gradient is None else gradient * scale for gradient in found]


@contextmanager
def _without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Disable the tensors' hooks inside the context: autograd runs them on the accumulated gradient afterwards."""
    hooks = [tensor._backward_hooks for tensor in tensors if tensor._backward_hooks]
    kept = [dict(of_tensor) for of_tensor in hooks]
    try:
        for of_tensor in hooks:
            of_tensor.clear()
        yield
    finally:
        for of_tensor, before in zip(hooks, kept, strict=True):
            of_tensor.update(before)


def _check_unchanged(parameters: Sequence[Tensor], versions: Sequence[int]) -> None:
    for position, (parameter, version) in enumerate(zip(parameters, versions, strict=True)):
        if parameter._version != version:
            raise RuntimeError(
                f"parameter {position} of shape {list(parameter.shape)} was modified in place between the forward and "
                "the backward of a fixed point; call backward before optimizer.step()"
            )


def _check_visible(argument: object) -> None:
    """Raise ValueError for a container with a tensor that requires grad, which would get no gradient."""
    if not isinstance(argument, list | tuple | dict):
        return
    for value in argument.values() if isinstance(argument, dict) else argument:
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"a tensor that requires grad is inside a {type(argument).__name__} among the context, where it "
                "would get no gradient; pass it as an argument of its own, or detach it"
            )
        _check_visible(value)


_outside_graphs: Callable[..., Tensor] = _FixedPoint.apply
