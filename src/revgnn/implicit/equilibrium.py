"""The `Equilibrium` module: a block iterated to its fixed point, with exact or phantom gradients, or unrolled.

Hides the two solvers, their statistics, the warnings about solves that missed their tolerance, and warm starts.
Source: Li et al. 2021 (arXiv:2106.07476), DEQ-GNN.
"""

from __future__ import annotations

import math
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..stack import uncompiled
from ..stack.conditions import View
from ..stack.context import Autocast, ChannelSplit
from ..stack.fused import unobserved
from ..stack.lazy import initialise_lazy
from ..stack.rank_group import alone
from ..stack.recompute import Recompute
from ..stack.recomputing import recomputing
from ..stack.repeatable import check_repeats
from ..stack.seeds import draw_seed
from .fixed_point import FORWARD, Direction, fixed_point, keep_out_of_graphs, refuse_transforms, warn_unconverged
from .solvers import Map, Solver, SolverTrace
from .statistics import SolveStatistics


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """The phantom gradient: backpropagation through a few damped steps from the solution, in place of a second solve.

    Source: Geng et al. 2021, On Training Implicit Models (arXiv:2111.05177), unrolling-based.
    """

    steps: int = 5
    """Steps to differentiate; 1 without damping gives the one-step (Jacobian-free) gradient."""
    damping: float = 1.0
    """Share of the new value in every step, in (0, 1]."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"phantom steps={self.steps} must be at least 1; 5 is usual")
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"phantom damping={self.damping} must lie in (0, 1]; 1 takes the whole step")


def unrolled(f: Map, z0: Tensor, steps: int, *, damping: float = 1.0) -> Tensor:
    """Apply ``f`` to ``z0`` ``steps`` times with ordinary backpropagation: ``z <- (1 - damping) z + damping f(z)``.

    Args:
        f: the map; its running statistics are updated in the last step only.
        z0: [N, D] initial state, usually zeros.
        steps: number of applications, at least 1.
        damping: share of the new value, in (0, 1].
    Returns: the last state.
    Raises: ValueError: if ``steps`` is below 1.
    Cost: saves the activations of every step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1; 6 is usual for pre-training")
    z = z0
    for step in range(steps):
        with alone(), nullcontext() if step == steps - 1 else recomputing():
            value = f(z)
        z = value if damping == 1.0 else torch.lerp(z, value, damping)
    return z


def jacobian_penalty(f_value: Tensor, z: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Estimate the squared Frobenius norm of ``df/dz`` per element of the state, differentiably.

    ``||(df/dz)^T eps||^2 / numel`` with one standard normal ``eps``; its expectation is ``||df/dz||_F^2 / numel``.

    Args:
        f_value: ``f(z)``, with its graph.
        z: the state that ``f`` was evaluated at; requires grad.
        generator: source of ``eps``; ``None`` draws from the global generator of the state's device.
    Returns: scalar, float32 or float64, to be weighted and added to the loss.
    Raises: ValueError: if ``f_value`` has no graph to ``z``.
    Cost: one vector-Jacobian product whose graph is kept, and a second derivative of ``f`` in the backward.
    Source: Bai et al. 2021, Stabilizing Equilibrium Models by Jacobian Regularization (arXiv:2106.14342).
    """
    if not (z.requires_grad and f_value.requires_grad):
        raise ValueError(
            "jacobian_penalty needs f(z) with a graph to z: call z.requires_grad_() before evaluating f(z)"
        )
    device = z.device if generator is None else generator.device
    eps = torch.randn(z.shape, generator=generator, device=device, dtype=torch.promote_types(z.dtype, torch.float32))
    (product,) = torch.autograd.grad(f_value, z, eps.to(f_value), create_graph=True, materialize_grads=True)
    return product.to(eps.dtype).square().sum() / max(z.numel(), 1)


class Equilibrium(nn.Module):
    """Iterate a block to its fixed point, with the input injected at every iteration.

    ``z = block(z, seed, x, *context)``, from ``z = 0``. A solve that misses its tolerance raises a
    `ConvergenceWarning`: the first of each direction, then the 10th, the 100th and so on; `failures` counts them all.

    Args:
        block: pure module ``f(z, seed, x, *context)`` with the shape of ``z``.
        forward: solver of the state.
        backward: solver of the gradient; ``None``: the forward's method and tolerance, with up to 40 iterations.
        phantom: backpropagate through a few steps instead of solving for the gradient; ``None``: solve.
        warm_start: in training, start from the last solution if the batch is the same: if the context has the same
            objects other than tensors (the graph), at least one. The last solution is no part of a checkpoint, so a
            resumed run agrees within the tolerance only.
        corrections: iterations of the forward (from 1) whose states `take_intermediate` returns, for a loss of theirs.
        pretrain_steps: applications of the block in mode "unroll".
        mode: "solve", or "unroll" for pre-training; `mode` may be set at any time.
    Raises: ValueError: a setting out of its range.
    Source: Li et al. 2021 (arXiv:2106.07476), DEQ-GNN.
    """

    MODES = ("solve", "unroll")
    is_unrolled: Tensor
    evaluated_by_rank = True
    """Each rank evaluates the block as often as its own solve needs, so its norms use the rank's own rows only."""

    def __init__(
        self,
        block: nn.Module,
        forward: Solver = FORWARD,
        *,
        backward: Solver | None = None,
        phantom: Phantom | None = None,
        warm_start: bool = False,
        corrections: tuple[int, ...] = (),
        pretrain_steps: int = 6,
        mode: str = "solve",
    ) -> None:
        super().__init__()
        if pretrain_steps < 1:
            raise ValueError(f"pretrain_steps={pretrain_steps} must be at least 1; 6 is usual")
        if any(iteration < 1 for iteration in corrections):
            raise ValueError(f"corrections={corrections} must be iterations of the forward, counted from 1")
        keep_out_of_graphs()
        self.block = block
        self.solver = forward
        self.backward_solver = replace(forward, max_iter=40, memory=None) if backward is None else backward
        self.phantom, self.warm_start, self.corrections = phantom, warm_start, corrections
        self.pretrain_steps = pretrain_steps
        self.register_buffer("is_unrolled", torch.zeros((), dtype=torch.uint8))
        self.mode = mode
        self.forward_trace: SolverTrace | None = None
        self.backward_trace: SolverTrace | None = None
        self.failures: dict[Direction, int] = {"forward": 0, "backward": 0}
        self.statistics: dict[Direction, SolveStatistics] = {}
        self.begin_epoch()
        self._is_checked = False
        self._last: _Solution | None = None
        self._intermediate: list[Tensor] = []

    def begin_epoch(self) -> None:
        """Begin new `statistics`."""
        self.statistics = {"forward": SolveStatistics(), "backward": SolveStatistics()}

    @property
    def mode(self) -> str:
        """``"solve"``: solve for the fixed point; ``"unroll"``: apply the block ``pretrain_steps`` times.

        It is part of the state dict, so weights of an unrolled epoch are evaluated and predict unrolled.
        """
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in self.MODES:
            raise ValueError(f"mode={mode!r} is unknown; choose one of {', '.join(self.MODES)}")
        self._mode = mode
        self.is_unrolled.fill_(mode == "unroll")

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        # An attribute decides, because torch.export cannot branch on a buffer.
        self._mode = "unroll" if bool(self.is_unrolled) else "solve"

    def forward(self, x: Tensor, *context: object, seed: int | None = None) -> Tensor:
        """Return the equilibrium of the block for this input.

        Args:
            x: [N, D] input, injected at every iteration.
            context: further arguments of the block; tensors that require grad receive gradients. There are no groups
                here, so a `split` argument is passed unsplit.
            seed: fixes the dropout masks for the whole solve and its backward; ``None`` draws one in training.
        Returns: [N, D] state, in the dtype of ``x`` (float32 under autocast).
        """
        if uncompiled.is_compiled():
            return uncompiled.call(Equilibrium.forward, self, x, *context, seed=seed)
        if torch.compiler.is_exporting() and self.mode == "solve":
            raise RuntimeError(
                "torch.export cannot follow an equilibrium, which iterates until its residual is small; set "
                "mode='unroll'"
            )
        if self.mode == "solve":
            refuse_transforms()
        seed, context = self._seed(seed), _unsplit(context)
        autocast = Autocast.current(x.device.type)
        # A half-precision state has too few digits for a solver's differences; autocast rounds inside the block only.
        z0 = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32) if autocast.enabled else x.dtype)
        initialise_lazy(self.block, lambda: self.block(z0, 0, x, *context))
        recompute = Recompute({self.block: View(self.block)}, x.device)

        def evaluate(z: Tensor) -> Tensor:
            """Evaluate the block and update its statistics, unless inside `recomputing`."""
            return recompute.first(None, self.block, seed, lambda: self.block(z, seed, x, *context), keep=False)

        if self.mode == "unroll":
            self.forward_trace = self.backward_trace = None
            return unrolled(evaluate, z0, self.pretrain_steps)
        if not self._is_checked:
            with torch.no_grad(), unobserved(), recomputing(), autocast(), alone():
                check_repeats(evaluate(z0), evaluate(z0), f"the block {type(self.block).__name__} of an equilibrium")
            self._is_checked = True
        recorder = _Recorder(self.solver, self.corrections if torch.is_grad_enabled() and self.training else ())
        uses_phantom = self.phantom is not None and torch.is_grad_enabled()
        with torch.no_grad() if uses_phantom else nullcontext():
            z = fixed_point(
                self.block,
                self._start(z0, context),
                x,
                *context,
                seed=seed,
                forward=recorder,
                backward=self.backward_solver,
                report=self._report,
            )
        self._keep(z, context)
        with recomputing(), alone():
            self._intermediate = [evaluate(state) for state in recorder.states]
        if uses_phantom and self.phantom is not None:
            return unrolled(evaluate, z, self.phantom.steps, damping=self.phantom.damping)
        if self.training and next(self.block.buffers(), None) is not None:
            # Running statistics must describe the equilibrium, which inference sees, not the initial zeros.
            with torch.no_grad(), autocast(), alone():
                evaluate(z.detach())
        return z

    def take_intermediate(self) -> list[Tensor]:
        """Return and clear the block's values at the `corrections` of the last training forward, each with its graph.

        Each is one step from an iterate, differentiated through this step alone; iterations that the solve did not
        need give none.
        """
        states, self._intermediate = self._intermediate, []
        return states

    def jacobian_penalty(
        self, z: Tensor, x: Tensor, *context: object, seed: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate ``||d block/dz||_F^2 / numel`` at ``z``, for the loss; see the function `jacobian_penalty`.

        Args:
            z: [N, D] state, usually what `forward` returned; held constant.
            x: [N, D] input, as in `forward`.
            context: as in `forward`.
            seed: as in `forward`.
            generator: source of the random direction; ``None`` takes the global one.
        Returns: scalar; its gradient reaches the parameters, ``x`` and the context.
        Raises: RuntimeError: in backward, if an op of the block has no second derivative.
        Cost: one evaluation of the block with its graph, and a second derivative.
        """
        state = z.detach().requires_grad_()
        with recomputing(), alone():
            seed, context = self._seed(seed), _unsplit(context)
            recompute = Recompute({self.block: View(self.block)}, x.device)
            value = recompute.first(None, self.block, seed, lambda: self.block(state, seed, x, *context), keep=False)
        return jacobian_penalty(value, state, generator=generator)

    def extra_repr(self) -> str:
        """Show the mode and the solvers."""
        gradient = self.backward_solver if self.phantom is None else self.phantom
        return f"mode={self.mode!r}, solver={self.solver}, gradient={gradient}, warm_start={self.warm_start}"

    def __getstate__(self) -> dict[str, Any]:
        # What belongs to one process and one step: weak references and graphs.
        return {**self.__dict__, "_last": None, "_intermediate": []}

    def _start(self, zeros: Tensor, context: tuple[object, ...]) -> Tensor:
        last = self._last
        return last.z if self.training and last is not None and last.fits(zeros, context) else zeros

    def _keep(self, z: Tensor, context: tuple[object, ...]) -> None:
        if self.warm_start and self.training and self.forward_trace is not None:
            is_finite = math.isfinite(self.forward_trace.residual)
            self._last = _Solution(z.detach().clone(), context) if is_finite else None

    def _seed(self, seed: int | None) -> int:
        if seed is not None:
            return seed
        return draw_seed() if self.training or View(self.block).is_training else 0

    def _report(self, direction: Direction, trace: SolverTrace) -> None:
        if direction == "forward":
            self.forward_trace = trace
        else:
            self.backward_trace = trace
        self.statistics[direction].add(trace)
        if trace.converged:
            return
        self.failures[direction] += 1
        count = str(self.failures[direction])
        if count.rstrip("0") == "1":
            warn_unconverged(direction, trace, note=f" Such solves of this module so far: {count}.")


class _Recorder:
    """Calls a solver and keeps the iterates of some iterations."""

    def __init__(self, solver: Solver, iterations: tuple[int, ...]) -> None:
        self._solver, self._iterations = solver, iterations
        self.states: list[Tensor] = []

    def __call__(self, f: Map, z0: Tensor) -> tuple[Tensor, SolverTrace]:
        """Solve ``f(z) = z`` from ``z0``."""
        iteration = 0

        def recorded(z: Tensor) -> Tensor:
            nonlocal iteration
            iteration += 1
            if iteration in self._iterations:
                self.states.append(z.detach().clone())
            return f(z)

        return self._solver(recorded if self._iterations else f, z0)


class _Solution:
    """The solution of a batch, and weak references to the objects by which the batch is known again."""

    def __init__(self, z: Tensor, context: tuple[object, ...]) -> None:
        self.z = z
        self._batch = [weakref.ref(value) for value in _objects(context)]

    def fits(self, zeros: Tensor, context: tuple[object, ...]) -> bool:
        """Whether this is the state of the same batch, shape, dtype and device."""
        found = _objects(context)
        is_same = len(found) == len(self._batch) > 0 and all(
            ref() is value for ref, value in zip(self._batch, found, strict=True)
        )
        z = self.z
        return is_same and (z.shape, z.dtype, z.device) == (zeros.shape, zeros.dtype, zeros.device)


def _objects(context: tuple[object, ...]) -> list[object]:
    return [value for value in context if value is not None and not isinstance(value, Tensor)]


def _unsplit(context: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(value.value if isinstance(value, ChannelSplit) else value for value in context)
