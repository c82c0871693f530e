"""Check a reversible stack's inverse: compare reconstructed layer inputs with the true ones, layer by layer"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .drift import DRIFT_LIMIT, InverseCheck, relative_error
from .layer_run import LayerRun
from .recomputing import snapshot
from .reversible import Advance, advance_float
from .stack import Stack
from .state import State, StoredState


def check_inverse(
    stack: Stack, x: Tensor, *context: object, seed: int | None = None, limit: float | None = None
) -> InverseCheck:
    """Find the first layer, in backward order, whose input is not reconstructed.

    Each layer is inverted by the same evaluation that the backward makes. A block that does not repeat its value
    (Python's random numbers, a counter, a kernel that sums in varying order) shows a large error at its own layer;
    rounding shows an error that grows toward the first layer.

    Args:
        stack: a stack with ``backprop="reversible"``; its buffers keep their values.
        x, context, seed: as `Stack.forward` takes them; call it under the autocast that training uses.
        limit: allowed relative error; ``None``: 0 for an exact state, else `DRIFT_LIMIT`.
    Returns: the error of every layer, and the first layer above the limit.
    Raises: ValueError: if the stack is not reversible.
    Cost: two evaluations of every block; keeps the states of all layers, L N D.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.stack import check_inverse
        >>> config = revgnn.ModelConfig(num_layers=20, hidden_channels=8, state="exact")
        >>> model = revgnn.build_model(config, in_channels=8, out_channels=2)
        >>> graph = revgnn.Graph.from_edge_index(torch.randint(30, (2, 90)), 30)
        >>> check_inverse(model.stack, torch.randn(30, 8), graph).error
        0.0
    """
    if stack.backprop != "reversible":
        raise ValueError(
            f"check_inverse needs backprop='reversible', got {stack.backprop!r}, which reconstructs no state"
        )
    if limit is None:
        limit = DRIFT_LIMIT if stack.state == "float" else 0.0
    advance: Advance = advance_float if stack.exact is None else stack.exact.fresh().advance
    errors: list[float] = []
    restore = snapshot(stack.buffers())
    with torch.no_grad():
        x, tensors, full_run = stack.prepare(x, context, seed)
        for run in stack.runs(replace(full_run, checked=None)):
            form, after = advance(run, x, tensors)
            restore()
            errors += _errors(run, form.open(x), tensors)
            restore()
            x = after.join()
    # Written with `not <=`, so that a NaN counts as a deviation.
    layers = (k for k in reversed(range(stack.num_layers)) if not errors[k] <= limit)
    return InverseCheck(tuple(errors), limit, next(layers, None))


def layer_states(stack: Stack, x: Tensor, *context: object, seed: int | None = None) -> list[Tensor]:
    """Evaluate a stack layer by layer, every activation stored, for whoever looks at what happens inside.

    Args:
        stack: however it is differentiated; autograd follows the states.
        x, context, seed: as `Stack.forward` takes them.
    Returns: L + 1 tensors [N, D]: the stream before the first layer and after each.
    Cost: the blocks forward once; L N D, and what autograd keeps where gradients are on.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.stack import layer_states
        >>> config = revgnn.ModelConfig(num_layers=6, hidden_channels=8)
        >>> model = revgnn.build_model(config, in_channels=8, out_channels=2)
        >>> graph = revgnn.Graph.from_edge_index(torch.randint(30, (2, 90)), 30)
        >>> len(layer_states(model.stack, torch.randn(30, 8), graph))
        7
    """
    x, tensors, whole = stack.prepare(x, context, seed)
    states = [x]
    for depth, layer in enumerate(whole.layers):
        state = StoredState(states[-1], stack.coupling.num_groups)
        replace(whole, layers=[layer], first=depth).advance(state, tensors)
        states.append(state.join())
    return states


def _errors(run: LayerRun, state: State, tensors: Sequence[Tensor]) -> list[float]:
    """Return the relative error of the reconstructed input of every layer of a run."""
    true = [_copy(state)]
    run.advance(state, tensors, lambda _: true.append(_copy(state)), keep=True)
    errors = []
    for layer in reversed(range(len(run.layers))):
        run.step_back(state, tensors, layer)
        errors.append(relative_error(state.parts, true[layer]))
    return errors[::-1]


def _copy(state: State) -> list[Tensor]:
    return [part.clone() for part in state.parts]
