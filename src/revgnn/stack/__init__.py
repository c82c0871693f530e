"""Depth itself: run L layers and differentiate them. Knows nothing about graphs and imports nothing of the package.

Three choices, independent of each other: how a branch joins the stream (`coupling`), how the stack is differentiated
(`backprop`), and whether layers share their weights (`weight_tied`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .choices import BACKPROPS, COUPLINGS, BackpropName, CouplingName, ScheduleName, check_choices
from .purity import is_rebuilding, rebuilding
from .reversible import reversible
from .run import Autocast, Run, Split, split
from .seeds import draw_seed, fold_seed
from .state import FloatState, StoredState

__all__ = ["BACKPROPS", "COUPLINGS", "Stack", "draw_seed", "fold_seed", "is_rebuilding", "rebuilding", "split"]


class Stack(nn.Module):
    """Run a block L deep.

    ``x <- x + f(x)`` per layer (residual), or the grouped reversible layer ``x_i <- x_i + f_i(x_{i-1}')`` (grouped). A
    block is a pure function ``f(x, seed, *context)`` that keeps the shape of ``x``: the same call gives the same
    bits, and it changes no buffer while `is_rebuilding()`.

    Args:
        block: makes one block of a given width; called once per distinct layer and group.
        channels: D, the width of the stream.
        num_layers: L, how often a layer is applied.
        coupling: ``residual`` or ``grouped``.
        num_groups: C >= 2, dividing D; only with ``grouped``.
        backprop: ``store`` keeps every activation (L N D); ``checkpoint`` keeps one N x D per segment and evaluates
        again;
            ``reversible`` keeps one N x D per segment and rebuilds the rest from it; only with ``grouped``.
        segments: how many runs the layers are cut into; ``None``: 1 for reversible, L for checkpoint. More segments
        of a
            reversible stack bound rounding drift and let the all-reduce of gradients overlap the backward.
        weight_tied: whether layers share weights.
        num_distinct: how many different layers a tied stack has.
        schedule: order of tied layers: ``cycle`` (0 1 0 1 ...) or ``head_repeat`` (0 1 1 1 ...).
    Raises: ValueError: for a combination that cannot work, naming the argument to change.
    Cost: the blocks forward once; ``reversible`` and ``checkpoint`` evaluate them once more in the backward.
    Source: the paper, sections 3.2 to 3.4.
    """

    def __init__(
        self,
        block: Callable[[int], nn.Module],
        *,
        channels: int,
        num_layers: int,
        coupling: CouplingName = "residual",
        num_groups: int = 2,
        backprop: BackpropName = "store",
        segments: int | None = None,
        weight_tied: bool = False,
        num_distinct: int = 1,
        schedule: ScheduleName = "cycle",
    ) -> None:
        super().__init__()
        check_choices(
            channels=channels,
            num_layers=num_layers,
            coupling=coupling,
            num_groups=num_groups,
            backprop=backprop,
            segments=segments,
            weight_tied=weight_tied,
            num_distinct=num_distinct,
            schedule=schedule,
        )
        self.channels = channels
        self.num_layers = num_layers
        self.coupling = COUPLINGS[coupling](num_groups)
        self.backprop = backprop
        self.segments = segments if segments is not None else (num_layers if backprop == "checkpoint" else 1)
        self.schedule = schedule
        distinct = min(num_distinct, num_layers) if weight_tied else num_layers
        groups = self.coupling.num_groups
        self.layers = nn.ModuleList(
            nn.ModuleList(block(channels // groups) for _ in range(groups)) for _ in range(distinct)
        )

    def forward(self, x: Tensor, *context: Any, seed: int | None = None) -> Tensor:
        """Run the layers.

        Args:
            x: [N, D] stream; held in its own dtype, with branches under autocast where that is on.
            context: passed to every block; tensors among them may need gradients, and those in `split` are cut by
            groups. seed: of this step; ``None`` draws one from torch's generator in training.
        Returns: [N, D].
        Raises: ValueError: if a width does not fit.
        """
        if x.size(-1) != self.channels:
            raise ValueError(
                f"the stack is {self.channels} channels wide, got x with {x.size(-1)}; project x before it"
            )
        if seed is None:
            seed = draw_seed() if self.training else 0
        template, places, tensors = self._take_apart(context)
        autocast = Autocast.current(x.device.type)
        plain = not torch.is_grad_enabled() or not (
            x.requires_grad or any(t.requires_grad for t in (*tensors, *self.parameters()))
        )
        for first, layers in self._runs():
            run = Run(self.coupling, layers, first, seed, template, places, autocast)
            if plain:
                x = _advance_in_place(run, x, tensors)
            elif self.backprop == "store":
                x = _advance_stored(run, x, *tensors)
            elif self.backprop == "checkpoint":
                x = checkpoint(
                    _advance_stored,
                    run,
                    x,
                    *tensors,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=_checkpoint_contexts,
                )
            else:
                x = reversible(run, x, tensors)
        return x

    def layer_at(self, depth: int) -> Sequence[nn.Module]:
        """The blocks (one per group) that run at a depth, counted from 0."""
        distinct = len(self.layers)
        if self.schedule == "cycle":
            return self.layers[depth % distinct]  # type: ignore[return-value]
        return self.layers[min(depth, distinct - 1)]  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """Show what the modules below do not."""
        coupling = type(self.coupling).__name__
        return (
            f"channels={self.channels}, num_layers={self.num_layers}, coupling={coupling}, "
            f"num_groups={self.coupling.num_groups}, backprop={self.backprop}, segments={self.segments}"
        )

    def _runs(self) -> list[tuple[int, list[Sequence[nn.Module]]]]:
        """The layers in ``segments`` runs of nearly equal length, each with the depth of its first layer."""
        bounds = [self.num_layers * k // self.segments for k in range(self.segments + 1)] if self.num_layers else []
        return [(a, [self.layer_at(depth) for depth in range(a, b)]) for a, b in pairwise(bounds)]

    def _take_apart(
        self, context: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[tuple[int, bool], ...], list[Tensor]]:
        """Context arguments as (template without tensors, places of the tensors, the tensors)."""
        template: list[Any] = []
        places, tensors = [], []
        for position, value in enumerate(context):
            tensor = value.value if isinstance(value, Split) else value
            if isinstance(tensor, Tensor):
                is_split = isinstance(value, Split)
                if is_split and tensor.size(-1) % self.coupling.num_groups:
                    raise ValueError(
                        f"a split context argument of {tensor.size(-1)} channels does not divide into "
                        f"{self.coupling.num_groups} groups"
                    )
                places.append((position, is_split))
                tensors.append(tensor)
            template.append(None if isinstance(tensor, Tensor) else tensor)
        return tuple(template), tuple(places), tensors


def _advance_stored(run: Run, x: Tensor, *tensors: Tensor) -> Tensor:
    state = StoredState(x, run.coupling.num_groups)
    run.advance(state, tensors)
    return state.join()


def _advance_in_place(run: Run, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    state = FloatState(x, run.coupling.num_groups)
    run.advance(state, tensors)
    return state.join()


def _checkpoint_contexts() -> tuple[Any, Any]:
    return nullcontext(), rebuilding()
