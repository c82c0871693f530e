"""The `Stack` module: L layers with a choice of coupling, backpropagation and weight tying."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from . import uncompiled
from .budget import LayerCost, MemoryBudget, layer_cost, parse_bytes, weak_key
from .checkpointed import checkpointed
from .choices import (
    COUPLINGS,
    BackpropName,
    CouplingName,
    ScheduleName,
    StackChoices,
    StateName,
    check_choices,
    num_segments,
)
from .context import Autocast, split_context
from .drift import DriftMonitor
from .exact import ExactState
from .fused import unobserved
from .fused_head import FusedHead
from .integer_state import WORDS
from .layer_run import LayerRun
from .lazy import initialise_lazy
from .recompute import check_recorders, is_transformed
from .repeatable import Checked
from .reversible import Advance, advance_float, advance_stored, advance_without_grad, reversible
from .seeds import draw_seed
from .segment import Segment
from .survey import Surveys
from .trimmed import Trim, advance_trimmed, check_trimmable


class Stack(nn.Module):
    """Apply a block L times, as residual or grouped reversible layers.

    ``x <- x + f(x)`` per layer (residual), or ``x_i <- x_i + f_i(x_{i-1}')`` per group (grouped, reversible). A block
    is a pure function ``f(x, seed, *context)`` that keeps the shape of ``x``: the same call gives the same bits, and
    it changes no buffer while `is_recomputing()`.

    Args:
        block: makes one block of a given width; called once per distinct layer and group.
        channels: D, the width of the stream.
        num_layers: L, how often a layer is applied.
        coupling: ``residual`` or ``grouped``.
        num_groups: C >= 2, dividing D; only with ``grouped``.
        backprop: ``store`` keeps every activation (L N D); ``checkpoint`` keeps each segment's input (N x D) and
            recomputes the segment from it; ``reversible`` keeps each segment's output (N x D) and reconstructs the
            layers' inputs from it; only with ``grouped``.
        segments: number of segments that the layers are divided into; ``None``: 1 for reversible, L for checkpoint;
            ``auto``: one per 32 layers for reversible, the square root of L for checkpoint. More segments of a
            reversible stack bound rounding drift and let the all-reduce of gradients overlap the backward.
        state: number format of a reversible stack's state: ``float`` is the stream's own dtype, fastest, and drifts;
            ``exact`` is int32 fixed point, reconstructed bit for bit; ``exact64`` is the same in int64, for streams
            whose range is too wide for 32 bits (docs/drift.md).
        memory_budget: bytes, or text like ``2GB``, that a step over the stack may allocate; as many of the last layers
            as fit are stored, the others are recomputed. Only with ``reversible``; ``None`` recomputes all.
        drift_every: steps between two comparisons of reconstructed states with copies; 0: none.
        weight_tied: whether layers share weights.
        num_distinct: number of distinct layers of a weight-tied stack.
        schedule: order of tied layers: ``cycle`` (0 1 0 1 ...) or ``head_repeat`` (0 1 1 1 ...).
    Raises: ValueError: for an impossible combination, naming the argument to change.
    Cost: one evaluation of each block in the forward; ``reversible`` and ``checkpoint`` evaluate it once more in the
        backward.
    Source: the paper, sections 3.2 to 3.4.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> class Block(torch.nn.Linear):
        ...     def forward(self, x, seed):
        ...         return super().forward(x).tanh()
        >>> stack = revgnn.Stack(
        ...     lambda width: Block(width, width), channels=8, num_layers=50, coupling="grouped", backprop="reversible"
        ... )
        >>> stack(torch.randn(5, 8)).sum().backward()
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
        choices: StackChoices = {
            "num_layers": num_layers,
            "coupling": coupling,
            "num_groups": num_groups,
            "backprop": backprop,
            "segments": segments,
            "weight_tied": weight_tied,
            "num_distinct": num_distinct,
            "schedule": schedule,
            "state": state,
            "memory_budget": memory_budget,
        }
        check_choices(channels, choices, drift_every=drift_every)
        self.channels = channels
        self._depth, self._requested_segments = num_layers, segments
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
        self._surveys = Surveys()
        # A plain dict, not a ModuleDict: segments are not submodules, so that weights keep their names.
        self._segments: dict[int, Segment] = {}
        distinct = min(num_distinct, num_layers) if weight_tied else num_layers
        groups = self.coupling.num_groups
        self.layers = nn.ModuleList(
            nn.ModuleList(block(channels // groups) for _ in range(groups)) for _ in range(distinct)
        )

    @property
    def num_layers(self) -> int:
        """L, the depth; without weight tying the length of `layers`."""
        return self._depth if self.weight_tied else len(self.layers)

    @property
    def segments(self) -> int:
        """Number of segments, at most L."""
        return min(num_segments(self._requested_segments, self.num_layers, self.backprop), max(self.num_layers, 1))

    @property
    def drift(self) -> float | None:
        """Relative error of the reconstructed states at the last comparison; None before it (see ``drift_every``)."""
        return self.monitor.error

    @property
    def drift_every(self) -> int:
        """Steps between two drift comparisons; may be set at any time."""
        return self.monitor.every

    @drift_every.setter
    def drift_every(self, every: int) -> None:
        self.monitor.every = every

    def forward(
        self,
        x: Tensor,
        *context: object,
        seed: int | None = None,
        head: FusedHead | None = None,
        overwrite: bool = False,
        trim: Trim | None = None,
    ) -> Tensor:
        """Run the layers.

        Args:
            x: [N, D] stream, kept in its own dtype. Under autocast only the branches run in lower precision (a
                half-precision stream is then kept in float32).
            context: passed to every block; tensors may require gradients, and a tensor in `split` is chunked by
                groups.
            seed: the step's seed; ``None`` draws one from torch's generator in training.
            head: a row-wise head to fuse with the stack: the same value as ``head(stack(x))``, in less memory.
            overwrite: whether ``x`` may be overwritten; without gradients that saves a copy of it.
            trim: leaves out rows between the layers (with ``checkpoint`` between the segments); not with
                ``reversible``, which inverts every layer on the rows of its evaluation. ``None``: all rows.
        Returns: [N, D], or fewer rows with ``trim``, or the head's output. Under the transforms of ``torch.func`` and
            in forward-mode differentiation every activation is stored, whatever ``backprop`` says.
        Raises: ValueError: if a width does not fit, nothing fits the memory budget, or a reversible stack is to trim.
            RuntimeError: under ``torch.jit.trace`` and ``torch.fx``; for a block that does not repeat its value, or
            that uses a tensor that would get no gradient; in the backward of a reversible stack under
            ``create_graph``.
        """
        if uncompiled.is_compiled():
            return uncompiled.call(
                Stack.forward, self, x, *context, seed=seed, head=head, overwrite=overwrite, trim=trim
            )
        x, tensors, full_run = self.prepare(x, context, seed)
        if trim is not None:
            x = self._advance_trimmed(full_run, x, tensors, trim)
            return x if head is None else head(x)
        if torch.compiler.is_exporting() or is_transformed():
            # An exported program has no memory to save, and torch.func takes no autograd Function without a graph.
            x = advance_stored(full_run, x, tensors)
            return x if head is None else head(x)
        if not (torch.is_grad_enabled() and self._needs_gradients(x, tensors, head)):
            advance = partial(advance_without_grad, copy=not overwrite)
            for run in self.runs(full_run) if self._segments else [full_run]:
                x = self._apply_run(run, advance, x, tensors)
            return x if head is None else head(x)
        if self.budget is not None:
            self.num_stored = self._layers_within(self.budget, full_run, x, tensors, head)
        monitor = self.monitor.step()
        for run in self.runs(full_run, self.num_stored):
            is_last = run.first + len(run.layers) == self.num_layers
            if run.first >= self.num_layers - self.num_stored:
                x = advance_stored(run, x, tensors)
            elif self.backprop == "reversible":
                function = partial(reversible, advance=self.advance, monitor=monitor, head=head if is_last else None)
                x = self._apply_run(run, function, x, tensors)
                if is_last:
                    return x
            else:
                x = self._apply_run(run, checkpointed, x, tensors)
        return x if head is None else head(x)

    def _advance_trimmed(self, full_run: LayerRun, x: Tensor, tensors: Sequence[Tensor], trim: Trim) -> Tensor:
        check_trimmable(self.backprop)
        if self.backprop == "store":
            layers = [replace(full_run, layers=[layer], first=k) for k, layer in enumerate(full_run.layers)]
            return advance_trimmed(layers, x, trim)
        recomputes = torch.is_grad_enabled() and self._needs_gradients(x, tensors, None)
        function = checkpointed if recomputes else advance_without_grad
        return advance_trimmed(self.runs(full_run), x, trim, lambda run, *rest: self._apply_run(run, function, *rest))

    def cut(self) -> tuple[Segment, ...]:
        """Evaluate each segment through a module of its own from now on, so that FSDP can gather weights per segment.

        Returns: the segment modules, which are not submodules of the stack; none for tied or stored layers, whose
            weights are needed at other times too, and none under a memory budget, whose segments change.
        """
        if self.weight_tied or self.num_stored or self.budget is not None:
            return ()
        self._segments = {a: Segment(self.layers[a:b]) for a, b in pairwise(self._bounds(self.num_layers))}
        return tuple(self._segments.values())

    def _needs_gradients(self, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None) -> bool:
        parameters = self.parameters() if head is None else chain(self.parameters(), head.module.parameters())
        return x.requires_grad or any(tensor.requires_grad for tensor in chain(tensors, parameters))

    def _apply_run(
        self,
        run: LayerRun,
        advance: Callable[[LayerRun, Tensor, list[Tensor]], Tensor],
        x: Tensor,
        tensors: list[Tensor],
    ) -> Tensor:
        """Apply a run, through its segment module where `cut` made one."""
        segment = self._segments.get(run.first)
        out: Tensor = advance(run, x, tensors) if segment is None else segment(partial(advance, run), x, tensors)
        return out

    @property
    def advance(self) -> Advance:
        """The function that advances a reversible run's state: floating point or fixed point."""
        return advance_float if self.exact is None else self.exact.advance

    def layer_at(self, depth: int) -> Sequence[nn.Module]:
        """Return the blocks (one per group) of the layer at a depth, counted from 0."""
        return self._blocks(self._place(depth))

    def _place(self, depth: int) -> int:
        """Return which of ``layers`` is applied at a depth."""
        distinct = len(self.layers)
        return depth % distinct if self.schedule == "cycle" else min(depth, distinct - 1)

    def _blocks(self, k: int) -> Sequence[nn.Module]:
        """Return the blocks of ``layers[k]``, one per group."""
        blocks, groups = self.layers[k], self.coupling.num_groups
        if not isinstance(blocks, nn.ModuleList) or len(blocks) != groups:
            raise ValueError(
                f"layers[{k}] must be an nn.ModuleList of num_groups={groups} blocks, got {type(blocks).__name__}"
                + (f" of {len(blocks)}" if isinstance(blocks, nn.ModuleList) else "")
            )
        return list(blocks)

    def extra_repr(self) -> str:
        """Show the settings that the submodules do not show."""
        coupling = type(self.coupling).__name__
        return (
            f"channels={self.channels}, num_layers={self.num_layers}, coupling={coupling}, "
            f"num_groups={self.coupling.num_groups}, backprop={self.backprop}, segments={self.segments}, "
            f"state={self.state}" + ("" if self.budget is None else f", memory_budget={self.budget.limit}")
        )

    def prepare(
        self, x: Tensor, context: tuple[object, ...], seed: int | None
    ) -> tuple[Tensor, list[Tensor], LayerRun]:
        """Check a call's arguments and split them into the stream, the context tensors, and one run of all layers."""
        check_recorders(x, "a stack")
        if x.size(-1) != self.channels:
            raise ValueError(
                f"the stack is {self.channels} channels wide, got x with {x.size(-1)}; project x before it"
            )
        self._check_layers()
        distinct = range(len(self.layers))
        survey = self._surveys.of(self.layers, lambda: [self._blocks(k) for k in distinct], training=self.training)
        if seed is None and (self.training or survey.is_training):
            seed = draw_seed()
        template, places, tensors = split_context(context, self.coupling.num_groups)
        autocast = Autocast.current(x.device.type)
        if autocast.enabled:
            # Only branches run in half precision: a half-precision stream would lose small additions in its rounding.
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        layers = [survey.blocks[self._place(depth)] for depth in range(self.num_layers)]
        run = LayerRun(self.coupling, layers, 0, seed, template, places, autocast, x.device, survey, self.checked)
        # Lazy modules have hooks, and to look for them costs more than to look for hooks.
        if not survey.is_bare and initialise_lazy(self, lambda: run.evaluate(x, tensors)):
            return self.prepare(x, context, seed)
        return x, tensors, run

    def _check_layers(self) -> None:
        """Adopt the current length of ``layers``, which the caller may have changed."""
        if self.weight_tied and self.num_layers and not len(self.layers):
            raise ValueError("a weight-tied stack needs one layer at least; layers is empty")
        if self.exact is not None:
            self.exact.resize(self.num_layers)
        if self.backprop == "store":
            self.num_stored = self.num_layers

    def runs(self, full_run: LayerRun, num_stored: int = 0) -> list[LayerRun]:
        """Divide the run of all layers into segments of nearly equal length, then one run of the stored last layers."""
        bounds = self._bounds(self.num_layers - num_stored)
        if num_stored:
            bounds = [*bounds, self.num_layers] if bounds else [0, self.num_layers]
        return [replace(full_run, layers=full_run.layers[a:b], first=a) for a, b in pairwise(bounds)]

    def _bounds(self, num_recomputed: int) -> list[int]:
        """Return the first layer of each segment of the first ``num_recomputed`` layers, and the end of the last."""
        count = self._segments_of(num_recomputed)
        return [num_recomputed * k // count for k in range(count + 1)] if count else []

    def _segments_of(self, num_recomputed: int) -> int:
        """Return the number of segments of the first layers, each no longer than a segment of all layers would be."""
        return math.ceil(self.segments * num_recomputed / self.num_layers) if num_recomputed else 0

    def _layers_within(
        self, budget: MemoryBudget, full_run: LayerRun, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None
    ) -> int:
        """Return how many of the last layers can be stored within the budget."""
        if not self.num_layers:
            return 0
        key = (
            (x.shape, x.dtype, x.device, full_run.autocast, self.training),
            [(tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in tensors],
            [weak_key(value) for value in full_run.context],
            None if head is None else weak_key(head.module),
        )
        measure = partial(self._layer_cost, full_run, x, tensors, head)
        return budget.num_stored(self.num_layers, self._segments_of, key, measure)

    def _layer_cost(
        self, full_run: LayerRun, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None
    ) -> LayerCost:
        two = replace(full_run, layers=[full_run.layers[0], full_run.layers[min(1, self.num_layers - 1)]])
        # A fresh state, so that the trial's ranges do not enter those of the training steps.
        advance = advance_float if self.exact is None else self.exact.fresh().advance
        word, lost = (x.element_size(), 0) if self.exact is None else self.exact.bytes_per_element

        def recomputed(run: LayerRun, x: Tensor, tensors: Sequence[Tensor], head: FusedHead | None = None) -> Tensor:
            return reversible(run, x, tensors, advance, None, head)

        with unobserved():
            return layer_cost(
                two,
                x,
                tensors,
                advance_stored,
                recomputed,
                saved_per_run=x.numel() * (word + lost),
                lost_bits=x.numel() * lost,
                with_head=None if head is None else lambda run, x, tensors: recomputed(run, x, tensors, head),
            )

    def ranges(self) -> Tensor | None:
        """Return the largest magnitude seen in each layer of a fixed-point state, [L] float64, -1 before the first
        step; ``None`` for a floating-point state."""
        return None if self.exact is None else torch.tensor(self.exact.largest, dtype=torch.float64).nan_to_num(-1.0)

    def widen(self, ranges: Tensor) -> None:
        """Replace the ranges of the fixed-point state, for instance by the maxima over ranks; as `ranges` returns
        them."""
        assert self.exact is not None, "only a fixed-point state has ranges"
        self.exact.largest = [value if value >= 0.0 else math.nan for value in ranges.tolist()]

    def _save_to_state_dict(self, destination: dict[str, object], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.exact is not None:
            # A resumed run needs the same scales to give the same bits.
            destination[prefix + _LARGEST] = torch.tensor(self.exact.largest, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict[str, object], prefix: str, *arguments: object) -> None:
        # Optional in both directions: the same weights run with any state.
        largest = state_dict.pop(prefix + _LARGEST, None)
        if self.exact is not None and isinstance(largest, Tensor) and largest.numel() == self.num_layers:
            self.exact.largest = largest.tolist()
        super()._load_from_state_dict(state_dict, prefix, *arguments)


_LARGEST = "largest"
