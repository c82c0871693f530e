"""What memory and time mean in this project: the one definition, for CPU and CUDA.

Memory is bytes of torch's allocators, not of the process: resident size includes the interpreter and fragmentation, and
moves when nothing was allocated. On CUDA the allocator counts itself. On the CPU it does not, but it reports every
allocation and every release to torch's profiler, temporaries inside an operator included; their running sum is the
same quantity. Storages are counted whole and once, however many views share them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch._C._profiler import _ExtraFields_Allocation
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile


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
    here: Iterable[Tensor] = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum({_address(tensor): tensor.untyped_storage().nbytes() for tensor in here}.values())


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


Moment = tuple[int, int]
"""Bytes that are allocated, and those among them that the phase leaves behind."""
FIRST_BATCH = "first batch"
"""The phase in which the first batch of an epoch is made, where another thread makes batches ahead."""
_MARK = 1_048_573
"""Bytes of the tensor that marks a phase in a recording: a prime, which no other tensor has."""


class StepMemory:
    """Peak bytes of training steps: called before the steps of an epoch and after them, it gives the peak in between.

    Weights, gradients, optimizer state and batch are all included, as in ``torch.cuda.max_memory_allocated``. On the
    CPU recording costs time, so only the first steps are recorded (the first alone would miss the optimizer's state),
    and their peak is given ever after.

    Only the CPU needs to be told what is held and what waits.

    Args:
        device: where the steps run.
        held: tensors that are allocated before the first step and needed by it (weights, a full batch); gone through at
            the first call, for they may be others before.
        waiting: gives the most bytes of batches that another thread has made and that wait while a step is taken.
    """

    RECORDED_STEPS = 4

    def __init__(
        self, device: torch.device | str, held: Iterable[Tensor] = (), waiting: Callable[[], int] = lambda: 0
    ) -> None:
        self.device = torch.device(device)
        self._holding, self._held, self._waiting = iter(held), 0, waiting
        self._temporaries, self._batches = 0, 0
        self.moments: dict[str, list[Moment]] = {}
        """On the CPU, where a step was cut into phases by `phase`: phase -> what is allocated after every change."""
        self._begun = self._phase = "step"
        self._marks: list[tuple[str, frozenset[int]]] = []
        self._steps, self._before = 0, 0
        self._trace: _CPUTrace | None = None
        self._alive: dict[int, int] = {}

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
        peaks = {phase: max(moments)[0] for phase, moments in self.moments.items()}
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
        before = self._begun
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
        tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
        there = {
            _address(tensor): tensor.untyped_storage().nbytes() for tensor in tensors if tensor.device.type == "cpu"
        }
        self._alive = {address: size for address, size in self._alive.items() if there.get(address, 0) == size}
        self._before, self._steps = self._steps, 0

    def phase(self, name: str, left: Iterable[Tensor] = ()) -> None:
        """Begin a phase of a step: what is recorded from here on is of this phase.

        Args:
            name: of the phase.
            left: what the phase before leaves behind, to be told apart in its moments.
        """
        if self._trace is not None:
            self._begun = name
            self._marks.append((name, frozenset(_address(tensor) for tensor in left)))
            # Seen among the allocations. A second recording may not begin here: an operator may be under way, and it
            # would end in another recording than it began in.
            torch.empty(_MARK, dtype=torch.uint8)

    def close(self) -> None:
        """Stop recording, also where a run ended in the middle of its first steps."""
        if self._trace is not None:
            now = self._held + sum(self._alive.values())
            changes, self._alive = self._trace.stop()
            self._trace = None
            since: list[tuple[int, int, int]] = []
            for address, change in changes:
                if change == _MARK:
                    name, left = self._marks.pop(0)
                    self._note(since, left)
                    self._phase, since = name, []
                if abs(change) != _MARK:
                    now += change
                    since.append((address, change, now))
            self._note(since, frozenset())

    def _note(self, changes: list[tuple[int, int, int]], left: frozenset[int]) -> None:
        """Note the moments of a phase that is over, from (address, change, bytes after it)."""
        if not changes:
            return
        if self._phase == FIRST_BATCH:
            self._batches += 1
            if self._batches > 1:
                highest = max(now for _, _, now in changes)
                self._temporaries = max(self._temporaries, highest - changes[-1][2])
                return
        # Of several allocations at an address the last is the one that stays.
        born = {address: place for place, (address, change, _) in enumerate(changes) if change > 0}
        staying = (
            change if change > 0 and address in left and born[address] == place else 0
            for place, (address, change, _) in enumerate(changes)
        )
        moments = zip((now for _, _, now in changes), accumulate(staying), strict=True)
        self.moments.setdefault(self._phase, []).extend(moments)


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
_MAPPED, _USUALLY_MAPPED = 2**18, 2**25
"""Bytes from which a block is mapped by itself while something is recorded; and otherwise, as far as glibc goes too."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _map_blocks_from(size: int) -> None:
    """Have glibc map blocks of at least so many bytes by themselves; another allocator, or one that was set, is let be.

    The profiler's notes come to lie between a step's blocks, which then cannot be used again for the next ones: a step
    of 112 layers with 83 MiB of tensors took 3.2 GB of the process, and 0.9 GB where its blocks are mapped.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt(_M_MMAP_THRESHOLD, size)
        # Setting the one stops glibc from moving the other, which would stay at 128 KiB.
        mallopt(_M_TRIM_THRESHOLD, 2 * _USUALLY_MAPPED)


class _CPUTrace:
    """A recording of the CPU allocator, from its making to `stop`.

    Args:
        alive: address -> size of blocks from an earlier recording, whose release counts too.
    """

    def __init__(self, alive: Mapping[int, int] | None = None) -> None:
        global _recording
        if _recording:
            # A second profile inside the first would end the process with a segmentation fault.
            raise RuntimeError("memory is being recorded already; measure one thing at a time")
        _recording = True
        _map_blocks_from(_MAPPED)
        self._alive = dict(alive or {})
        # Kineto writes two lines to standard error per recording unless told not to before its first.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._profile = profile(use_cpu=True, profile_memory=True)
        self._profile.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> tuple[list[tuple[int, int]], dict[int, int]]:
        """End the recording.

        Returns: every change of the allocated bytes, in order, as address and size, above zero for an allocation and
            below for its release; and the blocks that are alive, address -> size. The release of a block that no
            recording saw allocated is left out: torch knows its size by chance only, from a recorded block at the same
            address.
        """
        global _recording
        self._profile.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        _recording = False
        _map_blocks_from(_USUALLY_MAPPED)
        changes = []
        for _, address, size in sorted(self._events()):
            if size >= 0:
                if address in self._alive:
                    # Its release was not seen: another thread's, such as one that talks to other ranks.
                    changes.append((address, -self._alive.pop(address)))
                self._alive[address] = size
                changes.append((address, size))
            elif address in self._alive:
                changes.append((address, -self._alive.pop(address)))
        return changes, self._alive

    def _events(self) -> Iterator[tuple[int, int, int]]:
        """Time, address and size of every allocation (above zero) and release (below), in any order."""
        results = self._profile.kineto_results
        assert results is not None, "a profile that was entered has results"
        waiting = list(results.experimental_event_tree())
        while waiting:
            event = waiting.pop()
            waiting.extend(event.children)
            fields = event.extra_fields
            if isinstance(fields, _ExtraFields_Allocation):
                yield event.start_time_ns, fields.ptr, fields.alloc_size


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
