"""The mark that says a block is being evaluated again, for the backward, and must leave its buffers alone.

BatchNorm statistics, drift counters and the like move once per step, in the first evaluation. Blocks ask
`is_rebuilding()`; whoever evaluates a block a second time does so inside `rebuilding()`. The mark is per thread,
because autograd runs the backward of CUDA tensors in threads of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_thread = threading.local()


def is_rebuilding() -> bool:
    """Whether the current evaluation of a block repeats one that was made before."""
    return getattr(_thread, "depth", 0) > 0


@contextmanager
def rebuilding() -> Iterator[None]:
    """Mark every evaluation of a block inside as a repetition."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
