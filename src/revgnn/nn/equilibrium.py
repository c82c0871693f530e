"""`EquilibriumOptions`, the settings of a network whose layers are one fixed point, and the module that they make"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..implicit.equilibrium import Equilibrium, Phantom
from ..implicit.solvers import Solver
from .contractive import BoundNorm, Init

SolverName = Literal["broyden", "anderson", "picard"]


@dataclass(frozen=True, kw_only=True)
class EquilibriumOptions:
    """Settings of backprop='implicit': the map, its solvers, gradients, pre-training and penalties."""

    contraction: float | None = None
    """Factor below 1 by which the map contracts, by construction: a `ContractiveBlock`, whose input is convolved once.
    None: the paper's block of two convolutions, which may have no fixed point that a solver finds."""
    contraction_norm: BoundNorm = "spectral"
    """The norm of the weights that is bounded: "spectral" for undirected graphs, "row" for any graph."""
    contraction_init: Init = "propagation"
    """Initial weights of a contractive map: "propagation", as in personalised PageRank, carries signals far from the
    first step on, which suits neighbours of one class; "glorot" draws them."""
    solver: SolverName = "broyden"
    """Solver of the forward."""
    max_iter: int = 30
    """Maximum number of block evaluations in the forward; the paper's block has two convolutions."""
    tol: float = 1e-3
    """Relative residual to stop at."""
    memory: int | None = None
    """States that a solver keeps; None: its default, which for broyden grows with max_iter."""
    beta: float = 1.0
    """Anderson's mixing in both directions; below 1 damps."""
    ridge: float = 1e-4
    """Anderson's regularisation of its weights in both directions, relative to the residuals."""
    backward_solver: SolverName | None = None
    """Solver of the backward; None: the forward's."""
    backward_max_iter: int = 40
    """Maximum number of vector-Jacobian products in the backward."""
    backward_tol: float | None = None
    """Relative residual of the backward; None: the forward's."""
    phantom_steps: int = 0
    """Steps from the solution to backpropagate through in place of the backward solve; 0: solve."""
    phantom_damping: float = 1.0
    """Share of the new value in each of these steps."""
    warm_start: bool = False
    """Whether a training step on the same graph object (full batch) starts from the solution of the one before. A
    resumed run starts from zeros, so it agrees within the tolerance only."""
    pretrain_epochs: int = 0
    """Number of first epochs in which the block is unrolled instead of solved."""
    pretrain_steps: int = 6
    """Applications of the block per forward while it is unrolled."""
    jacobian_weight: float = 0.0
    """Weight of the Jacobian penalty in the loss (Hutchinson's estimate, per entry); keeps the map contractive."""
    corrections: tuple[int, ...] = ()
    """Fixed-point correction: iterations of the forward whose states add their own loss; a state is kept for each."""
    correction_decay: float = 0.8
    """Weight of the last of these losses; each earlier one has this factor more."""

    def __post_init__(self) -> None:
        if self.pretrain_epochs < 0 or self.jacobian_weight < 0 or self.phantom_steps < 0:
            raise ValueError(
                "pretrain_epochs, jacobian_weight and phantom_steps must be 0 or more, got "
                f"{self.pretrain_epochs}, {self.jacobian_weight} and {self.phantom_steps}"
            )
        if self.contraction is not None and not 0.0 < self.contraction < 1.0:
            raise ValueError(f"contraction={self.contraction} must lie in (0, 1); None takes the paper's block")
        if not 0.0 < self.correction_decay <= 1.0:
            raise ValueError(f"correction_decay={self.correction_decay} must lie in (0, 1]")

    def build(self, block: nn.Module) -> Equilibrium:
        """Make the equilibrium of a block.

        Raises: ValueError: a setting out of its range.
        """
        backward = self.solver if self.backward_solver is None else self.backward_solver
        return Equilibrium(
            block,
            self._solver(self.solver, self.max_iter, self.tol),
            backward=self._solver(
                backward, self.backward_max_iter, self.tol if self.backward_tol is None else self.backward_tol
            ),
            phantom=Phantom(steps=self.phantom_steps, damping=self.phantom_damping) if self.phantom_steps else None,
            warm_start=self.warm_start,
            corrections=self.corrections,
            pretrain_steps=self.pretrain_steps,
        )

    def _solver(self, name: SolverName, max_iter: int, tol: float) -> Solver:
        if name == "anderson":
            return Solver(name=name, max_iter=max_iter, tol=tol, memory=self.memory, beta=self.beta, ridge=self.ridge)
        return Solver(name=name, max_iter=max_iter, tol=tol, memory=None if name == "picard" else self.memory)
