"""Memory for the arrays of prefetched batches, used again as soon as no tensor of an earlier batch lies in it.

The system hands out large arrays in fresh pages and takes them back when they are freed. To touch such a page for the
first time costs several times as much as to copy a row into it, so a batch of sampled neighbours spends more time on
pages than on sampling.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_LEAST = 2**20
"""Bytes from which an array gets a buffer; malloc keeps the memory of smaller ones."""
_SPARE = 32
"""A buffer is larger than its first array by one part in this, because batches differ by a few rows."""

Row = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of an array's rows: arrays with equal rows have about equal numbers of them."""


class Buffers:
    """Buffers that wait to be used again; those that wait are freed with this object.

    A buffer comes back when the storage of its tensor is freed: when no tensor, view or saved activation refers to it.
    """

    def __init__(self) -> None:
        self._waiting: defaultdict[Row, list[Tensor]] = defaultdict(list)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let `empty` take memory from here, in this thread."""
        _thread.buffers = self
        try:
            yield
        finally:
            _thread.buffers = None

    def take(self, row: Row, num_bytes: int) -> Tensor:
        """Return [num_bytes] uint8, uninitialised; ``row`` says which arrays it may have been before."""
        waiting = self._waiting[row]
        # Other threads give back, so take and put by single operations.
        try:
            buffer = waiting.pop()
        except IndexError:
            buffer = None
        if buffer is None or buffer.numel() < num_bytes:
            buffer = torch.empty(num_bytes + num_bytes // _SPARE, dtype=torch.uint8)
        loan = buffer.numpy()[:num_bytes]
        # A storage made from an array holds this array object until it is freed, and nothing else does.
        weakref.finalize(loan, waiting.append, buffer).atexit = False
        return torch.from_numpy(loan)


class _Thread(threading.local):
    buffers: Buffers | None = None


_thread = _Thread()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, in a buffer if this thread uses `Buffers`."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if _thread.buffers is None or num_bytes < _LEAST:
        return torch.empty(shape, dtype=dtype)
    return _thread.buffers.take((tuple(shape[1:]), dtype), num_bytes).view(dtype).view(*shape)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return ``values[index]``, rows [n, ...] by [n] int64 numbers, in memory from `empty`."""
    return torch.index_select(values, 0, index, out=empty((index.numel(), *values.shape[1:]), values.dtype))
