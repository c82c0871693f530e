"""Measure the memory of tensors and the time of steps, with one definition for CPU and CUDA.

Memory is bytes of torch's allocators; `resident` measures that of the process. On CUDA the allocator counts itself. On
the CPU torch's profiler receives every allocation and every release, temporaries inside an operator included; their
running sum is the same quantity. Every storage counts once and in full, however many views share it.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch._C import _autograd
from torch._C._profiler import RecordScope, _ExtraFields_Allocation, _ProfilerEvent
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle


def saved_bytes(fn: Callable[[], object]) -> int:
    """Count the bytes that autograd saves for the backward while ``fn`` runs, without parameters.

    Args:
        fn: a forward pass. Each saved storage counts once, also if it belongs to the caller (features, indices).
    Returns: bytes of all saved storages, except those of an ``nn.Parameter`` or of a view of one.
    Cost: keeps all saved tensors until ``fn`` returns. Attributes of a custom Function's ``ctx`` are not counted;
        `held_memory` counts them.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> weight = torch.nn.Parameter(torch.randn(100))
        >>> revgnn.saved_bytes(lambda: weight.exp())  # its result
        400
    """
    saved: list[Tensor] = []
    parameters: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter):
            parameters.add(_address(tensor))
        # Detached, because an output saved by its own node would otherwise keep itself alive.
        saved.append(tensor.detach())
        return saved[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = fn()
    kept = [tensor for tensor in saved if _address(tensor) not in parameters]
    del result
    return tensor_bytes(kept)


def peak_memory(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Measure the peak of allocated bytes while ``fn`` runs, above those allocated before.

    Args:
        fn: any function; its result is dropped.
        device: the device of its tensors.
    Returns: bytes. On the CPU, releases of earlier allocations are not counted, so that the figure is an upper bound if
        ``fn`` releases any.
    Cost: ``fn`` once; on the CPU every allocation is recorded, which slows small operators about twofold.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> revgnn.peak_memory(lambda: torch.ones(1000) + 1) // 1000  # two tensors of 4,000 bytes
        8
    """
    with _record(torch.device(device)) as record:
        fn()
    return record.peak


def held_memory(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Measure the bytes that remain allocated after ``fn`` returned, while its result is alive.

    For a forward pass this is everything kept for the backward, by any means, and the output.

    Args and Cost: as `peak_memory`.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> weight = torch.randn(100, 100, requires_grad=True)
        >>> revgnn.held_memory(lambda: (weight @ weight).exp())  # the result, which exp keeps too
        40000
    """
    with _record(torch.device(device)) as record:
        result = fn()
    del result
    return record.held


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Count the bytes of the storages of tensors, each once; of a sharded tensor the local shard."""
    return sum(_blocks(tensors).values())


def living_blocks() -> dict[int, int]:
    """Return address -> bytes of the storages of all CPU tensors that Python's garbage collector knows."""
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
    """Measure the wall-clock time of ``fn``, asynchronous work on the device included.

    Args:
        fn: the function; runs ``warmup + repeats`` times.
        device: the device of its tensors; CUDA is synchronised before and after each run.
        repeats: number of timed runs, at least 1.
        warmup: number of untimed runs before them.
        clock: returns the time in seconds.
    Returns: the median in seconds.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> x = torch.randn(50, 50)
        >>> revgnn.median_seconds(lambda: x @ x, repeats=3) > 0
        True
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
"""Allocated bytes after an event, and those among them that the phase leaves allocated."""
FIRST_BATCH = "first batch"
"""The phase that makes the first batch of an epoch, if another thread prefetches batches."""


class StepMemory:
    """The peak bytes of training steps: call it before and after the steps of an epoch; it returns the peak between.

    Weights, gradients, optimizer state and batch are included, as in ``torch.cuda.max_memory_allocated``. On the CPU
    recording costs time, so that only the first steps are recorded (the first one alone would miss the optimizer's
    state); their peak is returned for later epochs too.

    Args:
        device: the device of the steps; the following arguments matter on the CPU only.
        held: tensors that are allocated before the first step and used by it (weights, a full batch); iterated at the
            first call, because they may change before.
        waiting: returns the peak bytes of batches that another thread has prefetched.
        detailed: whether to keep an allocation trace and to record the optimizer's update too; otherwise recording
            stops before the update, which makes most of the events at depth, and the update counts as its state and
            `UPDATE_TEMPORARIES`.
    """

    RECORDED_STEPS = 4
    UPDATE_TEMPORARIES = 3
    """Temporaries of an update, in multiples of the largest parameter: torch's optimizers, with weight decay."""

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
        """On the CPU with ``detailed``: phase of a step (see `phase`) -> its allocation events."""
        self._peaks: dict[str, int] = {}
        self._phase = "step"
        self._steps, self._before = 0, 0
        self._trace: _CPUTrace | None = None
        self._alive: dict[int, int] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def how(self) -> str:
        """How the figure was measured, for a report."""
        if self.device.type == "cuda":
            return "CUDA allocator, peak of the training steps"
        first, again = (self._before, f" and {self._steps} of another way") if self._before else (self._steps, "")
        return f"CPU allocator events of the first {first} training step(s){again}, plus weights and batch"

    def __call__(self) -> int:
        """Return the peak since the last call; the first call starts recording."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        # The iterator is exhausted after the first call.
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
        """Bytes allocated in parallel to a step: prefetched batches, and temporaries of making the next one."""
        return self._waiting() + self._temporaries

    @contextmanager
    def making(self) -> Iterator[None]:
        """Record the making of a batch in this thread as if another thread made it ahead.

        No step runs while the first batch is made, so its events count as they are. A later batch is made during a
        step, so its temporaries add to those of the step.
        """
        before = self._phase
        self.phase(FIRST_BATCH)
        try:
            yield
        finally:
            self.phase(before)

    def step(self) -> None:
        """Count a finished step; stop recording on the CPU after `RECORDED_STEPS`."""
        if self._trace is not None:
            self._steps += 1
            if self._steps == self.RECORDED_STEPS:
                self.close()

    def again(self) -> None:
        """Record the next steps again, because the model will take another path from here on."""
        self.close()
        # Releases since the recording are unknown: of the known blocks, only those of a tensor are still alive.
        existing = living_blocks()
        self._alive = {address: size for address, size in self._alive.items() if existing.get(address, 0) == size}
        self._before, self._steps = self._steps, 0

    def phase(self, name: str, left: Iterable[Tensor] = ()) -> None:
        """Begin a phase of a step, to which the following events belong; not during a backward.

        Args:
            name: name of the phase.
            left: tensors that the phase before leaves allocated, marked in its events.
        """
        if self._trace is not None:
            self._stop(left)
            self._phase, self._trace = name, _CPUTrace(self._alive)

    def close(self) -> None:
        """Stop recording, also after a run that ended within its first steps."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._stop()

    def _before_update(self, *_: object) -> None:
        self._stop()

    def _after_update(self, optimizer: Optimizer, *_: object) -> None:
        """Add the state that the unrecorded update has left, and continue recording."""
        self._alive |= _blocks(
            value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        )
        parameters = _blocks(one for group in optimizer.param_groups for one in group["params"])
        peak = self._held + sum(self._alive.values()) + self.UPDATE_TEMPORARIES * max(parameters.values(), default=0)
        self._peaks["update"] = max(self._peaks.get("update", 0), peak)
        self._trace = _CPUTrace(self._alive)

    def _stop(self, left: Iterable[Tensor] = ()) -> None:
        """End a recording and evaluate it."""
        if self._trace is not None:
            now = self._held + sum(self._alive.values())
            (changes, self._alive), self._trace = self._trace.stop(), None
            if changes:
                self._evaluate(changes, list(accumulate((change for _, change in changes), initial=now))[1:], left)

    def _evaluate(self, changes: list[tuple[int, int]], sizes: list[int], left: Iterable[Tensor]) -> None:
        """Evaluate a finished phase from its (address, change) events and the allocated bytes after each."""
        if self._phase == FIRST_BATCH:
            self._batches += 1
            if self._batches > 1:
                self._temporaries = max(self._temporaries, max(sizes) - sizes[-1])
                return
        self._peaks[self._phase] = max(self._peaks.get(self._phase, 0), *sizes)
        if self._detailed:
            addresses = {_address(tensor) for tensor in left}
            # Of several allocations at an address only the last one remains.
            last = {address: place for place, (address, change) in enumerate(changes) if change > 0}
            remaining = (
                change if change > 0 and address in addresses and last[address] == place else 0
                for place, (address, change) in enumerate(changes)
            )
            self.allocation_trace.setdefault(self._phase, []).extend(zip(sizes, accumulate(remaining), strict=True))


class _Record:
    """The result of a recording, in bytes."""

    peak = 0
    held = 0


@contextmanager
def _record(device: torch.device) -> Iterator[_Record]:
    record = _Record()
    # Collect the caller's garbage now: collected during the recording, it would count as released.
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
"""The operators that the profiler records: a scope without operators, so that it records allocations only."""


class _CPUTrace:
    """A recording of the CPU allocator from construction to `stop`, both outside of a backward.

    It does not change malloc. It takes 48 bytes per allocation and release while it records, and 2 KB per event in
    `stop`, temporarily: stop a recording of a step when its activations are freed.

    Args:
        alive: address -> size of blocks of an earlier recording, whose releases count too.
    """

    def __init__(self, alive: Mapping[int, int] | None = None) -> None:
        global _recording
        if _recording:
            # Nested profiles crash the process with a segmentation fault.
            raise RuntimeError("memory is being recorded already; measure one thing at a time")
        _recording = True
        self._alive = dict(alive or {})
        # Kineto prints two lines to standard error per recording, unless this is set before the first.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        notes = profile(use_cpu=True, profile_memory=True)
        config = notes.config()  # type: ignore[no-untyped-call]
        _autograd._prepare_profiler(config, notes.kineto_activities)
        _autograd._enable_profiler(config, notes.kineto_activities, _NO_OPERATORS)  # type: ignore[call-arg]

    def stop(self) -> tuple[list[tuple[int, int]], dict[int, int]]:
        """End the recording.

        Returns: every change of the allocated bytes in order, as address and size, positive for an allocation and
            negative for a release; and the live blocks, address -> size. The release of a block whose allocation was
            not recorded is omitted, because torch does not know its size reliably.
        """
        global _recording
        events = _autograd._disable_profiler().experimental_event_tree()
        _recording = False
        changes = []
        for _, address, size in sorted(_allocations(events)):
            if size >= 0:
                if address in self._alive:
                    # Its release was not recorded: it was in another thread, such as a communication thread.
                    changes.append((address, -self._alive.pop(address)))
                self._alive[address] = size
                changes.append((address, size))
            elif address in self._alive:
                changes.append((address, -self._alive.pop(address)))
        return changes, self._alive


def _allocations(events: Iterable[_ProfilerEvent]) -> Iterator[tuple[int, int, int]]:
    """Yield time, address and size of every allocation (positive) and release (negative)."""
    for event in events:
        fields = event.extra_fields
        if isinstance(fields, _ExtraFields_Allocation):
            yield event.start_time_ns, fields.ptr, fields.alloc_size


def _blocks(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Return address -> bytes of the storages of tensors; of a sharded tensor the local shard."""
    local: Iterable[Tensor] = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return {_address(tensor): tensor.untyped_storage().nbytes() for tensor in local}


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
