"""The mark that says a block is being evaluated again, for the backward, and must leave its buffers alone.

BatchNorm statistics, drift counters and the like move once per step, in the first evaluation. Blocks ask
`is_recomputing()`; whoever evaluates a block a second time does so inside `recomputing()`. The mark is per thread,
because autograd runs the backward of CUDA tensors in threads of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_thread = threading.local()


def is_recomputing() -> bool:
    """Whether the current evaluation of a block repeats one that was made before."""
    return getattr(_thread, "depth", 0) > 0


@contextmanager
def recomputing() -> Iterator[None]:
    """Mark every evaluation of a block inside as a repetition."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1


def snapshot(buffers: Iterable[Tensor]) -> Callable[[], None]:
    """Copy buffers, for a first evaluation that may have to be taken back.

    Returns: a function that writes the copies into the buffers.
    """
    copies = [(buffer, buffer.clone()) for buffer in buffers]

    def restore() -> None:
        with torch.no_grad():
            for buffer, copy in copies:
                buffer.copy_(copy)

    return restore
