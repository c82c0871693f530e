"""Equilibrium models: fixed-point solvers, implicit differentiation, and the `Equilibrium` module"""
