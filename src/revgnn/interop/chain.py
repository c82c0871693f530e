"""Share one saved state among consecutive reversible layers, so that a chain of any length keeps N x D.

Every call is an autograd Function of its own, because the layers are separate modules. Instead of a tensor, each
Function saves a *lease* on a tape: the chain's calls in order, and one current state. The chain's last output is that
state until the next call consumes it; then the next output replaces it, and earlier outputs can be reconstructed from
it by inverse evaluations. The backward of layer k moves the state from k to k-1, where the next Function needs it: two
evaluations per block and step.

It is sound because a state can always be obtained, and no tensor of the caller's is freed or written to:

- A call extends a tape only if its input is the tape's last output itself, unchanged. Any other input (a second
  consumer, a view, a changed tensor) starts a new tape with its own state.
- If a later layer takes part in no backward, or its graph is dropped, the tape still has its call and its state.
- A state can be reached forwards or backwards from the nearest known one: the current state, the last output, or any
  output that the caller still holds unchanged. So ``retain_graph`` and partial backwards work.
- Autograd owns a lease as a saved tensor. When autograd releases it (after a backward without ``retain_graph``, or with
  the graph), the lease dies, and with the last lease the tape. There is no reference cycle.
- If a parameter, argument, buffer or output on every path to a state was changed in place, the backward raises.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import TensorWeakRef

from ..malloc import HeapLevel
from ..stack.conditions import version_of
from ..stack.gradients import FunctionContext, anchor_of, check_single, outside_inference, refusing_second
from ..stack.state import FloatState
from .evaluation import LayerCall


def call_reversibly(call: LayerCall, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Evaluate a layer; its backward reconstructs the input from the output.

    Args:
        call: the layer with all arguments but x.
        x: the stream; if it is the unchanged output of an earlier layer, both share a tape.
        tensors: the tensors among the call's arguments, in its order, with their graphs.
    Returns: the layer's output.
    Raises: RuntimeError: in the backward, if a required tensor was changed in place, or on a second derivative.
    Cost: one saved state per chain of any length; the backward evaluates each block once.
    """
    before = _lease_of(x)
    # In a chain the empty tensors are of the first layer: each would be one more small thing that lives on.
    anchor, token = (anchor_of(x), x.new_empty(0)) if before is None else (None, before.token.detach())
    inputs = (anchor, *tensors, *call.parameters)
    lease = _Lease(token, _Anchors(None if before is None else before.anchors, inputs))

    def pack(tensor: Tensor) -> Tensor | _Lease:
        return lease if tensor is lease.token else tensor

    # Evaluated before, because these hooks would come between the blocks and other hooks or transforms inside of them.
    call.advance(x)
    with saved_tensors_hooks(pack, _unpack):
        y: Tensor = _Layer.apply(call, lease, x, *inputs)  # type: ignore[no-untyped-call]
    if before is None or not before.tape.extend(before, call, lease, y):
        _Tape().extend(None, call, lease, y)
    return y


class _Anchors(NamedTuple):
    """Tensors with graphs that a layer's output depends on, and those of the layers before it in the chain."""

    before: _Anchors | None
    inputs: Sequence[Tensor | None]

    def all(self) -> Iterator[Tensor | None]:
        """Yield the tensors of the chain up to this layer."""
        anchors: _Anchors | None = self
        while anchors is not None:
            yield from anchors.inputs
            anchors = anchors.before


def _unpack(packed: Tensor | _Lease) -> Tensor:
    return packed.token if isinstance(packed, _Lease) else packed


class _LayerContext(FunctionContext):
    lease: weakref.ref[_Lease]
    anchors: _Anchors


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _LayerContext, call: LayerCall, lease: _Lease, x: Tensor, *inputs: Tensor | None) -> Tensor:
        # Only the saved token owns the lease, so that the lease dies when autograd releases saved tensors.
        ctx.lease = weakref.ref(lease)
        ctx.save_for_backward(lease.token)
        ctx.anchors = lease.anchors
        call.needed = ctx.needs_input_grad[4:]
        return call.take_output()

    @staticmethod
    def backward(ctx: _LayerContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_single(grad, "a reversible layer", "set disable=True on it")
        # Reading it raises torch's own error on a second backward without retain_graph.
        _ = ctx.saved_tensors
        lease = ctx.lease()
        assert lease is not None, "autograd still holds the token"
        with outside_inference(), torch.no_grad(), lease.tape.lock:
            call = lease.tape.calls[lease.position - 1]
            state = lease.tape.take(lease)
            grads = call.open(grad)
            sums = call.reverse(state, grads.parts)
            lease.tape.put(lease.position - 1, call, state)
            found = [call.join(grads) if ctx.needs_input_grad[2] else None, *sums]
        if torch.is_grad_enabled():
            # Grad mode in a backward means create_graph.
            found = refusing_second(found, [grad, *ctx.anchors.all()], "a reversible layer", _REMEDY)
        return None, None, found[0], None, *found[1:]


_REMEDY = "set disable=True on it to train with second derivatives, which changes neither weights nor values"


class _Output:
    """A layer's output, which the caller may change, with its version counter."""

    def __init__(self, tensor: Tensor) -> None:
        # Detached, so that it holds no graph; it shares the version counter.
        self.tensor = tensor.detach()
        self._version = version_of(tensor)

    def is_unchanged(self) -> bool:
        return version_of(self.tensor) == self._version

    def is_shared_by(self, tensor: Tensor) -> bool:
        """Whether a tensor still has the same memory, unchanged."""
        return self.is_unchanged() and _place_of(tensor) == _place_of(self.tensor)


def _place_of(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor begins, also one without values."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())


class _Lease:
    """A layer's reference to its chain's tape."""

    tape: _Tape
    position: int

    def __init__(self, token: Tensor, anchors: _Anchors) -> None:
        self.token = token
        """Empty tensor that autograd saves for the layer."""
        self.anchors = anchors
        self.last: _Output | None = None
        """The layer's output, while it is the chain's last."""
        self._output: TensorWeakRef | None = None
        self._version: int | None = None

    def begin(self, tape: _Tape, position: int, y: Tensor) -> None:
        """Refer to output ``y``, after ``position`` calls of a tape."""
        self.tape, self.position, self.last = tape, position, _Output(y)
        # If the caller still holds it, it need not be reconstructed.
        self._output, self._version = TensorWeakRef(y), version_of(y)

    def output(self) -> Tensor | None:
        """Return the output if it still exists unchanged, else None."""
        if self.last is not None and self.last.is_unchanged():
            return self.last.tensor
        held = self._output() if self._output is not None else None
        return held.detach() if held is not None and version_of(held) == self._version else None


class _Tape:
    """The calls of a chain in order, and one state."""

    def __init__(self) -> None:
        self.calls: list[LayerCall] = []
        self.lock = threading.RLock()
        self._leases: list[weakref.ref[_Lease]] = []
        self._position = 0
        self._levels: dict[str, HeapLevel] = {}
        self._state: _Output | tuple[LayerCall, FloatState] | None = None
        """After ``_position`` calls: an output that is not the tape's own, or a state that is, cut as for a call."""

    def extend(self, before: _Lease | None, call: LayerCall, lease: _Lease, y: Tensor) -> bool:
        """Append a call; its output replaces the state. Returns False if another call has consumed the last output."""
        with self.lock:
            if before is not None:
                if before.last is None:
                    return False
                before.last = None
            self.calls.append(call)
            self._leases.append(weakref.ref(lease))
            lease.begin(self, len(self.calls), y)
            self._position, self._state = lease.position, lease.last
            self._check_heap("forward", y)
            return True

    def take(self, lease: _Lease) -> FloatState:
        """Move the state at a lease's position to the caller; the tape has none until `put`."""
        call, position = self.calls[lease.position - 1], lease.position
        # Allocate all gradients before the first backward's large temporaries.
        with call.cached.withheld():
            for before in self.calls[:position]:
                before.prepare()
        if not call.is_unchanged():
            raise RuntimeError(_changed(position, len(self.calls), "a parameter, argument or buffer of it"))
        held = lease.output()
        if held is not None:
            self._state = None
            return call.open(held)
        if isinstance(self._state, tuple) and self._position == position:
            # The backward of the next layer has left the state here.
            state, self._state = self._state, None
            return self._layout_of(call, state)[1]
        return self._reconstruct(position)

    def _reconstruct(self, position: int) -> FloatState:
        """Reconstruct the state at a position from the nearest known one."""
        start, state = self._nearest(position)
        self._state = None
        for k in range(start, position):
            state = self._layout_of(self.calls[k], state)
            self.calls[k].again(state[1])
        for k in reversed(range(position, start)):
            state = self._layout_of(self.calls[k], state)
            self.calls[k].inverse(state[1])
        return self._layout_of(self.calls[position - 1], state)[1]

    def put(self, position: int, call: LayerCall, state: FloatState) -> None:
        """Set the tape's own state."""
        self._position, self._state = position, (call, state)
        self._check_heap("backward", state.stream)

    def _check_heap(self, direction: str, stream: Tensor) -> None:
        level = self._levels.get(direction) or self._levels.setdefault(direction, HeapLevel(stream))
        level.check()

    def _nearest(self, position: int) -> tuple[int, tuple[LayerCall, FloatState]]:
        """Return the known state with the fewest calls, all unchanged, between it and a position."""
        known: dict[int, Tensor | tuple[LayerCall, FloatState]] = {}
        for reference in self._leases:
            lease = reference()
            if lease is not None and (output := lease.output()) is not None:
                known[lease.position] = output
        if isinstance(self._state, tuple):
            known[self._position] = self._state
        elif self._state is not None and self._state.is_unchanged():
            known[self._position] = self._state.tensor
        for start in sorted(known, key=lambda p: abs(p - position)):
            between = self.calls[min(start, position) : max(start, position)]
            if all(call.is_unchanged() for call in between):
                found = known[start]
                if isinstance(found, tuple):
                    return start, found
                call = self.calls[start - 1]
                return start, (call, call.open(found))
        raise RuntimeError(_changed(position, len(self.calls), "its output and something on every path to it"))

    @staticmethod
    def _layout_of(call: LayerCall, state: tuple[LayerCall, FloatState]) -> tuple[LayerCall, FloatState]:
        """Convert a state to the split dimension and groups of another call."""
        before, parts = state
        if (before.dim, before.coupling.num_groups) == (call.dim, call.coupling.num_groups):
            return call, parts
        return call, call.open(before.join(parts))


def _lease_of(x: Tensor) -> _Lease | None:
    """Return the lease whose last output is this tensor, unchanged, else None."""
    reference = getattr(x.grad_fn, "lease", None)
    lease = reference() if isinstance(reference, weakref.ref) else None
    if not isinstance(lease, _Lease) or lease.last is None or not lease.last.is_shared_by(x):
        return None
    return lease


def _changed(position: int, length: int, what: str) -> str:
    return (
        f"the input of reversible layer {position} of a chain of {length} cannot be reconstructed: {what} was changed "
        "in place after the forward (or a backward failed halfway); clone it before changing it, or set disable=True"
    )
