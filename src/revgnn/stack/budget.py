"""Choose how many layers to store within a memory budget; the cost of a layer is measured on two of them.

The last k of L layers are stored and the others recomputed: the backward frees the k stored graphs before it recomputes
anything, so that the two never coexist. Hides the trial step that measures what a layer saves and what it needs
temporarily.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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


def parse_bytes(size: int | str, name: str = "memory_budget") -> int:
    """Parse a number of bytes: an integer, or a number with a unit (``"500MB"``, ``"1.5 GiB"``).

    Args:
        size: the number or text.
        name: what it is, for errors.
    Raises: ValueError: for anything else, or a number below 1.

    Examples:
        >>> from revgnn.stack import parse_bytes
        >>> parse_bytes("1.5 GiB")
        1610612736
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?)(i?)B?\s*", size, re.IGNORECASE)
        if match is None:
            raise ValueError(f"{name} must be a number of bytes such as 2000000000, 2GB or 1.5GiB; got {size!r}")
        number, unit, binary = match.groups()
        size = int(float(number) * (_BINARY if binary else _UNITS)[unit.upper()])
    if size < 1:
        raise ValueError(f"{name} must be above 0 bytes, got {size}")
    return size


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the live bytes of tensors created inside the context, on any device.

    Memory that a kernel allocates and frees internally is not counted.
    """

    counts_memory_only = True
    """Fused blocks stay fused under this mode, because their memory is what it measures."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._sizes: dict[int, tuple[weakref.ref[object], int]] = {}

    def now(self) -> int:
        """Return the live bytes."""
        self._sizes = {key: entry for key, entry in self._sizes.items() if entry[0]() is not None}
        return sum(size for _, size in self._sizes.values())

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operator and register its inputs and outputs."""
        kwargs = kwargs or {}
        # An input that no operator inside has returned belongs to the caller: registered with 0 bytes.
        self._note((args, kwargs), counts=False)
        out = func(*args, **kwargs)
        self._note(out, counts=True)
        self.peak = max(self.peak, self.now())
        return out

    def _note(self, values: object, *, counts: bool) -> None:
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            known = self._sizes.get(storage._cdata)
            if known is None or known[0]() is not storage:
                self._sizes[storage._cdata] = weakref.ref(storage), storage.nbytes() if counts else 0


def _tensors(value: object) -> Iterator[Tensor]:
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
    """The memory cost of a stack's layers for one size of stream, in bytes."""

    per_layer: int
    """Bytes that a stored layer saves for the backward."""
    stored: int
    """Peak of a full step over two stored layers."""
    recomputed: int
    """Peak of a full step over one recomputed layer that returns its state."""
    with_head: int
    """Peak of a full step over one recomputed layer fused with the head, so that no state is returned."""
    output: int
    """The head's output and its gradient; 0 without a head."""
    saved_per_run: int
    """Bytes that every run of recomputed layers saves."""
    stream: int
    """The stream itself, N x D."""

    def peak(self, num_stored: int, num_layers: int, segments: int) -> int:
        """Return the peak of a step with the last ``num_stored`` layers stored, the others recomputed in
        ``segments`` runs."""
        at_stored = self.stored + (num_stored - 2) * self.per_layer if num_stored else 0
        if num_stored == num_layers:
            return at_stored
        if not num_stored:
            # Either the last run's backward, with every other run's state saved, or that of an earlier run.
            earlier = self.recomputed + (segments - 2) * self.saved_per_run + self.output if segments > 1 else 0
            return max(self.with_head + (segments - 1) * self.saved_per_run, earlier)
        # The output and its gradient outlive the stored layers, and every run's last state outlives later layers.
        at_recomputed = self.recomputed + (segments - 1) * self.saved_per_run + 2 * self.stream
        return max(at_stored + segments * self.saved_per_run, at_recomputed)

    def need(self, num_stored: int, num_layers: int, segments: int) -> int:
        """Return the budget for `peak`: 1% more, because allocators round sizes up."""
        peak = self.peak(num_stored, num_layers, segments)
        return peak + peak // 100


class MemoryBudget:
    """Chooses the number of stored layers.

    Args:
        limit: bytes that a step over the stack may allocate: activations, states and their gradients. Parameters,
            their gradients and the caller's own tensors do not count.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.cost: LayerCost | None = None
        """The layer cost measured for the last key; None before the first measurement."""
        self._key: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[type[MemoryBudget], tuple[int]]:
        # A copy measures again: the cost refers to tensors that it does not have.
        return MemoryBudget, (self.limit,)

    def num_stored(
        self,
        num_layers: int,
        segments: Callable[[int], int],
        key: tuple[object, ...],
        measure: Callable[[], LayerCost],
    ) -> int:
        """Return the largest number of stored layers that fits.

        Args:
            num_layers: L.
            segments: maps a number of recomputed layers to its number of segments.
            key: everything that a layer's cost depends on; a new key triggers a new measurement.
            measure: measures the cost.
        Raises: ValueError: if not even recomputing every layer fits.
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
                f"memory_budget={self.limit:,} bytes is too little: with every layer recomputed this stack needs "
                f"{least:,} bytes for a stream of {cost.stream:,} bytes; give at least that, fewer segments, more "
                "groups, or fewer nodes per batch"
            )
        return found


def weak_key(value: object) -> tuple[int, object]:
    """Return a key that is equal for the same object only and does not keep the object alive."""
    try:
        return id(value), weakref.ref(value)
    except TypeError:
        return id(value), value


def layer_cost(
    run: LayerRun,
    x: Tensor,
    tensors: Sequence[Tensor],
    stored: Callable[..., Tensor],
    recomputed: Callable[[LayerRun, Tensor, Sequence[Tensor]], Tensor],
    saved_per_run: int,
    lost_bits: int = 0,
    with_head: Callable[[LayerRun, Tensor, Sequence[Tensor]], Tensor] | None = None,
) -> LayerCost:
    """Measure the cost of a layer on copies of its inputs, without changing the blocks' buffers.

    Args:
        run: two layers.
        x: [N, D] stream.
        tensors: context tensors.
        stored: ``(run, x, tensors, after_layer)`` with ordinary backpropagation.
        recomputed: ``(run, x, tensors)`` with reversible backpropagation.
        saved_per_run: bytes that a reversible run saves.
        lost_bits: the part of ``saved_per_run`` that a run of one layer does not have (see `integer_state`).
        with_head: like ``recomputed``, fused with the head; ``None``: there is no head.
    Cost: three layers forward and backward; a fourth with ``with_head``.
    """
    live_after: list[int] = []
    with LiveBytes() as live:
        _step(run, x, tensors, lambda x, t: stored(run, x, t, lambda _: live_after.append(live.now())))
    # Bytes that outlive the trial do not belong to the step: they are indices that the caller's objects cache.
    two = live.peak - live.now()
    one = replace(run, layers=run.layers[:1])
    stream = x.numel() * x.element_size()

    def peak_of_one(function: Callable[[LayerRun, Tensor, Sequence[Tensor]], Tensor]) -> tuple[int, int]:
        with LiveBytes() as live:
            result = _step(one, x, tensors, lambda x, t: function(one, x, t))
        # The trial's input is a copy; a stack whose first layers are recomputed makes none.
        return live.peak - live.now() - stream + lost_bits, 2 * result

    without, _ = peak_of_one(recomputed)
    fused, output = (without, 0) if with_head is None else peak_of_one(with_head)
    return LayerCost(
        per_layer=live_after[1] - live_after[0],
        stored=two,
        recomputed=without,
        with_head=fused,
        output=output,
        saved_per_run=saved_per_run,
        stream=stream,
    )


def _step(
    run: LayerRun, x: Tensor, tensors: Sequence[Tensor], forward: Callable[[Tensor, Sequence[Tensor]], Tensor]
) -> int:
    """Run one forward and backward without side effects; return the bytes of the output."""
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
