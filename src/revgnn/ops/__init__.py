"""Differentiable tensor functions (ops): message passing, and norm, ReLU and dropout; without modules.

`api` has the functions and their contracts; use `KernelOp` and `Backend` to define your own ops.
"""

from .api import (
    attention,
    attention_scores,
    draw_mask,
    gen_aggr,
    keep_mask,
    linear,
    norm_act_drop,
    pool,
    spmm,
)
from .backend import Backend
from .checks import fits
from .choice import implementation, kernels, using
from .in_place import row_dtype, runs_in_place
from .kernel_op import KernelOp
from .recording import Recording
from .reference import Aggr, Norm, Reduce

__all__ = [
    "Aggr",
    "Backend",
    "KernelOp",
    "Norm",
    "Recording",
    "Reduce",
    "attention",
    "attention_scores",
    "draw_mask",
    "fits",
    "gen_aggr",
    "implementation",
    "keep_mask",
    "kernels",
    "linear",
    "norm_act_drop",
    "pool",
    "row_dtype",
    "runs_in_place",
    "spmm",
    "using",
]
