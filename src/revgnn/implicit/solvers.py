"""Fixed-point solvers for ``z = f(z)``: Picard, Anderson and Broyden iteration, each with a trace of residuals.

A state of any shape is treated as one vector: the nodes of a graph depend on each other, so rows are not a batch. Hides
the flattening, the working precision (at least float32), the single transfer to the host per iteration, and the best
iterate. Solvers build no autograd graph.
Source: Bai et al. 2019, Deep Equilibrium Models (arXiv:1909.01377).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..malloc import HeapLevel

Map = Callable[[Tensor], Tensor]
"""A function from a state to a state of the same shape."""


@dataclass(frozen=True, kw_only=True)
class SolverTrace:
    """The residuals of one solve, iteration by iteration."""

    solver: str
    """Name of the solver, a key of `SOLVERS`."""
    tol: float
    """Requested relative residual."""
    residuals: tuple[float, ...]
    """``||f(z) - z|| / ||f(z)||`` of each iterate; NaN where ``f`` was not finite, which ends the solve."""
    best: int
    """Index of the returned iterate, which has the lowest residual."""

    @property
    def iterations(self) -> int:
        """Number of evaluations of ``f``."""
        return len(self.residuals)

    @property
    def residual(self) -> float:
        """Relative residual of the returned iterate."""
        return self.residuals[self.best]

    @property
    def converged(self) -> bool:
        """Whether the returned iterate satisfies the tolerance."""
        return self.residual <= self.tol


@torch.no_grad()
def picard(
    f: Map, z0: Tensor, *, max_iter: int = 30, tol: float = 1e-3, memory: int | None = None
) -> tuple[Tensor, SolverTrace]:
    """Iterate ``z <- f(z)``; converges where ``f`` contracts.

    Args:
        f: the map; deterministic during a solve.
        z0: initial state, any shape, floating; not written to.
        max_iter: maximum number of evaluations of ``f``.
        tol: relative residual ``||f(z) - z|| / ||f(z)||`` to stop at.
        memory: must be ``None``; Picard iteration keeps no states.
    Returns: the iterate with the lowest residual, NaN if ``f`` is not finite at ``z0``, in the shape and dtype of
        ``z0``; and the trace.
    Raises: TypeError, ValueError: see `solve`.
    Cost: one evaluation of ``f`` per iteration, as in every solver; 3 states.
    """
    search = _Search("picard", f, z0, max_iter=max_iter, tol=tol, memory=memory)
    z = search.start
    while True:
        value = search.evaluate(z)
        residual_norm, value_norm = _to_host(_norm(value - z), _norm(value))
        if search.ends_with(z, residual_norm, value_norm):
            return search.result()
        z = search.keep(value)
        del value


@torch.no_grad()
def anderson(
    f: Map,
    z0: Tensor,
    *,
    max_iter: int = 30,
    tol: float = 1e-3,
    memory: int | None = None,
    ridge: float = 1e-4,
    beta: float = 1.0,
) -> tuple[Tensor, SolverTrace]:
    """Iterate with the combination of the last ``memory`` iterates that has the smallest residual.

    ``z <- sum_i a_i (z_i + beta g_i)`` with ``g_i = f(z_i) - z_i`` and ``sum_i a_i = 1``, where ``a`` minimises
    ``||sum_i a_i g_i||^2 + ridge mean_i ||g_i||^2 ||a||^2``. The ridge is relative to the residuals, so that it does
    not limit the final accuracy.

    Args:
        f: the map; deterministic during a solve.
        z0: initial state, any shape, floating; not written to.
        max_iter: maximum number of evaluations of ``f``.
        tol: relative residual ``||f(z) - z|| / ||f(z)||`` to stop at.
        memory: number of iterates combined, at least 1; ``None`` means 6.
        ridge: regularisation of the weights, dimensionless, above 0.
        beta: mixing, dimensionless; 1 combines the values of ``f``, below 1 damps.
    Returns: the iterate with the lowest residual, NaN if ``f`` is not finite at ``z0``, in the shape and dtype of
        ``z0``; and the trace.
    Raises: TypeError, ValueError: see `solve`.
    Cost: 2 x ``memory`` states (N x D x 2 x 6 numbers by default); per iteration two passes over half of them.
    Source: Walker and Ni 2011; m = 6, ridge 1e-4 and beta 1 as in locuslab/deq.
    """
    _check_mixing(ridge, beta)
    search = _Search("anderson", f, z0, max_iter=max_iter, tol=tol, memory=memory)
    rows = min(6 if memory is None else memory, max_iter)
    z = search.start
    values, residuals = z.new_empty(rows, z.numel()), z.new_empty(rows, z.numel())
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    for iteration in range(max_iter):
        value = search.evaluate(z)
        row, kept = iteration % rows, min(iteration + 1, rows)
        values[row], residuals[row] = value, value - z
        norms = _norm(residuals[row]), _norm(value)
        residual_norm, value_norm, *products = _to_host(*norms, _products(residuals[:kept], residuals[row]))
        if search.ends_with(z, residual_norm, value_norm):
            break
        gram[row, :kept] = gram[:kept, row] = torch.tensor(products, dtype=torch.float64)
        weights = _anderson_weights(gram[:kept, :kept], ridge).to(z)
        z = search.keep(_combination(weights, values[:kept]))
        if beta != 1.0:
            z.sub_(_combination(weights, residuals[:kept]), alpha=1.0 - beta)
        del value
    return search.result()


@torch.no_grad()
def broyden(
    f: Map, z0: Tensor, *, max_iter: int = 30, tol: float = 1e-3, memory: int | None = None
) -> tuple[Tensor, SolverTrace]:
    """Find the root of ``g(z) = f(z) - z`` by the good Broyden method with full steps.

    Starts from the Jacobian ``-I``, so the first step is a Picard step. The rank-one updates of the inverse depend on
    the steps only: ``B_{k+1} = (I + s_{k+1} s_k^T / ||s_k||^2) B_k``. So only the steps are kept, half the memory of
    the usual pairs of vectors, and the coefficients come from their inner products. When the memory is full, or the
    denominator of an update is nearly 0, the method restarts from ``-I`` at the current iterate: dropping only the
    oldest update diverged on graph blocks.

    Args:
        f: the map; deterministic during a solve.
        z0: initial state, any shape, floating; not written to.
        max_iter: maximum number of evaluations of ``f``.
        tol: relative residual ``||f(z) - z|| / ||f(z)||`` to stop at.
        memory: rank of the update, at least 1; ``None`` means ``max_iter``.
    Returns: the iterate with the lowest residual, NaN if ``f`` is not finite at ``z0``, in the shape and dtype of
        ``z0``; and the trace.
    Raises: TypeError, ValueError: see `solve`.
    Cost: ``memory`` states (N x D x max_iter numbers by default); per iteration three passes over those in use.
    Source: Kelley 1995, Iterative Methods for Linear and Nonlinear Equations, section 7.3.
    """
    search = _Search("broyden", f, z0, max_iter=max_iter, tol=tol, memory=memory)
    z = search.start
    rank = min(max_iter if memory is None else memory, max(max_iter - 1, 1))
    steps = z.new_empty(rank, z.numel())
    smallest = 8 * torch.finfo(z.dtype).eps
    kept, gram = 0, list[list[float]]()
    while True:
        value = search.evaluate(z)
        g = value - z
        scalars = [_norm(g), _norm(value)]
        if kept:
            scalars += [_products(steps[:kept], g), _products(steps[:kept], steps[kept - 1])]
        residual_norm, value_norm, *products = _to_host(*scalars)
        if search.ends_with(z, residual_norm, value_norm):
            return search.result()
        coefficients = [0.0]
        if kept:
            gram.append(products[kept:])
            coefficients = _broyden_coefficients(gram, products[:kept])
        denominator = 1.0 - coefficients[-1]
        if kept == rank or not abs(denominator) > smallest:
            kept, gram = 0, []
        elif kept > 1:
            g += _combination(torch.tensor(coefficients[:-1], dtype=g.dtype, device=g.device), steps[1:kept])
        if kept:
            g /= denominator
        steps[kept] = g
        kept += 1
        z = search.keep(g.add_(z))
        del value, g


SOLVERS = MappingProxyType({"picard": picard, "anderson": anderson, "broyden": broyden})
"""Every solver by name."""


def solve(
    f: Map,
    z0: Tensor,
    *,
    solver: str = "broyden",
    max_iter: int = 30,
    tol: float = 1e-3,
    memory: int | None = None,
) -> tuple[Tensor, SolverTrace]:
    """Find ``z`` with ``f(z) = z``, or the solver's iterate with the lowest residual.

    Args:
        f: the map; deterministic during a solve. It may return another floating dtype (autocast).
        z0: initial state, any shape, floating; not written to. Half precision is solved in float32 and rounded for
            ``f``.
        solver: a key of `SOLVERS`.
        max_iter: maximum number of evaluations of ``f``, at least 1.
        tol: relative residual ``||f(z) - z|| / ||f(z)||`` to stop at; 0 uses every iteration.
        memory: number of states kept; ``None`` takes the solver's default, whose docstring states its cost.
    Returns: the iterate with the lowest residual, NaN if ``f`` is not finite at ``z0``, in the shape and dtype of
        ``z0``; and the trace. A value that is not finite ends the solve; check ``trace.converged``.
    Raises:
        TypeError: ``z0`` is not floating.
        ValueError: an unknown solver, a setting out of its range, or a map that changes the shape.
    Cost: see the solver.
    """
    return Solver(name=solver, max_iter=max_iter, tol=tol, memory=memory)(f, z0)


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A solver with its settings, callable with a map and an initial state."""

    name: str = "broyden"
    """A key of `SOLVERS`."""
    max_iter: int = 30
    """Maximum number of evaluations of the map."""
    tol: float = 1e-3
    """Relative residual ``||f(z) - z|| / ||f(z)||`` to stop at, dimensionless."""
    memory: int | None = None
    """Number of states kept; ``None`` takes the solver's default."""
    beta: float = 1.0
    """Anderson's mixing, dimensionless, in (0, 1]; below 1 damps."""
    ridge: float = 1e-4
    """Anderson's regularisation of the weights, dimensionless, above 0."""

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise ValueError(f"solver={self.name!r} is unknown; choose one of {', '.join(SOLVERS)}")
        _check_settings(self.name, self.max_iter, self.tol, self.memory)
        _check_mixing(self.ridge, self.beta)
        if self.name != "anderson" and (self.beta, self.ridge) != (Solver.beta, Solver.ridge):
            raise ValueError(
                f"beta={self.beta} and ridge={self.ridge} are settings of anderson; leave them out for {self.name}"
            )

    def __call__(self, f: Map, z0: Tensor) -> tuple[Tensor, SolverTrace]:
        """Solve ``f(z) = z`` from ``z0``; see `solve`."""
        if self.name == "anderson":
            mixing = {"ridge": self.ridge, "beta": self.beta}
            return anderson(f, z0, max_iter=self.max_iter, tol=self.tol, memory=self.memory, **mixing)
        return SOLVERS[self.name](f, z0, max_iter=self.max_iter, tol=self.tol, memory=self.memory)


class _Search:
    """The progress of one solve: evaluates the map on flat states and keeps the residuals and the best iterate."""

    def __init__(self, solver: str, f: Map, z0: Tensor, *, max_iter: int, tol: float, memory: int | None) -> None:
        _check_settings(solver, max_iter, tol, memory)
        if not z0.is_floating_point():
            raise TypeError(f"z0 must be a floating tensor, got {z0.dtype}; convert it with .float()")
        self._solver, self._f, self._max_iter, self._tol = solver, f, max_iter, tol
        self._shape, self._dtype = z0.shape, z0.dtype
        # Half precision has too few digits for the differences that every solver takes.
        self._work = torch.promote_types(z0.dtype, torch.float32)
        self.start = z0.detach().to(self._work, copy=True).reshape(-1)
        self._best, self._best_at = self.start, 0
        self._kept, self._heap = (self.start, torch.empty_like(self.start)), HeapLevel(self.start)
        self._residuals: list[float] = []

    def evaluate(self, z: Tensor) -> Tensor:
        """Return ``f(z)`` as a flat tensor in the working precision."""
        value = self._f(z.view(self._shape).to(self._dtype))
        if value.shape != self._shape:
            raise ValueError(
                f"a fixed point needs f(z) in the shape of z: got {list(value.shape)} for {list(self._shape)}; "
                "give the block as many output as input channels"
            )
        return value.detach().reshape(-1).to(self._work)

    def keep(self, z: Tensor) -> Tensor:
        """Copy the next iterate to the one of the solve's two buffers that does not hold the best; return the buffer.

        So nothing that an evaluation allocates outlives it, and the next one finds the heap as this one did. An iterate
        in memory of its own would lie among temporaries, whose places the next ones could not take.
        """
        self._heap.check()
        first, second = self._kept
        return (second if self._best is first else first).copy_(z)

    def ends_with(self, z: Tensor, residual_norm: float, value_norm: float) -> bool:
        """Record the residual of ``z``; return whether the solve is finished."""
        residual = _relative(residual_norm, value_norm)
        self._residuals.append(residual)
        if residual < self._residuals[self._best_at]:
            self._best, self._best_at = z, len(self._residuals) - 1
        return residual <= self._tol or math.isnan(residual) or len(self._residuals) == self._max_iter

    def result(self) -> tuple[Tensor, SolverTrace]:
        """Return the best iterate and the trace; NaN if the map is not finite at the start, as without a solver."""
        if math.isnan(self._residuals[0]):
            self._best = self.start.fill_(math.nan)
        trace = SolverTrace(solver=self._solver, tol=self._tol, residuals=tuple(self._residuals), best=self._best_at)
        # A copy: a view returned by an autograd.Function could not be changed in place.
        return self._best.view(self._shape).to(self._dtype, copy=True), trace


def _check_settings(solver: str, max_iter: int, tol: float, memory: int | None) -> None:
    if max_iter < 1:
        raise ValueError(f"max_iter={max_iter} must be at least 1; 30 is usual")
    if not tol >= 0:
        raise ValueError(f"tol={tol} must be at least 0; 1e-3 is usual, 0 uses every iteration")
    if memory is not None and memory < 1:
        raise ValueError(f"memory={memory} must be at least 1; None takes the solver's default")
    if memory is not None and solver == "picard":
        raise ValueError(f"memory={memory} has no meaning for picard, which keeps no iterates; leave it None")


def _check_mixing(ridge: float, beta: float) -> None:
    if not ridge > 0:
        raise ValueError(f"ridge={ridge} must be above 0; the default 1e-4 suits most maps")
    if not 0.0 < beta <= 1.0:
        raise ValueError(f"beta={beta} must lie in (0, 1]; 1 mixes the values of the map, below 1 damps")


def _relative(residual_norm: float, value_norm: float) -> float:
    if not (math.isfinite(residual_norm) and math.isfinite(value_norm)):
        return math.nan
    if residual_norm == 0.0:
        return 0.0
    return residual_norm / value_norm if value_norm else math.inf


def _anderson_weights(gram: Tensor, ridge: float) -> Tensor:
    """Return the weights of sum 1 that minimise the regularised residual. [m, m] float64 on the host -> [m]."""
    scaled = gram / gram.diagonal().mean() + ridge * torch.eye(len(gram), dtype=gram.dtype)
    weights: Tensor = torch.linalg.solve(scaled, torch.ones(len(gram), dtype=gram.dtype))
    return weights / weights.sum()


def _broyden_coefficients(gram: Sequence[Sequence[float]], products: Sequence[float]) -> list[float]:
    """Return ``c_j = s_j^T w_j / ||s_j||^2`` where ``w_0 = g`` and ``w_{j+1} = w_j + c_j s_{j+1}``.

    The steps enter by their inner products alone: ``gram[j][i] = s_j^T s_i`` for i <= j and ``products[j] = s_j^T g``.
    """
    coefficients: list[float] = []
    for row, product in zip(gram, products, strict=True):
        if row[-1] == 0.0:
            return [1.0]
        product += sum(weight * inner for weight, inner in zip(coefficients, row[1:], strict=True))
        coefficients.append(product / row[-1])
    return coefficients


def _norm(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector)
    return norm


def _products(rows: Tensor, vector: Tensor) -> Tensor:
    """Return the inner product of each row with the vector; autocast would take it in half precision."""
    with torch.autocast(vector.device.type, enabled=False):
        return torch.mv(rows, vector)


def _combination(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the weighted sum of the rows; autocast would take it in half precision."""
    with torch.autocast(rows.device.type, enabled=False):
        return torch.mv(rows.T, weights)


def _to_host(*scalars: Tensor) -> list[float]:
    """Copy all scalars of an iteration to the host in one transfer, the only one that waits for the device."""
    return torch.cat([scalar.reshape(-1) for scalar in scalars]).tolist()
