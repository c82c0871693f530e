"""Records the peak memory of training steps, and again where the model goes over to another phase.

A recording sees what its own thread allocates. Batches that another thread would make ahead are made in this one while
steps are recorded, and told apart, because they come beside other moments than the recording has them at.
"""

from __future__ import annotations

from itertools import chain

from torch import nn

from ...data.batch import Batches, Footprint
from ...measure import StepMemory
from .callback import Callback, TrainState


class MemoryRecorder(Callback):
    """Gives every row of the curve the peak memory of its steps; on an accelerator that cannot be asked, nothing."""

    def __init__(self) -> None:
        self.how: str | None = None
        """How the figures come about, once training is over; ``None``: there are none."""
        self._memory: StepMemory | None = None
        self._phase: str | None = None

    def on_start(self, run: TrainState) -> None:
        """Begin anew."""
        kind = run.ranks.accelerator.device.type
        self._memory, self._phase = step_memory(kind, run.model, run.batches, run.config.accumulate), None

    def on_epoch_start(self, run: TrainState) -> None:
        """Begin an epoch's recording; of the first steps of a phase, on the CPU."""
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
        """Set the epoch's peak."""
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
    """Make the meter of a run's steps; ``None`` for an accelerator that cannot be asked.

    Args:
        kind: of the device where the run goes, such as "cpu" or "cuda".
        model, batches: of the run.
        accumulate: batches of a step.
        detailed: whether an allocation trace is wanted, as `StepMemory`.
    """
    if kind not in {"cpu", "cuda"}:
        return None
    footprint = batches if isinstance(batches, Footprint) else Footprint()
    # Ranks may put weights into shards before the first step: they are looked up then.
    held = chain(model.parameters(), model.buffers(), footprint.held())
    memory = StepMemory(kind, held, waiting=lambda: footprint.waiting_bytes, detailed=detailed)
    record_batches(memory, batches, accumulate)
    return memory


def record_batches(memory: StepMemory, batches: Batches, accumulate: int) -> None:
    """Make the batches of the steps that are recorded next in this thread; CUDA's allocator sees all that is there."""
    if memory.device.type == "cpu" and isinstance(batches, Footprint):
        batches.record(StepMemory.RECORDED_STEPS * accumulate, memory.making)


def memory_words(memory: StepMemory, batches: Batches) -> str:
    """Say how the figure of a run comes about."""
    if memory.device.type != "cpu" or not isinstance(batches, Footprint) or not batches.most_waiting:
        return memory.how
    waiting = f"{batches.most_waiting} times the largest batch for those made ahead, and the making of one"
    return f"{memory.how}, and {waiting}"
