"""Reversible layers called one after another share one tape, so that a chain of any length keeps one state.

Every call is an autograd Function of its own, as a list of modules needs it. What each keeps is not a tensor but a
*lease* on a tape: the calls of the chain in order, and one moving state. The last output of the chain is that state
until it is consumed by the next call; then the next output takes its place, and the earlier ones can be rebuilt from it
by inverse evaluations. A backward through layer k takes the state to k, leaves it at k-1, and so finds it where the
next Function needs it: two evaluations per block and step in all.

It is sound because a state is always obtainable, and nothing of the caller's is ever freed or written to:

- Only the tape's last output is followed, only by the tensor that was returned and only while it is unchanged. Anything
  else (a second consumer, a view, a changed tensor) starts a tape of its own, with a state of its own.
- If a later layer never takes part in a backward, or its graph is dropped, the tape still has its call and its state.
- A state can be walked to from either side, forwards or backwards, from the nearest one known: the moving one, the last
  output, or any output that the caller still holds, unchanged. So ``retain_graph`` and partial backwards work.
- A lease lives where autograd keeps saved tensors. When autograd releases them (after a backward without
  ``retain_graph``, or with the graph), the lease goes, and with the last lease the tape. There is no reference cycle.
- If a parameter, argument, buffer or output on every way to a state was changed in place, that is an error.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import TensorWeakRef

from ..resident import trim
from ..stack.gradients import anchor_of, refusing_second
from ..stack.recompute import version_of
from ..stack.state import FloatState
from .evaluation import LayerCall


def call_reversibly(call: LayerCall, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Evaluate a layer so that its backward rebuilds its input from its output.

    Args:
        call: the layer with all arguments but x.
        x: the stream; where it is the unchanged output of a layer called before, both share a tape.
        tensors: those among the call's arguments, in its order, with their past.
    Returns: the layer's output.
    Raises: RuntimeError: in the backward, if what is needed was changed in place, or on a second derivative.
    Cost: holds one state per chain, at any length; the backward evaluates each block once.
    """
    lease = _Lease(x.new_empty(0))

    def pack(tensor: Tensor) -> Any:
        # Others are saved by the blocks, if one differentiates something of its own while it is evaluated.
        return lease if tensor is lease.token else tensor

    with saved_tensors_hooks(pack, _unpack):
        y: Tensor = _Layer.apply(call, lease, x, anchor_of(x), *tensors, *call.parameters)  # type: ignore[no-untyped-call]
    before = _lease_that_ends_in(x)
    if before is None or not before.tape.extend(before, call, lease, y):
        _Tape().extend(None, call, lease, y)
    return y


def _unpack(packed: Any) -> Any:
    return packed.token if isinstance(packed, _Lease) else packed


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: LayerCall, lease: _Lease, x: Tensor, *inputs: Tensor) -> Tensor:
        # The lease is kept by what is saved alone, so that it ends when autograd lets go of saved tensors.
        ctx.lease = weakref.ref(lease)
        ctx.save_for_backward(lease.token)
        ctx.anchors = inputs
        call.needed = ctx.needs_input_grad[4:]
        state = call.cut(x)
        call.first(state)
        return call.join(state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Read for torch's own error on a second backward without retain_graph.
        _ = ctx.saved_tensors
        lease: _Lease = ctx.lease()
        with torch.no_grad(), lease.tape.lock:
            call = lease.tape.calls[lease.position - 1]
            state = lease.tape.take(lease)
            grads = call.cut(grad)
            sums = call.reverse(state, grads.parts)
            lease.tape.put(lease.position - 1, call, state)
            found = [call.join(grads) if ctx.needs_input_grad[2] else None, *sums]
        if torch.is_grad_enabled():
            # The caller asked for create_graph.
            found = refusing_second(found, [grad, *ctx.anchors], "a reversible layer", _REMEDY)
        return None, None, found[0], None, *found[1:]


_REMEDY = "set disable=True on it to train with second derivatives, which changes neither weights nor values"


_BETWEEN_TRIMS = 2**23
"""Bytes of streams that go through the layers of a chain until free memory is returned."""


class _Kept:
    """A tensor that others may hold and write to, and whether they did."""

    def __init__(self, tensor: Tensor) -> None:
        # Detached, so that it holds no graph; the count of writes is shared all the same.
        self.tensor = tensor.detach()
        self._version = version_of(tensor)

    def is_unchanged(self) -> bool:
        return version_of(self.tensor) == self._version

    def is_shared_by(self, tensor: Tensor) -> bool:
        """Whether a tensor has the same memory still, and nobody wrote to it."""
        return self.is_unchanged() and tensor.data_ptr() == self.tensor.data_ptr()


class _Lease:
    """One layer's claim on its chain's tape."""

    tape: _Tape
    position: int

    def __init__(self, token: Tensor) -> None:
        self.token = token
        """Empty; stands for what autograd saves."""
        self.last: _Kept | None = None
        """The output, while it is the chain's last."""
        self._output: TensorWeakRef | None = None
        self._version: int | None = None

    def begin(self, tape: _Tape, position: int, y: Tensor) -> None:
        """Stand for output ``y``, after ``position`` calls of a tape."""
        self.tape, self.position, self.last = tape, position, _Kept(y)
        # The caller may go on holding it, and then nothing has to be rebuilt.
        self._output, self._version = TensorWeakRef(y), version_of(y)

    def output(self) -> Tensor | None:
        """The output, if someone still holds it as it was."""
        if self.last is not None and self.last.is_unchanged():
            return self.last.tensor
        held = self._output() if self._output is not None else None
        return held.detach() if held is not None and version_of(held) == self._version else None


class _Tape:
    """The calls of a chain, and one state of it."""

    def __init__(self) -> None:
        self.calls: list[LayerCall] = []
        self.lock = threading.RLock()
        self._leases: list[weakref.ref[_Lease]] = []
        self._position, self._passed = 0, 0
        self._state: _Kept | tuple[LayerCall, FloatState] | None = None
        """After ``_position`` calls: an output that is not the tape's own, or a state that is, cut as for a call."""

    def extend(self, before: _Lease | None, call: LayerCall, lease: _Lease, y: Tensor) -> bool:
        """Add a call and its output, which replaces the state; False where another call has taken the last output."""
        with self.lock:
            if before is not None:
                if before.last is None:
                    return False
                before.last = None
            self.calls.append(call)
            self._leases.append(weakref.ref(lease))
            lease.begin(self, len(self.calls), y)
            self._position, self._state = lease.position, lease.last
            self._pass(y)
            return True

    def take(self, lease: _Lease) -> FloatState:
        """Hand over the state at a lease's position; the tape then has none until `put`."""
        call, position = self.calls[lease.position - 1], lease.position
        # Before the large temporaries of the first one that is taken.
        for before in self.calls[:position]:
            before.prepare()
        if not call.is_unchanged():
            raise RuntimeError(_changed(position, len(self.calls), "a parameter, argument or buffer of it"))
        held = lease.output()
        if held is not None:
            self._state = None
            return call.cut(held)
        if isinstance(self._state, tuple) and self._position == position:
            # Where the layer after this one left it.
            state, self._state = self._state, None
            return self._cut_for(call, state)[1]
        return self._walk(position)

    def _walk(self, position: int) -> FloatState:
        """Rebuild the state at a position from the nearest one that is known."""
        start, state = self._nearest(position)
        self._state = None
        for k in range(start, position):
            state = self._cut_for(self.calls[k], state)
            self.calls[k].again(state[1])
        for k in reversed(range(position, start)):
            state = self._cut_for(self.calls[k], state)
            self.calls[k].inverse(state[1])
        return self._cut_for(self.calls[position - 1], state)[1]

    def put(self, position: int, call: LayerCall, state: FloatState) -> None:
        """Give the tape a state of its own."""
        self._position, self._state = position, (call, state)
        self._pass(state.whole)

    def _pass(self, stream: Tensor) -> None:
        """Note that a layer is done, and after some of them let malloc return its free memory.

        What autograd keeps of each call lies between the call's temporaries, and comes for as long as the chain lives.
        Of the heap's holes between such small things, many are too small for an aligned temporary by a few bytes, and
        would stay resident unused.
        """
        self._passed += stream.nbytes if stream.device.type == "cpu" else 0
        if self._passed >= _BETWEEN_TRIMS:
            self._passed = 0
            trim()

    def _nearest(self, position: int) -> tuple[int, tuple[LayerCall, FloatState]]:
        """The known state with the fewest calls between it and the one wanted, none of them changed since."""
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
                return start, (call, call.cut(found))
        raise RuntimeError(_changed(position, len(self.calls), "its output and something on every way to it"))

    @staticmethod
    def _cut_for(call: LayerCall, state: tuple[LayerCall, FloatState]) -> tuple[LayerCall, FloatState]:
        """A state cut into the groups of another call."""
        before, parts = state
        if (before.dim, before.coupling.num_groups) == (call.dim, call.coupling.num_groups):
            return call, parts
        return call, call.cut(before.join(parts))


def _lease_that_ends_in(x: Tensor) -> _Lease | None:
    """The lease of a tape's last output, where that is this very tensor, unchanged."""
    reference = getattr(x.grad_fn, "lease", None)
    lease = reference() if isinstance(reference, weakref.ref) else None
    if not isinstance(lease, _Lease) or lease.last is None or not lease.last.is_shared_by(x):
        return None
    return lease


def _changed(position: int, length: int, what: str) -> str:
    return (
        f"the input of reversible layer {position} of a chain of {length} cannot be rebuilt: {what} was changed in "
        "place after the forward (or a backward failed halfway); clone it before it is changed, or set disable=True"
    )
