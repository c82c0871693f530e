"""The demonstration: the same network at three depths, stored and reversible, on a field of Minesweeper."""

from __future__ import annotations

from .run import run_demo

__all__ = ["run_demo"]
