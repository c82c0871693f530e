"""Statistics of the solves of an epoch: how many, how many reached their tolerance, residuals and iterations."""

from __future__ import annotations

import math
import statistics

from .solvers import SolverTrace


class SolveStatistics:
    """Adds up the traces of one direction's solves."""

    def __init__(self) -> None:
        self.failures = 0
        """Solves that missed their tolerance."""
        self._residuals: list[float] = []
        self._iterations: list[int] = []

    def add(self, trace: SolverTrace) -> None:
        """Count a solve."""
        self._residuals.append(trace.residual)
        self._iterations.append(trace.iterations)
        self.failures += not trace.converged

    def summary(self) -> dict[str, float]:
        """Return numbers of solves and failures, median and largest residual, mean iterations; empty without a solve.

        Residuals that are not finite count as failures alone; without a finite one there are no residuals.
        """
        if not self._iterations:
            return {}
        finite = [residual for residual in self._residuals if math.isfinite(residual)]
        residuals = {"residual": statistics.median(finite), "residual max": max(finite)} if finite else {}
        return {
            **residuals,
            "iterations": statistics.fmean(self._iterations),
            "solves": len(self._iterations),
            "failures": self.failures,
        }
