"""Equilibria: solvers of fixed points, their gradient by the implicit function theorem, and the module around both."""
