"""A stack of L layers and its backpropagation: store, checkpoint or reverse. Knows no graphs, imports no other room.

Four independent choices: how a branch is added to the stream (`coupling`), how the stack is differentiated
(`backprop`), the number format of a reversible stack's state (`state`), and whether layers share weights
(`weight_tied`).
"""

from __future__ import annotations

from . import uncompiled
from .budget import parse_bytes
from .check import check_inverse, layer_states
from .choices import BACKPROPS, COUPLINGS, STATES
from .conditions import parts_of
from .context import split
from .drift import DRIFT_LIMIT, DriftWarning, InverseCheck
from .fused import FusedBlock, WorkSpace, has_hooks
from .fused_head import FusedHead
from .recomputing import is_recomputing, recomputing
from .seeds import draw_seed, fold_seed
from .stack import Stack
from .surface import is_watched, keep_forwards

__all__ = [
    "BACKPROPS",
    "COUPLINGS",
    "DRIFT_LIMIT",
    "STATES",
    "DriftWarning",
    "FusedBlock",
    "FusedHead",
    "InverseCheck",
    "Stack",
    "WorkSpace",
    "check_inverse",
    "draw_seed",
    "fold_seed",
    "has_hooks",
    "is_recomputing",
    "is_watched",
    "keep_forwards",
    "layer_states",
    "parse_bytes",
    "parts_of",
    "recomputing",
    "split",
    "uncompiled",
]
