"""Walk a stack layer by layer: forward, to look at its states; and back again, to see where one is not rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .drift import DRIFT_LIMIT, InverseCheck, relative_error
from .layer_run import LayerRun
from .recomputing import snapshot
from .reversible import Advance, advance_float
from .stack import Stack
from .state import ReversibleState, StoredState


def check_inverse(
    stack: Stack, x: Tensor, *context: Any, seed: int | None = None, limit: float | None = None
) -> InverseCheck:
    """Find the first layer, walking back from the last, whose input is not rebuilt.

    Every layer is undone with the very evaluation that the backward makes. A block that cannot be repeated (random
    numbers of Python, a counter, a kernel that sums in changing order) shows at its own layer with a large error;
    rounding shows as an error that grows on the way back.

    Args:
        stack: with a reversible backward; its buffers are left as they were.
        x, context, seed: as `Stack.forward` takes them; call it under the autocast that training uses.
        limit: relative error that is allowed; ``None``: nothing where the state is exact, else `DRIFT_LIMIT`.
    Returns: the error of every layer, and the layer in question.
    Raises: ValueError: if the stack is not reversible.
    Cost: two evaluations of every block; keeps the states of all layers, L N D.
    """
    if stack.backprop != "reversible":
        raise ValueError(f"check_inverse needs backprop='reversible', got {stack.backprop!r}, which rebuilds no state")
    if limit is None:
        limit = DRIFT_LIMIT if stack.state == "float" else 0.0
    advance: Advance = advance_float if stack.exact is None else stack.exact.fresh().advance
    errors: list[float] = []
    restore = snapshot(stack.buffers())
    with torch.no_grad():
        x, tensors, whole = stack.take_apart(x, context, seed)
        for run in stack.runs(replace(whole, checked=None)):
            form, after = advance(run, x, tensors)
            restore()
            errors += _errors(run, form.open(x), tensors)
            restore()
            x = after.join()
    # NaN is no smaller than anything.
    layers = (k for k in reversed(range(stack.num_layers)) if not errors[k] <= limit)
    return InverseCheck(tuple(errors), limit, next(layers, None))


def layer_states(stack: Stack, x: Tensor, *context: Any, seed: int | None = None) -> list[Tensor]:
    """Evaluate a stack layer by layer, every activation stored, for whoever looks at what happens inside.

    Args:
        stack: however it is differentiated; autograd follows the states.
        x, context, seed: as `Stack.forward` takes them.
    Returns: L + 1 tensors [N, D]: the stream before the first layer and after each.
    Cost: the blocks forward once; L N D, and what autograd keeps where gradients are on.
    """
    x, tensors, whole = stack.take_apart(x, context, seed)
    states = [x]
    for depth, layer in enumerate(whole.layers):
        state = StoredState(states[-1], stack.coupling.num_groups)
        replace(whole, layers=[layer], first=depth).advance(state, tensors)
        states.append(state.join())
    return states


def _errors(run: LayerRun, state: ReversibleState, tensors: Sequence[Tensor]) -> list[float]:
    """Relative error of the rebuilt input of every layer of a run."""
    true = [_copy(state)]
    run.advance(state, tensors, lambda _: true.append(_copy(state)), keep=True)
    errors = []
    for layer in reversed(range(len(run.layers))):
        run.step_back(state, tensors, layer)
        errors.append(relative_error(state.parts, true[layer]))
    return errors[::-1]


def _copy(state: ReversibleState) -> list[Tensor]:
    return [part.clone() for part in state.parts]
