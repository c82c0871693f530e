"""The stack of layers as a module: three choices, independent of each other, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import uncompiled
from .budget import LayerCost, MemoryBudget, layer_cost, parse_bytes, weakly
from .checkpointed import checkpointed
from .choices import COUPLINGS, BackpropName, CouplingName, ScheduleName, StateName, check_choices, num_segments
from .drift import DriftMonitor
from .exact import ExactState
from .fused_head import FusedHead
from .integer_state import WORDS
from .layer_run import Autocast, ChannelSplit, LayerRun
from .recompute import View, check_recorders, is_transformed
from .repeatable import Checked
from .reversible import Advance, advance_float, reversible
from .seeds import draw_seed
from .segment import Segment
from .state import StoredState


class Stack(nn.Module):
    """Run a block L deep.

    ``x <- x + f(x)`` per layer (residual), or the grouped reversible layer ``x_i <- x_i + f_i(x_{i-1}')`` (grouped). A
    block is a pure function ``f(x, seed, *context)`` that keeps the shape of ``x``: the same call gives the same
    bits, and it changes no buffer while `is_recomputing()`.

    Args:
        block: makes one block of a given width; called once per distinct layer and group.
        channels: D, the width of the stream.
        num_layers: L, how often a layer is applied.
        coupling: ``residual`` or ``grouped``.
        num_groups: C >= 2, dividing D; only with ``grouped``.
        backprop: ``store`` keeps every activation (L N D); ``checkpoint`` keeps one N x D per segment and evaluates
            again; ``reversible`` keeps one N x D per segment and rebuilds the rest from it; only with ``grouped``.
        segments: how many runs the layers are cut into; ``None``: 1 for reversible, L for checkpoint; ``auto``: one
            per 32 layers for reversible, the square root of L for checkpoint. More segments of a reversible stack
            bound rounding drift and let the all-reduce of gradients overlap the backward.
        state: what a reversible run holds its stream in: ``float`` is the stream's own dtype, fastest, and drifts;
            ``exact`` is int32 fixed point, rebuilt bit for bit; ``exact64`` the same in int64, for streams whose
            range is too wide for 32 bits (docs/drift.md).
        memory_budget: bytes, or text like ``2GB``, that a step over the stack may take; as many of the last layers as
            fit are stored and the others rebuilt. Only with ``reversible``; ``None`` rebuilds all.
        drift_every: steps between two comparisons of what was rebuilt with a copy; 0 makes none.
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
        segments: int | Literal["auto"] | None = None,
        state: StateName = "float",
        memory_budget: int | str | None = None,
        drift_every: int = 0,
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
            state=state,
            memory_budget=memory_budget,
            drift_every=drift_every,
            weight_tied=weight_tied,
            num_distinct=num_distinct,
            schedule=schedule,
        )
        self.channels = channels
        self._depth, self._choice_of_segments = num_layers, segments
        self.coupling = COUPLINGS[coupling](num_groups)
        self.backprop = backprop
        self.state = state
        self.weight_tied = weight_tied
        self.schedule = schedule
        self.monitor = DriftMonitor(drift_every)
        self.exact = ExactState(num_layers, num_groups, WORDS[state]) if state != "float" else None
        self.budget = None if memory_budget is None else MemoryBudget(parse_bytes(memory_budget))
        self.num_stored = num_layers if backprop == "store" else 0
        self.checked = Checked()
        # Not in a ModuleList, so that they are no children: weights keep their names.
        self._segments: dict[int, Segment] = {}
        distinct = min(num_distinct, num_layers) if weight_tied else num_layers
        groups = self.coupling.num_groups
        self.layers = nn.ModuleList(
            nn.ModuleList(block(channels // groups) for _ in range(groups)) for _ in range(distinct)
        )

    @property
    def num_layers(self) -> int:
        """L: as many as there are modules, unless they are shared."""
        return self._depth if self.weight_tied else len(self.layers)

    @property
    def segments(self) -> int:
        """Runs that the layers are cut into, no more than there are layers."""
        return min(num_segments(self._choice_of_segments, self.num_layers, self.backprop), max(self.num_layers, 1))

    @property
    def drift(self) -> float | None:
        """Relative error of the rebuilt states at the last comparison; None before the first (see ``drift_every``)."""
        return self.monitor.error

    @property
    def drift_every(self) -> int:
        """Steps between two comparisons; may be set at any time."""
        return self.monitor.every

    @drift_every.setter
    def drift_every(self, every: int) -> None:
        self.monitor.every = every

    def forward(self, x: Tensor, *context: Any, seed: int | None = None, head: FusedHead | None = None) -> Tensor:
        """Run the layers.

        Args:
            x: [N, D] stream; held in its own dtype, with branches under autocast where that is on (a half-precision
                stream is then held in float32).
            context: passed to every block; tensors among them may need gradients, and those in `split` are cut by
                groups.
            seed: of this step; ``None`` draws one from torch's generator in training.
            head: what follows the stack, if it goes row by row: the same as evaluating it on the result, in less
                memory, since a reversible stack's last state then need not leave it.
        Returns: [N, D], or what the head makes of it. Under the transforms of ``torch.func`` and in forward-mode
            differentiation every activation is stored, whatever ``backprop`` says.
        Raises: ValueError: if a width does not fit, or nothing fits the memory budget. RuntimeError: under
            ``torch.jit.trace`` and ``torch.fx``; for a block that does not give the same value again, or that uses a
            tensor which would get no gradient; in the backward, where it was asked to be differentiable.
        """
        if uncompiled.is_compiled():
            out: Tensor = uncompiled.call(Stack.forward, self, x, *context, seed=seed, head=head)
            return out
        x, tensors, whole = self.take_apart(x, context, seed)
        if torch.compiler.is_exporting() or is_transformed():
            # A program has no memory to save, and transforms take no autograd Function.
            x = _advance_stored(whole, x, tensors)
            return x if head is None else head(x)
        if not (torch.is_grad_enabled() and self._needs_gradients(x, tensors, head)):
            for run in self.runs(whole) if self._segments else [whole]:
                x = self._through(run, _advance_plainly, x, tensors)
            return x if head is None else head(x)
        if self.budget is not None:
            self.num_stored = self._fit(self.budget, whole, x, tensors, head)
        monitor = self.monitor.step()
        for run in self.runs(whole, self.num_stored):
            is_last = run.first + len(run.layers) == self.num_layers
            if run.first >= self.num_layers - self.num_stored:
                x = _advance_stored(run, x, tensors)
            elif self.backprop == "reversible":
                ends = partial(reversible, advance=self.advance, monitor=monitor, head=head if is_last else None)
                x = self._through(run, ends, x, tensors)
                if is_last:
                    return x
            else:
                x = self._through(run, checkpointed, x, tensors)
        return x if head is None else head(x)

    def cut(self) -> tuple[Segment, ...]:
        """Evaluate each segment by a call of a module from now on, so that its weights need to be there only then.

        Returns: the modules, which are no children of this one; none where a step needs weights at other times too:
            of tied or stored layers, and under a memory budget, whose segments change.
        """
        if self.weight_tied or self.num_stored or self.budget is not None:
            return ()
        self._segments = {a: Segment(self.layers[a:b]) for a, b in pairwise(self._bounds(self.num_layers))}
        return tuple(self._segments.values())

    def _needs_gradients(self, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None) -> bool:
        parameters = self.parameters() if head is None else chain(self.parameters(), head.module.parameters())
        return x.requires_grad or any(tensor.requires_grad for tensor in chain(tensors, parameters))

    def _through(
        self,
        run: LayerRun,
        advance: Callable[[LayerRun, Tensor, list[Tensor]], Tensor],
        x: Tensor,
        tensors: list[Tensor],
    ) -> Tensor:
        """Take a run, by a call of its module where there is one."""
        segment = self._segments.get(run.first)
        out: Tensor = advance(run, x, tensors) if segment is None else segment(partial(advance, run), x, tensors)
        return out

    @property
    def advance(self) -> Advance:
        """How a reversible run's stream is held on the way."""
        return advance_float if self.exact is None else self.exact.advance

    def layer_at(self, depth: int) -> Sequence[nn.Module]:
        """The blocks (one per group) that run at a depth, counted from 0."""
        distinct = len(self.layers)
        return self._blocks(depth % distinct if self.schedule == "cycle" else min(depth, distinct - 1))

    def _blocks(self, k: int) -> Sequence[nn.Module]:
        """The blocks of one of the modules in ``layers``."""
        blocks, groups = self.layers[k], self.coupling.num_groups
        if not isinstance(blocks, nn.ModuleList) or len(blocks) != groups:
            raise ValueError(
                f"layers[{k}] must be an nn.ModuleList of num_groups={groups} blocks, got {type(blocks).__name__}"
                + (f" of {len(blocks)}" if isinstance(blocks, nn.ModuleList) else "")
            )
        return list(blocks)

    def extra_repr(self) -> str:
        """Show what the modules below do not."""
        coupling = type(self.coupling).__name__
        return (
            f"channels={self.channels}, num_layers={self.num_layers}, coupling={coupling}, "
            f"num_groups={self.coupling.num_groups}, backprop={self.backprop}, segments={self.segments}, "
            f"state={self.state}" + ("" if self.budget is None else f", memory_budget={self.budget.limit}")
        )

    def take_apart(
        self, x: Tensor, context: tuple[Any, ...], seed: int | None
    ) -> tuple[Tensor, list[Tensor], LayerRun]:
        """The arguments of a call as the stream, the context tensors, and one run of all layers."""
        check_recorders(x, "a stack")
        if x.size(-1) != self.channels:
            raise ValueError(
                f"the stack is {self.channels} channels wide, got x with {x.size(-1)}; project x before it"
            )
        self._check_layers()
        views = {block: View(block) for k in range(len(self.layers)) for block in self._blocks(k)}
        if seed is None and (self.training or any(view.is_training for view in views.values())):
            seed = draw_seed()
        template, places, tensors = self._split_context(context)
        autocast = Autocast.current(x.device.type)
        if autocast.enabled:
            # Autocast is for the branches: additions to a half-precision stream would be lost in its rounding.
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        layers = [self.layer_at(depth) for depth in range(self.num_layers)]
        whole = LayerRun(self.coupling, layers, 0, seed, template, places, autocast, x.device, views, self.checked)
        return x, tensors, whole

    def _check_layers(self) -> None:
        """Follow the modules, which may have been cut or exchanged."""
        if self.weight_tied and self.num_layers and not len(self.layers):
            raise ValueError("a weight-tied stack needs one layer at least; layers is empty")
        if self.exact is not None:
            self.exact.resize(self.num_layers)
        if self.backprop == "store":
            self.num_stored = self.num_layers

    def runs(self, whole: LayerRun, num_stored: int = 0) -> list[LayerRun]:
        """The run of all layers cut up: what is rebuilt into segments of nearly equal length, what is stored last."""
        bounds = self._bounds(self.num_layers - num_stored)
        if num_stored:
            bounds = [*bounds, self.num_layers] if bounds else [0, self.num_layers]
        return [replace(whole, layers=whole.layers[a:b], first=a) for a, b in pairwise(bounds)]

    def _bounds(self, num_rebuilt: int) -> list[int]:
        """Where the segments of the first so many layers begin, and where the last ends; none for no layers."""
        count = self._segments_of(num_rebuilt)
        return [num_rebuilt * k // count for k in range(count + 1)] if count else []

    def _segments_of(self, num_rebuilt: int) -> int:
        """Runs for the first so many layers, no longer than those of the whole stack would be."""
        return math.ceil(self.segments * num_rebuilt / self.num_layers) if num_rebuilt else 0

    def _fit(
        self, budget: MemoryBudget, whole: LayerRun, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None
    ) -> int:
        """How many of the last layers are stored within the budget."""
        if not self.num_layers:
            return 0
        key = (
            (x.shape, x.dtype, x.device, whole.autocast, self.training),
            [(tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in tensors],
            [weakly(value) for value in whole.context],
            None if head is None else weakly(head.module),
        )

        def measure() -> LayerCost:
            return self._layer_cost(whole, x, tensors, head)

        return budget.num_stored(self.num_layers, self._segments_of, key, measure)

    def _layer_cost(self, whole: LayerRun, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None) -> LayerCost:
        two = replace(whole, layers=[whole.layers[0], whole.layers[min(1, self.num_layers - 1)]])
        # A state of its own: the ranges that this trial meets are those of no step.
        advance = advance_float if self.exact is None else self.exact.fresh().advance
        word, aside = (x.element_size(), 0) if self.exact is None else self.exact.bytes_per_element

        def rebuilt(run: LayerRun, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None = None) -> Tensor:
            return reversible(run, x, tensors, advance, None, head)

        return layer_cost(
            two,
            x,
            tensors,
            _advance_stored,
            rebuilt,
            anchor=x.numel() * (word + aside),
            aside=x.numel() * aside,
            ended=None if head is None else lambda run, x, tensors: rebuilt(run, x, tensors, head),
        )

    def _split_context(
        self, context: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[tuple[int, bool], ...], list[Tensor]]:
        """Context arguments as (template without tensors, places of the tensors, the tensors)."""
        template: list[Any] = []
        places, tensors = [], []
        for position, value in enumerate(context):
            tensor = value.value if isinstance(value, ChannelSplit) else value
            if isinstance(tensor, Tensor):
                is_split = isinstance(value, ChannelSplit)
                if is_split and tensor.size(-1) % self.coupling.num_groups:
                    raise ValueError(
                        f"a split context argument of {tensor.size(-1)} channels does not divide into "
                        f"{self.coupling.num_groups} groups"
                    )
                places.append((position, is_split))
                tensors.append(tensor)
            template.append(None if isinstance(tensor, Tensor) else tensor)
        return tuple(template), tuple(places), tensors

    def ranges(self) -> Tensor | None:
        """The largest magnitude that a stream in fixed point has met in each layer, [L] float64, -1 before the first
        step; ``None`` for a floating one."""
        return None if self.exact is None else torch.tensor(self.exact.largest, dtype=torch.float64).nan_to_num(-1.0)

    def widen(self, ranges: Tensor) -> None:
        """Go by these ranges from now on, such as other ranks have found; as `ranges` gives them."""
        assert self.exact is not None, "it has said that it has ranges"
        self.exact.largest = [value if value >= 0.0 else math.nan for value in ranges.tolist()]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.exact is not None:
            # A run that is resumed must go on with the same scales, or it would not give the same bits.
            destination[prefix + _LARGEST] = torch.tensor(self.exact.largest, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Optional both ways: the same weights run with any state.
        largest = state_dict.pop(prefix + _LARGEST, None)
        if self.exact is not None and largest is not None and largest.numel() == self.num_layers:
            self.exact.largest = largest.tolist()
        super()._load_from_state_dict(state_dict, prefix, *arguments)


_LARGEST = "largest"


def _advance_stored(
    run: LayerRun, x: Tensor, tensors: Sequence[Tensor], after_layer: Callable[[int], object] | None = None
) -> Tensor:
    state = StoredState(x, run.coupling.num_groups)
    run.advance(state, tensors, after_layer)
    return state.join()


def _advance_plainly(run: LayerRun, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    return advance_float(run, x, tensors, keep=False)[1].join()
