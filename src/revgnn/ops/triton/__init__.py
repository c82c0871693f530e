"""The ops' CUDA kernels, written in Triton, with the same names and arguments as those of `revgnn.ops.cpu`.

Importing this package does not import Triton: a kernel's module is imported when the kernel is first called. One
program computes a row of the result (forward: a destination, backward: a source) and a block of its columns, and
gathers several neighbours at a time. There are no atomic additions: sums over all rows (gradients of weights, of t, of
an affine) use partial sums of fixed ranges of rows, so the same call gives the same bits. A program is one warp that
processes 8 to 32 neighbours per iteration; rows of more than 512 neighbours get programs of sixteen warps, which
process sixteen times as many.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

from ..backend import Backend, Kernel

_MODULES = {
    "attention": "attend",
    "attention_backward": "attend_backward",
    "attention_scores": "dense",
    "attention_scores_backward": "dense",
    "batch_stats": "stats",
    "edge_dot": "sums",
    "edge_max": "edge_maxima",
    "edge_max_backward": "edge_maxima",
    "gen_aggr": "aggregate",
    "gen_aggr_backward": "aggregate_backward",
    "keep_mask": "dropout",
    "linear": "dense",
    "linear_backward": "dense",
    "neighbour_max": "maxima",
    "neighbour_max_backward": "maxima",
    "norm_act_drop": "norm",
    "norm_act_drop_backward": "norm_backward",
    "spmm": "sums",
}
"""Kernel -> module."""

AVAILABLE = find_spec("triton") is not None
STATE = "Triton" if AVAILABLE else "triton is not installed (pip install triton, on Linux)"


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors; decided before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _imported(name: str) -> Kernel:
    """Return a function that imports the kernel on its first call and replaces itself by the kernel."""

    def kernel(*arguments: object, **more: object) -> None:
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        BACKEND.register(name, found)
        found(*arguments, **more)

    return kernel


BACKEND = Backend("triton", {name: _imported(name) for name in _MODULES})
"""The kernels for CUDA."""
