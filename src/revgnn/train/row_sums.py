"""Accumulates sums of rows by row number, in memory or, if they are large, in a temporary file."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..files import room_for

IN_MEMORY = 2**28
"""Largest array in bytes that is kept in memory; a larger one goes to an unnamed temporary file (in ``TMPDIR``)."""


class RowArray:
    """A growing array of rows, initially zero.

    Args:
        width: columns; ``None``: the array has one dimension.
        dtype: dtype of the array.
        in_memory: largest size in bytes that is kept in memory; a larger array is in a file.
    """

    def __init__(self, width: int | None, dtype: torch.dtype, in_memory: int = IN_MEMORY) -> None:
        self._tail = () if width is None else (width,)
        self._in_memory = in_memory
        self._file: IO[bytes] | None = None
        self._held = torch.zeros((0, *self._tail), dtype=dtype)
        self._rows = 0

    def __len__(self) -> int:
        """Number of rows so far."""
        return self._rows

    def reach(self, rows: int) -> Tensor:
        """Return the array with at least this many rows; tensors returned before are no longer valid."""
        if rows > self._held.size(0):
            self._grow(max(rows, 2 * self._held.size(0)))
        self._rows = max(self._rows, rows)
        return self._held[: self._rows]

    def _grow(self, rows: int) -> None:
        old = self._held
        shape = (rows, *self._tail)
        size = old.element_size() * int(np.prod(shape))
        if size <= self._in_memory:
            self._held = torch.cat([old, old.new_zeros(rows - old.size(0), *self._tail)])
            return
        moved = self._file is None
        if self._file is None:
            self._file = TemporaryFile(prefix="revgnn-")  # noqa: SIM115 - lives as long as the rows do
            weakref.finalize(self, self._file.close)
        remedy = "start again, or set TMPDIR to another disk"
        with room_for("a temporary file of sums", size, Path(gettempdir()), then=remedy):
            _lengthen(self._file, size)
        dtype = old.numpy().dtype
        self._held = torch.from_numpy(np.memmap(self._file, dtype, "r+", shape=shape))
        if moved:
            self._held[: old.size(0)] = old


def _lengthen(file: IO[bytes], size: int) -> None:
    """Extend a file with zeros and, where the system supports it, allocate the disk space now.

    If the disk were full at the first write to a page, SIGBUS would end the process without an error message.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


class Sums:
    """Sums of rows by row number, and how often each row was added.

    Args:
        width: columns.
        in_memory: see `RowArray`.

    Examples:
        >>> import torch
        >>> from revgnn.train import Sums
        >>> sums = Sums(width=1)
        >>> sums.add(torch.tensor([0, 2]), torch.tensor([[1.0], [5.0]]))
        >>> sums.add(torch.tensor([2]), torch.tensor([[7.0]]))
        >>> sums.means(0, 3)
        (tensor([0, 2]), tensor([[1.],
                [6.]]))
    """

    def __init__(self, width: int, in_memory: int = IN_MEMORY) -> None:
        self._sums = RowArray(width, torch.float32, in_memory)
        self._counts = RowArray(None, torch.int32, in_memory)

    def add(self, ids: Tensor, rows: Tensor, counts: Tensor | None = None) -> None:
        """Add rows [n, width] to the sums of ``ids`` [n]; each is itself a sum of ``counts`` [n] int32 rows, or one."""
        reach = int(ids.max()) + 1 if ids.numel() else 0
        self._sums.reach(reach).index_add_(0, ids, rows.to(torch.float32))
        counts = torch.ones(ids.numel(), dtype=torch.int32) if counts is None else counts
        self._counts.reach(reach).index_add_(0, ids, counts)

    def __len__(self) -> int:
        """One more than the largest row number added."""
        return len(self._counts)

    def sums(self, low: int, high: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the row numbers in ``low..high-1`` that were added, ascending, the sum of each, and its count."""
        counts = self._counts.reach(0)[low:high]
        came = counts.nonzero()[:, 0]
        return came + low, self._sums.reach(0)[low:high][came], counts[came]

    def means(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Return the row numbers in ``low..high-1`` that were added, ascending, and the mean of each."""
        ids, sums, counts = self.sums(low, high)
        return ids, sums / counts[:, None]
