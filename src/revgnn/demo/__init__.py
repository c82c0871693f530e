"""The demo: a network at three depths, with stored or recomputed activations, on a Minesweeper field."""

from __future__ import annotations

from .run import run_demo

__all__ = ["run_demo"]
