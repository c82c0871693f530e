"""The kernel calls of an evaluation, recorded to be repeated for other parameters: one call of C for many layers.

A kernel call is a struct of sizes, addresses and numbers. Two evaluations of the same code at the same place of the
stream differ in few of them: the addresses of parameters and of their gradients, and the seed.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from . import cpu
from .backend import Backend, Kernel
from .choice import recording_on
from .cpu import abi
from .cpu.library import call_all, packer, recorded
from .cpu.norm import count_versions

_ROUNDS = 16
"""Layers a call of C: between two calls Python can be interrupted."""
_TOGETHER = 64
_WORD = 8
_UNKNOWN = "not of this library"
_NUMBERS = {name: number for number, name in enumerate(abi.FORMATS)}

Words = NDArray[np.int64]


class Recording(Backend):
    """Records the kernel calls that this thread makes in its context, block after block, and repeats them.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> x, out = torch.ones(3, 8), torch.empty(3, 8)
        >>> first, second = (torch.nn.Parameter(torch.full((8, 8), value)) for value in (1.0, 2.0))
        >>> recording = ops.Recording()
        >>> with recording:
        ...     recording.begin()
        ...     ops.kernels(x).linear(x, first, out=out)
        >>> recording.repeat(2, [first, second], [0, 0]) and out[0, 0].item()
        16.0
    """

    def __init__(self) -> None:
        held: list[object] = []  # not of self, which would be a cycle and keep the memory
        kernels = {name: partial(_held_call, held, getattr(cpu.BACKEND, name)) for name in cpu.BACKEND.names}
        super().__init__("recording", kernels, node_scratch=True, narrow_rows=True)
        self._blocks: list[list[tuple[str, tuple[Any, ...]]]] = []
        self._context = ExitStack()

    def __enter__(self) -> Recording:
        self._context.enter_context(recording_on(self))
        self._context.callback(setattr, recorded, "calls", recorded.calls)
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def begin(self) -> None:
        """Begin the evaluation of a block."""
        recorded.calls = []
        self._blocks.append(recorded.calls)

    def repeat(
        self,
        rounds: int,
        parameters: Sequence[Tensor],
        seeds: Sequence[int],
        *,
        buffers: Sequence[Tensor] = (),
        grads: Sequence[Tensor] | None = None,
    ) -> bool:
        """Repeat all calls for other parameters, gradients, buffers and seeds; all else stays what it was.

        Args:
            rounds: R, with the recorded evaluation as the first; with ``grads`` as the last, and blocks and rounds go
                from the last to the first.
            parameters: of every block of every round in order, equally many a block.
            seeds: of every block of every round.
            buffers: that the calls write to, of every block of every round, equally many a block.
            grads: of every parameter, dense like it: where its gradient is written; ``None``: the calls write none.
        Returns: whether it was done: not for parameters that the kernels cannot read as they read the recorded ones, or
            calls with a seed that is not the block's, or kernels that are not the library's.
        Cost: per block some microseconds beside the kernels.
        """
        count = rounds * len(self._blocks)
        of_parameters, of_buffers = _addresses(parameters, count, Parameter), _addresses(buffers, count, Tensor)
        if of_parameters is None or of_buffers is None:
            return False
        of_grads = np.fromiter(map(Tensor.data_ptr, grads or ()), np.int64).reshape(count, -1)
        last = np.array(seeds, np.int64).reshape(count, 1)
        words = np.concatenate([of_buffers, of_parameters, of_grads, last], axis=1)
        if grads is not None:
            words = words[::-1]
        program = _Program()
        for k, calls in enumerate(self._blocks):
            if not program.add(calls, words[k].tolist(), k * words.shape[1]):
                return False
        program.run(words.reshape(rounds, -1)[1:])
        if program.takes(range(of_buffers.shape[1])):
            count_versions(buffers)
        return True


def _held_call(held: list[object], kernel: Kernel, *arguments: Any, **named: Any) -> None:
    """Call a kernel, and hold what its arguments are the memory of; note that it is another one's, where it is."""
    held.append((arguments, named))
    calls = [] if recorded.calls is None else recorded.calls
    before = len(calls)
    kernel(*arguments, **named)
    if len(calls) == before:
        calls.append((_UNKNOWN, ()))


class _Program:
    """The structs of the calls of one round, and which of their words differ from round to round."""

    def __init__(self) -> None:
        self._structs, self._kernels, self._offsets = b"", list[int](), list[int]()
        self._places, self._sources = list[int](), list[int]()
        """Words of a round's structs, and where their values stand among the words of a round."""

    def add(self, calls: Sequence[tuple[str, tuple[Any, ...]]], words: Sequence[int], first: int) -> bool:
        """Add the calls of a block.

        Args:
            calls: name and fields of each.
            words: the addresses and, last, the seed that it was recorded with.
            first: where they stand among the words of a round.
        Returns: whether it is known what they call and which fields differ.
        """
        *addresses, seed = words
        known = {address: k for k, address in enumerate(addresses, first)}
        if len(known) < len(addresses) or 0 in known:
            return False
        for name, fields in calls:
            if name == _UNKNOWN:
                return False
            pack, pointers, seeds = _layout(name)
            start = len(self._structs) // _WORD
            for field, word in pointers:
                if fields[field] in known:
                    self._places.append(start + word)
                    self._sources.append(known[fields[field]])
            for field, word in seeds:
                if fields[field] == seed:
                    self._places.append(start + word)
                    self._sources.append(first + len(addresses))
                elif fields[field]:
                    return False
            self._kernels.append(_NUMBERS[name])
            self._offsets.append(len(self._structs))
            packed = pack(*fields)
            self._structs += packed + bytes(-len(packed) % _WORD)
        return True

    def takes(self, words: range) -> bool:
        """Whether a call of the first block takes one of these words."""
        return any(source in words for source in self._sources)

    def run(self, words: Words) -> None:
        """Make the calls once for every row of words."""
        kernels = (ctypes.c_int32 * len(self._kernels))(*self._kernels)
        offsets = (ctypes.c_int64 * len(self._offsets))(*self._offsets)
        size = len(self._structs)
        structs = np.tile(np.frombuffer(self._structs, dtype=np.int64), (_ROUNDS, 1))
        for begin in range(0, len(words), _ROUNDS):
            rows = words[begin : begin + _ROUNDS]
            structs[: len(rows), self._places] = rows[:, self._sources]
            call_all(len(rows), kernels, offsets, structs.ctypes.data, size)


def _addresses(tensors: Sequence[Tensor], blocks: int, kind: type[Tensor]) -> Words | None:
    """Return the addresses of the tensors of every block; ``None``: not all are like those of the first block."""
    each = len(tensors) // blocks
    if each * blocks != len(tensors):
        return None
    found = np.empty(len(tensors), np.int64)
    # Few at a time, so that all that is asked of one is asked while it is in the cache.
    together = each * max(1, _TOGETHER // max(each, 1))
    shapes = list(map(Tensor.size, tensors[:each])) * (together // max(each, 1))
    dtypes = list(map(_dtype, tensors[:each])) * (together // max(each, 1))
    for begin in range(0, len(tensors), together or 1):
        some = tensors[begin : begin + together]
        if not (
            set(map(type, some)) == {kind}
            and list(map(Tensor.size, some)) == shapes[: len(some)]
            and list(map(_dtype, some)) == dtypes[: len(some)]
            and all(map(_is_cpu, some))
            and all(map(Tensor.is_contiguous, some))
        ):
            return None
        found[begin : begin + len(some)] = list(map(Tensor.data_ptr, some))
    return found.reshape(blocks, each)


_dtype, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")


@cache
def _layout(name: str) -> tuple[Callable[..., bytes], list[tuple[int, int]], list[tuple[int, int]]]:
    """Return what packs a kernel's struct, and its pointers and seeds: the field's number, and its word."""
    code = abi.FORMATS[name]
    words = [struct.calcsize(f"@{code[: k + 1]}") // _WORD - 1 for k in range(len(code))]
    pointers, seeds = ([(k, words[k]) for k in range(len(code)) if code[k] == kind] for kind in "PQ")
    return packer(name), pointers, seeds
