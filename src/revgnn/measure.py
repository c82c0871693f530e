"""What the memory of tensors and time mean in this project: the one definition, for CPU and CUDA.

Memory is bytes of torch's allocators; `resident` measures what the process takes. On CUDA the allocator counts itself.
On the CPU it does not, but it reports every allocation and every release to torch's profiler, temporaries inside an
operator included; their running sum is the same quantity. Storages are counted whole and once, however many views share
them.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _autograd
from torch._C._profiler import RecordScope, _ExtraFields_Allocation
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


def saved_bytes(fn: Callable[[], object]) -> int:
    """Count the bytes that autograd saves for the backward while ``fn`` runs, parameters apart.

    Args:
        fn: a forward pass. Storages that it saves count once, also where they belong to the caller (features, indices).
    Returns: bytes of all storages saved, but those of an ``nn.Parameter`` or of a view of one.
    Cost: keeps everything that was saved until ``fn`` returns. What a custom Function hides in attributes of its
        ``ctx`` is not seen here; `held_memory` sees it.
    """
    saved: list[Tensor] = []
    parameters: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter):
            parameters.add(_address(tensor))
        # Detached: an output that its own node keeps would otherwise hold itself alive.
        saved.append(tensor.detach())
        return saved[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = fn()
    kept = [tensor for tensor in saved if _address(tensor) not in parameters]
    del result
    return tensor_bytes(kept)


def peak_memory(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Count the most bytes that are allocated at once while ``fn`` runs, above those allocated before.

    Args:
        fn: anything; what it returns is dropped.
        device: where its tensors lie.
    Returns: bytes. On the CPU, releases of memory from before the start are unknown and count as nothing, so that
        the figure is an upper bound where ``fn`` makes any.
    Cost: ``fn`` once; on the CPU every allocation is recorded, which slows small operators about twofold.
    """
    with _record(torch.device(device)) as record:
        fn()
    return record.peak


def held_memory(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Count the bytes that stay allocated after ``fn`` returned, while its result is alive.

    For a forward pass this is everything that waits for the backward, however it is kept, the output included.

    Args and Cost: as `peak_memory`.
    """
    with _record(torch.device(device)) as record:
        result = fn()
    del result
    return record.held


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Count the bytes of the storages behind tensors, each once; of one in shards, those of the shard that is here."""
    return sum(_blocks(tensors).values())


def living_blocks() -> dict[int, int]:
    """Give address -> bytes of the storages of all tensors on the CPU that Python knows."""
    found = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    return _blocks(one for one in found if one.device.type == "cpu" and one.layout == torch.strided)


def median_seconds(
    fn: Callable[[], object],
    device: torch.device | str = "cpu",
    *,
    repeats: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure the wall-clock of ``fn``, the work that it left to the device included.

    Args:
        fn: what to run ``warmup + repeats`` times.
        device: where its tensors lie; CUDA is waited for before and after each run.
        repeats: runs that count, at least 1.
        warmup: runs before them that do not.
        clock: tells the seconds.
    Returns: the median in seconds.
    """
    where = torch.device(device)
    for _ in range(warmup):
        fn()
    seconds = []
    for _ in range(repeats):
        _wait(where)
        started = clock()
        fn()
        _wait(where)
        seconds.append(clock() - started)
    return statistics.median(seconds)


AllocationEvent = tuple[int, int]
"""Bytes that are allocated, and those among them that the phase leaves behind."""
FIRST_BATCH = "first batch"
"""The phase in which the first batch of an epoch is made, where another thread makes batches ahead."""


class StepMemory:
    """Peak bytes of training steps: called before the steps of an epoch and after them, it gives the peak in between.

    Weights, gradients, optimizer state and batch are all included, as in ``torch.cuda.max_memory_allocated``. On the
    CPU recording costs time, so only the first steps are recorded (the first alone would miss the optimizer's state),
    and their peak is given ever after.

    Args:
        device: where the steps run; only the CPU needs to be told what is held and what waits.
        held: tensors that are allocated before the first step and needed by it (weights, a full batch); gone through at
            the first call, for they may be others before.
        waiting: gives the most bytes of batches that another thread has made and that wait while a step is taken.
        detailed: whether an allocation trace is kept and the optimizer's update is recorded too; otherwise
            the notes of a step end where its update begins, which makes most of them at depth, and the update is
            counted as its state and `UPDATE_TEMPORARIES`.
    """

    RECORDED_STEPS = 4
    UPDATE_TEMPORARIES = 3
    """Times the largest parameter that an update takes beside the state: torch's optimizers, with weight decay."""

    def __init__(
        self,
        device: torch.device | str,
        held: Iterable[Tensor] = (),
        waiting: Callable[[], int] = lambda: 0,
        *,
        detailed: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self._holding, self._held, self._waiting = iter(held), 0, waiting
        self._temporaries, self._batches = 0, 0
        self._detailed = detailed
        self.allocation_trace: dict[str, list[AllocationEvent]] = {}
        """On the CPU: phase of a step (see `phase`) -> what is allocated after every change, where it is detailed."""
        self._peaks: dict[str, int] = {}
        self._phase = "step"
        self._steps, self._before = 0, 0
        self._trace: _CPUTrace | None = None
        self._alive: dict[int, int] = {}
        self._hooks: list[Any] = []

    @property
    def how(self) -> str:
        """How the figure comes about, for a report."""
        if self.device.type == "cuda":
            return "CUDA allocator, peak of the training steps"
        first, again = (self._before, f" and {self._steps} of another way") if self._before else (self._steps, "")
        return f"CPU allocator events of the first {first} training step(s){again}, plus weights and batch"

    def __call__(self) -> int:
        """Give the peak since the last call; the first call begins."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        # Empty after the first time.
        self._held += tensor_bytes(self._holding)
        if self._trace is not None:
            self.close()
        elif self._steps < self.RECORDED_STEPS:
            self._trace, self._batches = _CPUTrace(self._alive), 0
            if not self._detailed:
                self._hooks = [
                    register_optimizer_step_pre_hook(self._before_update),
                    register_optimizer_step_post_hook(self._after_update),
                ]
        peaks = dict(self._peaks)
        made = peaks.pop(FIRST_BATCH, 0)
        return max(made, self._held + self.beside, *(peak + self.beside for peak in peaks.values()))

    @property
    def beside(self) -> int:
        """Bytes that stand beside every moment of a step: batches that wait, and what making the next one takes."""
        return self._waiting() + self._temporaries

    @contextmanager
    def making(self) -> Iterator[None]:
        """Tell apart what making a batch takes in this thread, where a run leaves that to another thread.

        The first batch since recording began (an epoch's) is waited for: no step is taken meanwhile, and nothing waits;
        its moments count as they are. Any later one is made while a step is taken: what it takes, beyond itself, comes
        beside the step's own.
        """
        before = self._phase
        self.phase(FIRST_BATCH)
        try:
            yield
        finally:
            self.phase(before)

    def step(self) -> None:
        """Note that a step is over; after a few the CPU's are recorded no longer."""
        if self._trace is not None:
            self._steps += 1
            if self._steps == self.RECORDED_STEPS:
                self.close()

    def again(self) -> None:
        """Record some steps once more: those that come go another way than those that were recorded."""
        self.close()
        # What was released meanwhile nobody saw: of the blocks that were there, those of a tensor still are.
        there = living_blocks()
        self._alive = {address: size for address, size in self._alive.items() if there.get(address, 0) == size}
        self._before, self._steps = self._steps, 0

    def phase(self, name: str, left: Iterable[Tensor] = ()) -> None:
        """Begin a phase of a step: what is recorded from here on is of this phase. No backward may be under way.

        Args:
            name: of the phase.
            left: what the phase before leaves behind, to be told apart in its moments.
        """
        if self._trace is not None:
            self._stop(left)
            self._phase, self._trace = name, _CPUTrace(self._alive)

    def close(self) -> None:
        """Stop recording, also where a run ended in the middle of its first steps."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._stop()

    def _before_update(self, *_: Any) -> None:
        self._stop()

    def _after_update(self, optimizer: Optimizer, *_: Any) -> None:
        """Count what the update has left, as it was not recorded, and go on recording."""
        self._alive |= _blocks(
            value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        )
        parameters = _blocks(one for group in optimizer.param_groups for one in group["params"])
        peak = self._held + sum(self._alive.values()) + self.UPDATE_TEMPORARIES * max(parameters.values(), default=0)
        self._peaks["update"] = max(self._peaks.get("update", 0), peak)
        self._trace = _CPUTrace(self._alive)

    def _stop(self, left: Iterable[Tensor] = ()) -> None:
        """End a recording, and note what was found in it."""
        if self._trace is not None:
            now = self._held + sum(self._alive.values())
            (changes, self._alive), self._trace = self._trace.stop(), None
            if changes:
                self._note(changes, list(accumulate((change for _, change in changes), initial=now))[1:], left)

    def _note(self, changes: list[tuple[int, int]], sizes: list[int], left: Iterable[Tensor]) -> None:
        """Note a phase that is over, from (address, change) and the bytes that are allocated after each."""
        if self._phase == FIRST_BATCH:
            self._batches += 1
            if self._batches > 1:
                self._temporaries = max(self._temporaries, max(sizes) - sizes[-1])
                return
        self._peaks[self._phase] = max(self._peaks.get(self._phase, 0), *sizes)
        if self._detailed:
            addresses = {_address(tensor) for tensor in left}
            # Of several allocations at an address the last is the one that stays.
            born = {address: place for place, (address, change) in enumerate(changes) if change > 0}
            staying = (
                change if change > 0 and address in addresses and born[address] == place else 0
                for place, (address, change) in enumerate(changes)
            )
            self.allocation_trace.setdefault(self._phase, []).extend(zip(sizes, accumulate(staying), strict=True))


class _Record:
    """What one recording found, once it is over."""

    peak = 0
    held = 0


@contextmanager
def _record(device: torch.device) -> Iterator[_Record]:
    record = _Record()
    # Garbage of the caller's must not be collected, and count as released, in the middle.
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield record
        record.peak = torch.cuda.max_memory_allocated(device) - before
        record.held = torch.cuda.memory_allocated(device) - before
        return
    trace = _CPUTrace()
    try:
        yield record
    finally:
        changes, alive = trace.stop()
    record.peak = max(accumulate((change for _, change in changes), initial=0))
    record.held = sum(alive.values())


_recording = False
_NO_OPERATORS = {RecordScope.STATIC_RUNTIME_MODEL}
"""Operators that the profiler notes: a kind of which none runs here, so that it notes the allocator alone."""


class _CPUTrace:
    """A recording of the CPU allocator, from its making to `stop`; both outside of a backward.

    It leaves malloc as it is. While it records it takes 48 bytes for each allocation and each release; 2 KB in `stop`,
    which are given back: of a step they should be taken where its activations are gone.

    Args:
        alive: address -> size of blocks from an earlier recording, whose release counts too.
    """

    def __init__(self, alive: Mapping[int, int] | None = None) -> None:
        global _recording
        if _recording:
            # A second profile inside the first would end the process with a segmentation fault.
            raise RuntimeError("memory is being recorded already; measure one thing at a time")
        _recording = True
        self._alive = dict(alive or {})
        # Kineto writes two lines to standard error per recording unless told not to before its first.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        notes = profile(use_cpu=True, profile_memory=True)
        config = notes.config()  # type: ignore[no-untyped-call]
        _autograd._prepare_profiler(config, notes.kineto_activities)
        _autograd._enable_profiler(config, notes.kineto_activities, _NO_OPERATORS)  # type: ignore[call-arg]

    def stop(self) -> tuple[list[tuple[int, int]], dict[int, int]]:
        """End the recording.

        Returns: every change of the allocated bytes, in order, as address and size, above zero for an allocation and
            below for its release; and the blocks that are alive, address -> size. The release of a block that no
            recording saw allocated is left out: torch knows its size by chance only, from a recorded block at the same
            address.
        """
        global _recording
        events = _autograd._disable_profiler().experimental_event_tree()
        _recording = False
        changes = []
        for _, address, size in sorted(_allocations(events)):
            if size >= 0:
                if address in self._alive:
                    # Its release was not seen: another thread's, such as one that talks to other ranks.
                    changes.append((address, -self._alive.pop(address)))
                self._alive[address] = size
                changes.append((address, size))
            elif address in self._alive:
                changes.append((address, -self._alive.pop(address)))
        return changes, self._alive


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """Time, address and size of every allocation (above zero) and release (below)."""
    for event in events:
        fields = event.extra_fields
        if isinstance(fields, _ExtraFields_Allocation):
            yield event.start_time_ns, fields.ptr, fields.alloc_size


def _blocks(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> bytes of the storages behind tensors; of one in shards, of the shard that is here."""
    here: Iterable[Tensor] = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return {_address(tensor): tensor.untyped_storage().nbytes() for tensor in here}


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
