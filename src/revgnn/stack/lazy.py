"""Give lazy modules their shapes: before that they cannot be differentiated, nor evaluated again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def initialise_lazy(module: nn.Module, evaluate: Callable[[], object]) -> bool:
    """Evaluate a module once if it has lazy parameters or buffers.

    Args:
        module: evaluated in evaluation mode, in which dropout draws nothing and statistics stay.
        evaluate: evaluates it.
    Returns: whether anything was lazy.
    """
    if not any(is_lazy(tensor) for tensor in chain(module.parameters(), module.buffers())):
        return False
    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            evaluate()
    finally:
        for part, flag in flags:
            part.training = flag
    return True
