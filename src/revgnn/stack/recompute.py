"""Repeat a module's evaluation with the same result, for every backward that recomputes.

A module's value depends on more than its arguments: on parameters, buffers, hooks, plain attributes (training flags
among them) and random numbers. The first evaluation records them; a repetition restores them for its own duration. So
the backward matches its forward whatever the caller did in between, and the caller sees statistics, random numbers and
attributes change once per step.

A module may declare ``is_pure = True``: it draws random numbers only from its seed, changes no attribute, and no buffer
while `is_recomputing()`, and in training its value depends on no buffer that changes. Then the random generators are
not recorded, and in training the buffers are not either. Its class may name ``pure_types`` instead: it is pure while it
is made of modules of these types alone, without hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from .conditions import NOTHING, Conditions, View, conditions_of, generators, parts_of
from .recomputing import is_recomputing, start_recomputing, stop_recomputing, turns
from .surface import Surfaces
from .surroundings import Surroundings

Slot = tuple[dict[str, Any], str, int]
"""A module's parameter: the dictionary that holds it, its name there, and its position among all parameters."""


class Slots(NamedTuple):
    """Where the parameters of modules are held."""

    of: Mapping[nn.Module, Sequence[Slot]]
    """Of every module."""
    parameters: list[Tensor]
    """Of all modules, each once."""
    written: list[Tensor]
    """Buffers that evaluations write to, of each module in turn."""

    @classmethod
    def found(cls, views: Mapping[nn.Module, View]) -> Slots:
        """Look the parameters up."""
        positions: dict[Tensor, int] = {}

        def position(parameter: Tensor) -> int:
            return positions.setdefault(parameter, len(positions))

        with turns():
            of = {
                module: [(holder, name, position(holder[name])) for holder, name in view.slots]
                for module, view in views.items()
            }
            written = [holder[name] for view in views.values() for holder, name in view.written]
        return cls(of, list(positions), [buffer for buffer in written if buffer is not None])


class Recompute:
    """Evaluates modules, and repeats evaluations under their original conditions.

    Every evaluation has a key. Parameters are looked up when this is made, and are handed back as `parameters`, to be
    saved by autograd; `bind` or `bind_leaves` takes what was saved.

    Args:
        views: the `View` of every module that will be evaluated.
        device: device of the modules' random numbers, besides the CPU.
        slots: of these modules, where they are known.
    """

    def __init__(self, views: Mapping[nn.Module, View], device: torch.device, slots: Slots | None = None) -> None:
        self._views, self._device = views, device
        self.surroundings = None if torch.compiler.is_compiling() else Surroundings()
        """Modes, hooks of all modules and default dtype of the evaluations."""
        self._slots, self.parameters, self.written = slots or Slots.found(views)
        self._values: Sequence[Tensor] = self.parameters
        self._needed: Sequence[bool] | None = None
        """Which values get a leaf of their own in every repetition; ``None``: they are leaves already."""
        self._leaves: dict[int, Tensor] = {}
        """What stands for the parameters of the module that is being evaluated again, by position."""
        self._recorded: dict[Hashable, Conditions] = {}

    def bind(self, parameters: Sequence[Tensor], needed: Sequence[bool]) -> None:
        """Repeat with these values of the parameters from now on, each repetition with detached leaves of its own.

        Autograd keeps a node for every leaf that it has met, for as long as the leaf lives. Leaves that outlived their
        repetition would leave these nodes between its temporaries, and the heap would grow with every layer.

        Args:
            parameters: values, in the order of `parameters`.
            needed: which of them need gradients.
        """
        self._values, self._needed = parameters, needed

    def bind_leaves(self, leaves: Sequence[Tensor]) -> None:
        """Repeat with these very tensors in the places of parameters."""
        self._values, self._needed = leaves, None

    @property
    def bound(self) -> Sequence[Tensor]:
        """The values of all parameters that repetitions use."""
        return self._values

    def position(self, leaf: Tensor | None) -> int:
        """Where a leaf of the module that is being evaluated again stands among the parameters."""
        for position, other in self._leaves.items():
            if other is leaf:
                return position
        raise AssertionError("a gradient of a tensor that is no parameter of the block")

    def leaves(self) -> dict[int, Tensor]:
        """The leaves, by position, of the module that is being evaluated again; those that need gradients."""
        return {position: leaf for position, leaf in self._leaves.items() if leaf.requires_grad}

    def first(
        self, key: Hashable, module: nn.Module, seed: int | None, call: Callable[[], Tensor], *, keep: bool
    ) -> Tensor:
        """Evaluate a module for the first time.

        Args:
            key: identifies the evaluation.
            module: the module that ``call`` evaluates.
            seed: seeds torch's generators for the evaluation; ``None`` leaves them as they are.
            call: evaluates the module.
            keep: whether the evaluation will be repeated.
        Returns: the module's value.
        Raises: RuntimeError: if it will be repeated and is sharded by itself.
        """
        view = self._views[module]
        if keep:
            view.check_repeatable()
        if not is_recomputing() and (not keep or (view.is_pure and not view.buffers)):
            if (seed is None or view.is_pure) and not parametrize._cache_enabled:
                return call()
            with self._seeded(view, seed), _uncached():
                return call()
        with turns():
            conditions = conditions_of(view, self._generators(view) if seed is None else [])
            if is_recomputing():
                # Inside a repetition, or a trial before the step: restore the buffers afterwards.
                with self._restored(module, conditions._replace(states=[]), seed):
                    value = call()
            else:
                with self._seeded(view, seed), _uncached():
                    value = call()
            if keep:
                self._recorded[key] = conditions.settled()
        return value

    def record(self, key: Hashable, module: nn.Module) -> None:
        """Record the current conditions for an evaluation that the caller makes itself."""
        view = self._views[module]
        view.check_repeatable()
        if view.buffers:
            self._recorded[key] = conditions_of(view, [])

    def again(
        self, key: Hashable, module: nn.Module, seed: int | None, *, leaves: bool = True
    ) -> AbstractContextManager[None]:
        """Restore the conditions of an evaluation inside the returned context.

        Args:
            key: identifies the evaluation.
            module: the module.
            seed: seeds torch's generators; ``None`` restores their states.
            leaves: whether autograd will differentiate the repetition; otherwise the bound values themselves take the
                places of the parameters.
        Raises: RuntimeError: if a submodule was replaced since, or a large buffer changed in place.
        """
        view = self._views[module]
        if parts_of(module) != view.parts:
            raise RuntimeError(
                f"modules inside {type(module).__name__} were added, removed or exchanged between the forward and the "
                "backward, which evaluates it again; change modules after the backward"
            )
        conditions = self._recorded.get(key, NOTHING)
        conditions.check(module)
        return self._restored(module, conditions, seed, leaves=leaves)

    def is_unchanged(self, key: Hashable) -> bool:
        """Whether the buffers of an evaluation still allow its repetition."""
        return self._recorded.get(key, NOTHING).changed() is None

    def _seeded(self, view: View, seed: int | None) -> AbstractContextManager[None]:
        return nullcontext() if seed is None or view.is_pure else _seeded(self._generators(view), seed)

    def _generators(self, view: View) -> list[torch.Generator]:
        return [] if view.is_pure else generators(self._device)

    def _restored(
        self, module: nn.Module, conditions: Conditions, seed: int | None, *, leaves: bool = True
    ) -> _Restored:
        view, slots = self._views[module], self._slots[module]
        return _Restored(self, slots, view, conditions, self._generators(view), seed, leaves=leaves)

    def swap(self, leaves: dict[int, Tensor]) -> dict[int, Tensor]:
        """Make these the leaves of the module that is being evaluated again; return those before."""
        before, self._leaves = self._leaves, leaves
        return before

    def values(self, slots: Sequence[Slot], *, leaves: bool) -> dict[int, Tensor]:
        """Return the bound values of a module's parameters; ``leaves``: each as a leaf of its own, after `bind`."""
        values, needed = self._values, self._needed
        if not leaves or needed is None:
            return {k: values[k] for _, _, k in slots}
        return {k: values[k].detach().requires_grad_(needed[k]) for k in {k for _, _, k in slots}}


class _Restored(AbstractContextManager[None]):
    """The conditions of one evaluation inside the context; a class, because generators take as long as small kernels.

    Args:
        owner: has the values of the parameters.
        slots: of the module's parameters.
        view: of the module.
        conditions: of the evaluation.
        rngs: the random generators that the module may draw from.
        seed: seeds them; ``None``: they get the states of ``conditions``.
        leaves: whether each parameter's value becomes a leaf of its own.
    """

    def __init__(
        self,
        owner: Recompute,
        slots: Sequence[Slot],
        view: View,
        conditions: Conditions,
        rngs: Sequence[torch.Generator],
        seed: int | None,
        *,
        leaves: bool,
    ) -> None:
        self._owner, self._view, self._conditions, self._rngs, self._seed = owner, view, conditions, rngs, seed
        self._slots, self._has_leaves, self._turn = slots, leaves, turns()
        self._parameters: list[Tensor] = []
        self._outside: dict[int, Tensor] | None = None
        self._buffers: list[Tensor | None] = []
        self._states: list[Tensor] = []
        self._surfaces: Surfaces | None = None
        self._around: AbstractContextManager[object] | None = None
        self._cache = 0

    def __enter__(self) -> None:
        self._turn.__enter__()
        start_recomputing()
        try:
            self._put()
        except BaseException:
            self._take_back()
            raise

    def __exit__(self, *error: object) -> None:
        self._take_back()

    def _put(self) -> None:
        conditions = self._conditions
        self._parameters = [holder[name] for holder, name, _ in self._slots]
        self._buffers = [kept.holder[kept.name] for kept in conditions.buffers]
        has_states = self._seed is not None or conditions.states
        self._states = [rng.get_state() for rng in self._rngs] if has_states else []
        leaves = self._owner.values(self._slots, leaves=self._has_leaves)
        self._outside = self._owner.swap(leaves)
        for holder, name, k in self._slots:
            holder[name] = leaves[k]
        for kept in conditions.buffers:
            # A module that is not pure may write to its buffer, so it receives a copy.
            is_own = kept.is_copy and not self._view.is_pure
            kept.holder[kept.name] = kept.value.clone() if is_own else kept.value
        self._surfaces = (conditions.surfaces or self._view.surfaces).put()
        for rng, state in zip(self._rngs, conditions.states, strict=False):
            rng.set_state(state)
        if self._seed is not None:
            for rng in self._rngs:
                rng.manual_seed(self._seed)
        if parametrize._cache_enabled:
            self._cache, parametrize._cache_enabled = parametrize._cache_enabled, 0
        if self._owner.surroundings is not None:
            around = self._owner.surroundings.put()
            around.__enter__()
            self._around = around

    def _take_back(self) -> None:
        try:
            if self._around is not None:
                self._around.__exit__(None, None, None)
            if self._cache:
                parametrize._cache_enabled = self._cache
            if self._outside is not None:
                self._owner.swap(self._outside)
            for (holder, name, _), parameter in zip(self._slots, self._parameters, strict=False):
                holder[name] = parameter
            for kept, buffer in zip(self._conditions.buffers, self._buffers, strict=False):
                kept.holder[kept.name] = buffer
            if self._surfaces is not None:
                self._surfaces.restore()
            for rng, state in zip(self._rngs, self._states, strict=False):
                rng.set_state(state)
        finally:
            stop_recomputing()
            self._turn.__exit__(None, None, None)


def detached_leaves(values: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Leaves with the memory of these values, so that hooks of the parameters do not run inside a repetition."""
    return [value.detach().requires_grad_(need) for value, need in zip(values, needed, strict=True)]


@contextmanager
def _uncached() -> Iterator[None]:
    """Compute parametrized weights anew inside ``torch.nn.utils.parametrize.cached()``: one that was computed without a
    graph, or from other parameters, must not be kept for others, nor taken from them."""
    before = parametrize._cache_enabled
    if not before:
        # Nothing is written: torch.export reports a write as a side effect.
        yield
        return
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before


@contextmanager
def _seeded(rngs: Sequence[torch.Generator], seed: int) -> Iterator[None]:
    """Seed the generators inside the context, and restore their states afterwards."""
    with turns():
        states = [rng.get_state() for rng in rngs]
        try:
            for rng in rngs:
                rng.manual_seed(seed)
            yield
        finally:
            for rng, state in zip(rngs, states, strict=True):
                rng.set_state(state)


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is active; neither supports an autograd
    Function that builds no graph."""
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def check_recorders(x: object, what: str) -> None:
    """Raise RuntimeError under torch.jit.trace or torch.fx, which would record the graph, seed and mode as constants.

    Args:
        x: the stream.
        what: name of what is called, for the message.
    """
    if torch._C._get_tracing_state() is not None or not isinstance(x, Tensor):
        recorder = "torch.jit.trace" if isinstance(x, Tensor) else f"torch.fx ({type(x).__name__})"
        raise RuntimeError(
            f"{what} cannot be recorded by {recorder}: the graph, the seed and the mode of this one call would become "
            "constants; use torch.export for a module in evaluation, or torch.compile"
        )
