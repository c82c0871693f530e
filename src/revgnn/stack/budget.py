"""How many layers keep their activations within a budget of bytes; what one costs is measured on two of them.

Of L layers the first are rebuilt and the last k stored: the backward frees those k graphs before it begins to rebuild,
so that the two needs never add up. Hides the trial that finds what a layer keeps and what it needs for a moment.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from .layer_run import LayerRun
from .rank_group import alone
from .recompute import detached_leaves
from .recomputing import recomputing

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_BINARY = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_bytes(size: int | str) -> int:
    """Read a number of bytes: an integer, or a number with a unit (``"500MB"``, ``"1.5 GiB"``).

    Raises: ValueError: for anything else, or nothing above zero.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?)(i?)B?\s*", size, re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory_budget={size!r} is no number of bytes; write 2000000000, '2GB' or '1.5GiB'")
        number, unit, binary = match.groups()
        size = int(float(number) * (_BINARY if binary else _UNITS)[unit.upper()])
    if size < 1:
        raise ValueError(f"memory_budget must be above 0 bytes, got {size}")
    return size


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that come into being inside it and are still alive, on any device.

    What a kernel allocates for itself and frees again is not seen.
    """

    counts_memory_only = True
    """Blocks may evaluate themselves under it: it is their memory that is asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._sizes: dict[int, tuple[weakref.ref[Any], int]] = {}

    def now(self) -> int:
        """Bytes that are alive."""
        self._sizes = {key: entry for key, entry in self._sizes.items() if entry[0]() is not None}
        return sum(size for _, size in self._sizes.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and look at what went in and came out."""
        kwargs = kwargs or {}
        # What goes in and has not come out before is someone else's: it is known from now on, and counts as nothing.
        self._note((args, kwargs), counts=False)
        out = func(*args, **kwargs)
        self._note(out, counts=True)
        self.peak = max(self.peak, self.now())
        return out

    def _note(self, values: Any, *, counts: bool) -> None:
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            known = self._sizes.get(storage._cdata)
            if known is None or known[0]() is not storage:
                self._sizes[storage._cdata] = weakref.ref(storage), storage.nbytes() if counts else 0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


@dataclass(frozen=True)
class LayerCost:
    """What the layers of a stack cost for one size of stream, in bytes."""

    kept: int
    """That a stored layer keeps for the backward."""
    stored: int
    """Peak of a whole step over two stored layers."""
    rebuilt: int
    """Peak of a whole step over one rebuilt layer, whose result is handed on."""
    ended: int
    """The same where what follows the stack is evaluated with it, so that nothing is handed on."""
    result: int
    """What follows the stack gives, and its gradient; 0: nothing follows."""
    anchor: int
    """That every run of rebuilt layers keeps."""
    stream: int
    """The stream itself, N x D."""

    def peak(self, num_stored: int, num_layers: int, segments: int) -> int:
        """Bytes at most for a step: ``num_stored`` last layers stored, those before them rebuilt in so many runs."""
        at_stored = self.stored + (num_stored - 2) * self.kept if num_stored else 0
        if num_stored == num_layers:
            return at_stored
        if not num_stored:
            # The last run's backward, while all others wait; and those before it, which hand their states on.
            before = self.rebuilt + (segments - 2) * self.anchor + self.result if segments > 1 else 0
            return max(self.ended + (segments - 1) * self.anchor, before)
        # The output and its gradient outlive the stored layers, and every run's last state the layers after it.
        at_rebuilt = self.rebuilt + (segments - 1) * self.anchor + 2 * self.stream
        return max(at_stored + segments * self.anchor, at_rebuilt)

    def need(self, num_stored: int, num_layers: int, segments: int) -> int:
        """The budget that `peak` takes: a hundredth more, because allocators round sizes up."""
        peak = self.peak(num_stored, num_layers, segments)
        return peak + peak // 100


class MemoryBudget:
    """Chooses how many layers are stored.

    Args:
        limit: bytes that a step over the stack may take: activations, states and their gradients. Parameters, their
            gradients and the caller's own tensors do not count.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.cost: LayerCost | None = None
        """What a layer cost for the last kind of input; None before the first."""
        self._key: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[type[MemoryBudget], tuple[int]]:
        # What was measured is about tensors that a copy does not have.
        return MemoryBudget, (self.limit,)

    def num_stored(
        self,
        num_layers: int,
        segments: Callable[[int], int],
        key: tuple[Any, ...],
        measure: Callable[[], LayerCost],
    ) -> int:
        """The largest number of stored layers that fits.

        Args:
            num_layers: L.
            segments: into how many runs so many rebuilt layers are cut.
            key: of everything that a layer's cost depends on; it is measured again when this changes.
            measure: finds the cost.
        Raises: ValueError: if nothing fits.
        """
        if self.cost is None or self._key != key:
            self._key, self.cost = key, measure()
        cost = self.cost

        def fits(num_stored: int) -> bool:
            return cost.need(num_stored, num_layers, segments(num_layers - num_stored)) <= self.limit

        found = next((k for k in range(num_layers, -1, -1) if fits(k)), None)
        if found is None:
            least = cost.need(0, num_layers, segments(num_layers))
            raise ValueError(
                f"memory_budget={self.limit:,} bytes is too little: with every layer rebuilt this stack needs "
                f"{least:,} bytes for a stream of {cost.stream:,} bytes; give at least that, fewer segments, more "
                "groups, or fewer nodes per batch"
            )
        return found


def weakly(value: object) -> tuple[int, object]:
    """A stand-in for a context argument in a key: equal for the same object alone, without keeping it alive."""
    try:
        return id(value), weakref.ref(value)
    except TypeError:
        return id(value), value


def layer_cost(
    run: LayerRun,
    x: Tensor,
    tensors: Sequence[Tensor],
    stored: Callable[..., Tensor],
    rebuilt: Callable[[LayerRun, Tensor, Sequence[Tensor]], Tensor],
    anchor: int,
    aside: int = 0,
    ended: Callable[[LayerRun, Tensor, Sequence[Tensor]], Tensor] | None = None,
) -> LayerCost:
    """Measure what a layer costs, on copies and with the blocks' buffers left alone.

    Args:
        run: two layers.
        x: [N, D] stream.
        tensors: context tensors.
        stored: ``(run, x, tensors, after_layer)`` with plain backpropagation.
        rebuilt: ``(run, x, tensors)`` with rebuilding.
        anchor: bytes that a rebuilt run keeps.
        aside: those among them that a run of one layer does not have.
        ended: as ``rebuilt``, with what follows the stack; ``None``: nothing does.
    Cost: three layers forward, and again backward; a fourth with ``ended``.
    """
    held: list[int] = []
    with LiveBytes() as live:
        _step(run, x, tensors, lambda x, t: stored(run, x, t, lambda _: held.append(live.now())))
    # What is still there when all is over is no step's: indices that the caller's objects made and keep.
    two = live.peak - live.now()
    one = replace(run, layers=run.layers[:1])
    stream = x.numel() * x.element_size()

    def peak_of_one(way: Callable[[LayerRun, Tensor, Sequence[Tensor]], Tensor]) -> tuple[int, int]:
        with LiveBytes() as live:
            result = _step(one, x, tensors, lambda x, t: way(one, x, t))
        # The input of the trial is a copy; a stack whose first layers are rebuilt makes none.
        return live.peak - live.now() - stream + aside, 2 * result

    rebuilding_one, _ = peak_of_one(rebuilt)
    ending, result = (rebuilding_one, 0) if ended is None else peak_of_one(ended)
    return LayerCost(
        kept=held[1] - held[0],
        stored=two,
        rebuilt=rebuilding_one,
        ended=ending,
        result=result,
        anchor=anchor,
        stream=stream,
    )


def _step(
    run: LayerRun, x: Tensor, tensors: Sequence[Tensor], forward: Callable[[Tensor, Sequence[Tensor]], Tensor]
) -> int:
    """One forward and backward that leaves nothing behind; gives the bytes of the result."""
    copies = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
    parameters = run.recompute.parameters
    # Hooks of parameters do not run in a trial, nor those of the caller's for what is kept (offloading, counting).
    wanted = detached_leaves(parameters, [parameter.requires_grad for parameter in parameters])
    run.recompute.bind_leaves(wanted)
    with torch.enable_grad(), recomputing(), alone(), saved_tensors_hooks(Tensor.detach, Tensor.detach):
        leaf = x.detach().clone().requires_grad_()
        y = forward(leaf, copies)
        leaves = [tensor for tensor in (leaf, *copies, *wanted) if tensor.requires_grad]
        torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)
        return y.numel() * y.element_size()
