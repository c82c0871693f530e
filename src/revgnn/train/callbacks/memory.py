"""Records the peak memory of training steps, and records again when the model enters another phase.

A recording sees the allocations of its own thread only. While steps are recorded, this thread makes the batches that
the prefetch thread otherwise makes; the recording marks their allocations, because they otherwise overlap other steps.
"""

from __future__ import annotations

from itertools import chain

from torch import nn

from ...data.batch import Batches, Footprint
from ...measure import StepMemory
from .callback import Callback, TrainState


class MemoryRecorder(Callback):
    """Adds the steps' peak memory to every row of the curve, if the accelerator reports its memory.

    Examples:
        >>> from revgnn.train import MemoryRecorder
        >>> callbacks = [MemoryRecorder()]  # for ``fit``; ``run_experiment`` brings its own
    """

    def __init__(self) -> None:
        self.how: str | None = None
        """How the memory was measured, known after training; ``None``: not measured."""
        self._memory: StepMemory | None = None
        self._phase: str | None = None

    def on_start(self, run: TrainState) -> None:
        """Reset the recorder."""
        kind = run.ranks.accelerator.device.type
        self._memory, self._phase = step_memory(kind, run.model, run.batches, run.config.accumulate), None

    def on_epoch_start(self, run: TrainState) -> None:
        """Begin an epoch's recording; on the CPU, record the first steps of each phase."""
        if self._memory is None:
            return
        if self._phase is not None and run.phase != self._phase:
            self._memory.again()
            record_batches(self._memory, run.batches, run.config.accumulate)
        self._phase = run.phase
        self._memory()

    def on_step_end(self, run: TrainState) -> None:
        """Count the step."""
        if self._memory is not None:
            self._memory.step()

    def on_steps_end(self, run: TrainState) -> None:
        """Set the epoch's peak memory."""
        if self._memory is not None:
            run.memory = self._memory()

    def on_end(self, run: TrainState) -> None:
        """Stop recording."""
        if self._memory is not None:
            self._memory.close()
            self.how = memory_words(self._memory, run.batches)


def step_memory(
    kind: str, model: nn.Module, batches: Batches, accumulate: int, *, detailed: bool = False
) -> StepMemory | None:
    """Make the memory meter of a run's steps; ``None`` for an accelerator that does not report its memory.

    Args:
        kind: type of the run's device, such as "cpu" or "cuda".
        model, batches: the run's model and batches.
        accumulate: batches per step.
        detailed: whether to record an allocation trace, as in `StepMemory`.
    """
    if kind not in {"cpu", "cuda"}:
        return None
    footprint = batches if isinstance(batches, Footprint) else Footprint()
    # Weights may be sharded before the first step: look them up when the step begins.
    held = chain(model.parameters(), model.buffers(), footprint.held())
    memory = StepMemory(kind, held, waiting=lambda: footprint.waiting_bytes, detailed=detailed)
    record_batches(memory, batches, accumulate)
    return memory


def record_batches(memory: StepMemory, batches: Batches, accumulate: int) -> None:
    """Make the batches of the next recorded steps in this thread; CUDA's allocator sees all threads without this."""
    if memory.device.type == "cpu" and isinstance(batches, Footprint):
        batches.record(StepMemory.RECORDED_STEPS * accumulate, memory.making)


def memory_words(memory: StepMemory, batches: Batches) -> str:
    """Describe how the memory of a run was measured."""
    if memory.device.type != "cpu" or not isinstance(batches, Footprint) or not batches.most_waiting:
        return memory.how
    waiting = f"{batches.most_waiting} times the largest batch for those made ahead, and the making of one"
    return f"{memory.how}, and {waiting}"
