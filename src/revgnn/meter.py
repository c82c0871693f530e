"""The meter of a run's training steps: what it is told of weights and batches, and which batches it sees being made.

A recording sees what its own thread allocates. Batches that another thread would make ahead are made in this one while
steps are recorded, and told apart, because they come beside other moments than the recording has them at.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import Literal

import torch
from torch import nn

from .data import Batches, Dataset, FullBatch, NodeBatches, Prefetched, Store
from .measure import StepMemory, living_blocks, tensor_bytes
from .resident import ResidentPeak, give_back, load_libraries, resident_now


def step_memory(
    device: Literal["auto", "cpu"], model: nn.Module, batches: Batches, accumulate: int, *, detailed: bool = False
) -> StepMemory | None:
    """Make the meter of a run; ``None`` for an accelerator that cannot be asked.

    Args:
        device: where the run goes.
        model, batches: of the run.
        accumulate: batches of a step.
        detailed: whether every moment is wanted, as `StepMemory`.
    """
    kind = "cpu" if device == "cpu" or not torch.accelerator.is_available() else _accelerator()
    if kind not in {"cpu", "cuda"}:
        return None
    training = batches.training if isinstance(batches, NodeBatches) else batches
    full = training.batch.tensors() if isinstance(training, FullBatch) else []
    # Ranks may put weights into shards before the first step: they are looked up then.
    held = chain(model.parameters(), model.buffers(), full)
    if not isinstance(batches, Prefetched):
        return StepMemory(kind, held, detailed=detailed)
    memory = StepMemory(kind, held, waiting=lambda: batches.waiting_bytes, detailed=detailed)
    record_batches(memory, batches, accumulate)
    return memory


def record_batches(memory: StepMemory, batches: Batches, accumulate: int) -> None:
    """Make the batches of the steps that are recorded next in this thread; CUDA's allocator sees all that is there."""
    if memory.device.type == "cpu" and isinstance(batches, Prefetched):
        batches.record(StepMemory.RECORDED_STEPS * accumulate, memory.making)


def resident_peak(dataset: Dataset | Store) -> ResidentPeak:
    """Begin to follow the resident size of a run; its data are read already, and count."""
    load_libraries()
    tensors = (
        [] if isinstance(dataset, Store) else [value for value in vars(dataset).values() if torch.is_tensor(value)]
    )
    return ResidentPeak(held=tensor_bytes(tensors))


@lru_cache(maxsize=1)
def interpreter_bytes() -> int:
    """Give what the interpreter and its libraries take: what is resident beside tensors at the first call, which loads
    them; a usual value where the system does not tell."""
    load_libraries()
    give_back()
    present = resident_now()
    return _USUAL if present is None else present - sum(living_blocks().values())


_USUAL = 500_000_000
"""Bytes of an interpreter with torch's CPU build and PyG, rounded down."""


def memory_words(memory: StepMemory, batches: Batches) -> str:
    """Say how the figure of a run comes about."""
    if memory.device.type != "cpu" or not isinstance(batches, Prefetched):
        return memory.how
    waiting = f"{batches.most_waiting} times the largest batch for those made ahead, and the making of one"
    return f"{memory.how}, and {waiting}"


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator()
    return "cpu" if found is None else found.type
