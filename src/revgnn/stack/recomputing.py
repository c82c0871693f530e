"""Tell a block that it is being recomputed for the backward and must not update its buffers.

BatchNorm statistics, drift counters and the like are updated once per step, in the first evaluation. Blocks ask
`is_recomputing()`; code that evaluates a block a second time does so inside `recomputing()`. The flag is per thread,
because autograd runs the backward of CUDA tensors in threads of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


class _Repetitions(threading.local):
    depth = 0


_repetitions = _Repetitions()

_turns = threading.RLock()
# A forked child does not have the thread that holds it.
os.register_at_fork(after_in_child=_turns._at_fork_reinit)  # type: ignore[attr-defined]
_ALONE = nullcontext()


def turns() -> AbstractContextManager[object]:
    """Return a lock for what other threads must not see: a module with the parameters and attributes of a repetition,
    and torch's generators in a block's state."""
    return _ALONE if torch.compiler.is_compiling() else _turns  # a compiler cannot follow a lock


@contextmanager
def between_turns() -> Iterator[None]:
    """Leave the lock of `turns` to others while this thread waits for them: ranks may be threads of one process."""
    held = _turns._release_save() if _turns._is_owned() else None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if held is not None:
            _turns._acquire_restore(held)  # type: ignore[attr-defined]


def outside_modes() -> AbstractContextManager[object]:
    """Leave the caller's dispatch modes, in some of which tensors have no values."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()


def is_recomputing() -> bool:
    """Whether the current evaluation of a block repeats an earlier one.

    Examples:
        >>> import torch
        >>> from revgnn.stack import is_recomputing
        >>> class Counting(torch.nn.Linear):
        ...     calls = 0
        ...
        ...     def forward(self, x, seed):
        ...         self.calls += not is_recomputing()  # once per step, although the backward evaluates it again
        ...         return super().forward(x)
    """
    return _repetitions.depth > 0


@contextmanager
def recomputing() -> Iterator[None]:
    """Mark every evaluation of a block inside the context as a recomputation.

    Examples:
        >>> from revgnn.stack import is_recomputing, recomputing
        >>> with recomputing():
        ...     print(is_recomputing())
        True
    """
    start_recomputing()
    try:
        yield
    finally:
        stop_recomputing()


def start_recomputing() -> None:
    """Enter `recomputing`."""
    _repetitions.depth += 1


def stop_recomputing() -> None:
    """Leave `recomputing`."""
    _repetitions.depth -= 1


def snapshot(buffers: Iterable[Tensor]) -> Callable[[], None]:
    """Copy buffers, so that an evaluation can be undone.

    Returns: a function that writes the copies back into the buffers.
    """
    copies = [(buffer, buffer.clone()) for buffer in buffers]

    def restore() -> None:
        with torch.no_grad():
            for buffer, copy in copies:
                buffer.copy_(copy)

    return restore
