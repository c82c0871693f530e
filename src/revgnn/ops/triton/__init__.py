"""The ops' kernels for CUDA, written in Triton: the same functions on tensors as `native`, argument by argument.

Importing this package imports no Triton: a function is looked up when it is first asked for. One program owns a row of
the result (forward: a destination, backward: a source) and a block of its columns, and gathers its neighbours several
at a time; nothing is added atomically, and what is summed over all rows (gradients of weights, of t, of an affine) goes
through partial sums of fixed ranges of rows, so that the same call gives the same bits. A program is a warp that walks
8 to 32 neighbours a step; rows of more than 512 get programs of sixteen warps, which walk sixteen times as many.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_PLACE = {
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
"""Function -> module, of another name, which importing it would put in the function's place."""

AVAILABLE = find_spec("triton") is not None
STATE = "Triton" if AVAILABLE else "triton is not installed (pip install triton, on Linux)"

NODE_SCRATCH = False
"""Whether `gen_aggr` and `gen_aggr_backward` have a use for their ``scratch``."""


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors; decided before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(import_module(f"{__name__}.{_PLACE[name]}"), name)
    globals()[name] = function
    return function
