"""Checks the operands of every kernel: dtype, device, shape and stride, the same for all implementations.

One function per kernel, which its wrappers in `cpu` and `triton` call with their arguments. N rows, E edges, D
channels, H heads of F channels, K edge features; "sum" is the type that sums over the elements are kept in.
Returns, all of them: the fields of the kernel's C struct up to its last operand: sizes, addresses and row strides.
Raises, all of them: ValueError, TypeError, RuntimeError: naming the operand, what the kernel needs, and what it got.
"""

from .attention import attention, attention_backward, attention_scores, attention_scores_backward
from .csr import DTYPES, Csr
from .linear import linear, linear_backward
from .messages import edge_max, edge_max_backward, gen_aggr, gen_aggr_backward
from .norm import batch_stats, bits, norm_act_drop, norm_act_drop_backward, running_stats
from .sums import edge_dot, neighbour_max, neighbour_max_backward, spmm

__all__ = [
    "DTYPES",
    "Csr",
    "attention",
    "attention_backward",
    "attention_scores",
    "attention_scores_backward",
    "batch_stats",
    "bits",
    "edge_dot",
    "edge_max",
    "edge_max_backward",
    "gen_aggr",
    "gen_aggr_backward",
    "linear",
    "linear_backward",
    "neighbour_max",
    "neighbour_max_backward",
    "norm_act_drop",
    "norm_act_drop_backward",
    "running_stats",
    "spmm",
]
