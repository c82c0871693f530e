"""The `Equilibrium` module: a block iterated to its fixed point, unrolled pre-training, and the Jacobian penalty.

Hides the two solvers, their traces and the warnings about solves that missed their tolerance.
Source: Li et al. 2021 (arXiv:2106.07476), DEQ-GNN.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..stack import uncompiled
from ..stack.fused import unobserved
from ..stack.layer_run import Autocast, ChannelSplit
from ..stack.rank_group import alone
from ..stack.recompute import Recompute, View
from ..stack.recomputing import recomputing
from ..stack.repeatable import check_repeats
from ..stack.seeds import draw_seed
from .fixed_point import Direction, fixed_point, keep_out_of_graphs, warn_unconverged
from .solvers import Map, Solver, SolverTrace


def unrolled(f: Map, z0: Tensor, steps: int) -> Tensor:
    """Apply ``f`` to ``z0`` ``steps`` times with ordinary backpropagation.

    Args:
        f: the map; its running statistics are updated in the last step only.
        z0: [N, D] initial state, usually zeros.
        steps: number of applications, at least 1.
    Returns: the last state.
    Raises: ValueError: if ``steps`` is below 1.
    Cost: saves the activations of every step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1; 6 is usual for pre-training")
    z = z0
    for step in range(steps):
        with alone(), nullcontext() if step == steps - 1 else recomputing():
            z = f(z)
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
        solver: key of `SOLVERS` for the forward.
        max_iter: maximum number of block evaluations in the forward.
        tol: relative residual to stop at.
        memory: number of states that the forward solver keeps; ``None`` takes its default.
        backward_solver: key of `SOLVERS` for the backward; ``None`` takes ``solver``.
        backward_max_iter: maximum number of vector-Jacobian products in the backward.
        backward_tol: relative residual of the backward; ``None`` takes ``tol``.
        backward_memory: number of states that the backward solver keeps; ``None`` takes its default.
        pretrain_steps: applications of the block in mode "unroll".
        mode: "solve", or "unroll" for pre-training; `mode` may be set at any time.
    Raises: ValueError: a setting out of its range.
    Source: Li et al. 2021 (arXiv:2106.07476), DEQ-GNN.
    """

    MODES = ("solve", "unroll")
    evaluated_by_rank = True
    """Each rank evaluates the block as often as its own solve needs, so its norms use the rank's own rows only."""

    def __init__(
        self,
        block: nn.Module,
        *,
        solver: str = "broyden",
        max_iter: int = 30,
        tol: float = 1e-3,
        memory: int | None = None,
        backward_solver: str | None = None,
        backward_max_iter: int = 40,
        backward_tol: float | None = None,
        backward_memory: int | None = None,
        pretrain_steps: int = 6,
        mode: str = "solve",
    ) -> None:
        super().__init__()
        if pretrain_steps < 1:
            raise ValueError(f"pretrain_steps={pretrain_steps} must be at least 1; 6 is usual")
        keep_out_of_graphs()
        self.block = block
        self.solver = Solver(name=solver, max_iter=max_iter, tol=tol, memory=memory)
        self.backward_solver = Solver(
            name=solver if backward_solver is None else backward_solver,
            max_iter=backward_max_iter,
            tol=tol if backward_tol is None else backward_tol,
            memory=backward_memory,
        )
        self.pretrain_steps = pretrain_steps
        self.mode = mode
        self.forward_trace: SolverTrace | None = None
        self.backward_trace: SolverTrace | None = None
        self.failures: dict[Direction, int] = {"forward": 0, "backward": 0}
        self._is_checked = False

    @property
    def mode(self) -> str:
        """``"solve"``: solve for the fixed point; ``"unroll"``: apply the block ``pretrain_steps`` times."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in self.MODES:
            raise ValueError(f"mode={mode!r} is unknown; choose one of {', '.join(self.MODES)}")
        self._mode = mode

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
        seed, context = self._seed(seed), _unsplit(context)
        autocast = Autocast.current(x.device.type)
        # A half-precision state has too few digits for a solver's differences; autocast rounds inside the block only.
        z0 = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32) if autocast.enabled else x.dtype)
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
        z = fixed_point(
            self.block,
            z0,
            x,
            *context,
            seed=seed,
            forward=self.solver,
            backward=self.backward_solver,
            report=self._report,
        )
        if self.training and next(self.block.buffers(), None) is not None:
            # Running statistics must describe the equilibrium, which inference sees, not the initial zeros.
            with torch.no_grad(), autocast(), alone():
                evaluate(z.detach())
        return z

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
        return f"mode={self.mode!r}, solver={self.solver}, backward_solver={self.backward_solver}"

    def _seed(self, seed: int | None) -> int:
        if seed is not None:
            return seed
        return draw_seed() if self.training or View(self.block).is_training else 0

    def _report(self, direction: Direction, trace: SolverTrace) -> None:
        if direction == "forward":
            self.forward_trace = trace
        else:
            self.backward_trace = trace
        if trace.converged:
            return
        self.failures[direction] += 1
        count = str(self.failures[direction])
        if count.rstrip("0") == "1":
            warn_unconverged(direction, trace, note=f" Such solves of this module so far: {count}.")


def _unsplit(context: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(value.value if isinstance(value, ChannelSplit) else value for value in context)
