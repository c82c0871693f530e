"""Runs layers on fewer and fewer rows: before each run, the rows that no later layer needs are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from .context import split_context
from .layer_run import LayerRun
from .state import StoredState

TRIMMABLE = ("store", "checkpoint")
"""Kinds of backpropagation under which layers may have different numbers of rows."""

Trim = Callable[[int], tuple[int, tuple[object, ...]]]
"""``layer -> (rows, context)``: how many leading rows of the stream this layer and the later ones need, and the context
arguments for so many rows."""


def check_trimmable(backprop: str) -> None:
    """Raise ValueError for layers that need all rows again."""
    if backprop not in TRIMMABLE:
        raise ValueError(
            f"rows can be left out between layers that are stored or checkpointed, got backprop={backprop!r}, which "
            "evaluates every layer again on the rows that it had; choose backprop='store' or 'checkpoint', or run all "
            "layers on all rows (loader.layer_wise=false)"
        )


def advance_trimmed(
    runs: Sequence[LayerRun],
    x: Tensor,
    trim: Trim,
    apply: Callable[[LayerRun, Tensor, list[Tensor]], Tensor] | None = None,
) -> Tensor:
    """Run layers, each on the leading rows that `trim` gives for the first layer of its run.

    Args:
        runs: the layers in order.
        x: [N, D] stream.
        trim: the rows never become more; it is also asked for the number of layers: what follows them.
        apply: ``(run, x, tensors) -> x`` advances a run; ``None``: autograd stores its activations.
    Returns: [n, D], the rows that `trim` gives for what follows.
    Cost: a copy of the rows that remain.
    """
    if not runs:
        return x[: trim(0)[0]]
    num_groups = runs[0].coupling.num_groups
    state = StoredState(x, num_groups)
    for run in runs:
        rows, context = trim(run.first)
        _keep(rows, state)
        template, places, tensors = split_context(context, num_groups)
        run = replace(run, context=template, places=places)
        if apply is None:
            run.advance(state, tensors)
        else:
            state = StoredState(apply(run, state.join(), tensors), num_groups)
    _keep(trim(run.first + len(run.layers))[0], state)
    return state.join()


def _keep(rows: int, state: StoredState) -> None:
    """Leave out all but the leading rows; the others' memory is freed."""
    if rows < state.parts[0].size(0):
        state.parts = [part[:rows].clone() for part in state.parts]
