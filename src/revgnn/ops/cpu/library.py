"""Finds and loads the compiled library, binds its kernels, and converts tensors to their arguments."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from ...graph import Graph
from .. import operands
from ..checks import sum_dtype
from ..operands import Csr
from . import abi

DTYPES = {dtype: abi.DTYPE[name] for dtype, name in zip(operands.DTYPES, ("f32", "bf16", "f64"), strict=True)}
"""The code of each element type."""


def forward_csr(graph: Graph) -> Csr:
    """Return the edges sorted by destination; values per edge are in the graph's order."""
    csr: Csr = graph.keep("forward_csr", lambda: Csr(graph.indptr, graph.indices))
    return csr


def reverse_csr(graph: Graph) -> Csr:
    """Return the edges sorted by source; `edge_ids` gives the positions of values per edge."""
    csr: Csr = graph.keep("reverse_csr", lambda: _by_source(graph.reverse))
    return csr


def _by_source(reverse: Graph) -> Csr:
    return Csr(reverse.indptr, reverse.indices, reverse.edge_ids)


def reverse_weighted(graph: Graph, weight: Tensor | None) -> tuple[Csr, Tensor | None]:
    """Return the edges sorted by source, and their weights. The graph's own weights are permuted once, because reading
    by edge number is a random access; the caller's are not, because the caller may change them."""
    csr = reverse_csr(graph)
    name = None if weight is None else graph.kept_as(weight)
    if weight is None or name is None or csr.edge_ids is None:
        return csr, weight
    ids = csr.edge_ids
    return graph.keep(f"{name} reversed", lambda: (Csr(csr.indptr, csr.indices), weight.index_select(0, ids)))


def inverse_degree(graph: Graph, dtype: torch.dtype) -> Tensor:
    """Return [N] one over the number of incoming edges (1 for none), in the type of sums over ``dtype``."""

    def make() -> Tensor:
        return graph.indptr.diff().clamp(min=1).to(sum_dtype(dtype)).reciprocal()

    return graph.keep(f"inverse_degree.{dtype}", make)


def _find() -> Path | None:
    """Find the library: the path in REVGNN_LIBRARY (another build), next to this file, or in the folder of an editable
    install; the package path contains both folders."""
    if "REVGNN_LIBRARY" in os.environ:
        return Path(os.environ["REVGNN_LIBRARY"])
    for folder in sys.modules[__name__.rpartition(".")[0]].__path__:
        for name in ("librevgnn_kernels.so", "librevgnn_kernels.dylib"):
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    return None


def _load() -> tuple[ctypes.CDLL | None, str]:
    path = _find()
    if path is None:
        return None, (
            "the compiled kernels are not installed (no C++ compiler when the package was built, or the wheel for "
            "every system)"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"{path} does not load: {error}"
    version = library.revgnn_abi_version()
    if version != abi.VERSION:
        return None, f"{path} has interface {version}, this package needs {abi.VERSION}; reinstall it"
    library.revgnn_isa.restype = ctypes.c_char_p
    library.revgnn_use_isa.argtypes = [ctypes.c_char_p]
    return library, str(path)


_library, STATE = _load()
AVAILABLE = _library is not None
"""Whether the kernels are available; `STATE` says from which file, or why not."""


def isa() -> str:
    """Name the instruction set in use: ``avx512_bf16``, ``avx512``, ``avx2`` or ``baseline``."""
    assert _library is not None, STATE
    name: bytes = _library.revgnn_isa()
    return name.decode()


def use_isa(name: str) -> None:
    """Switch to another instruction set.

    Raises: ValueError: if this machine or build lacks it.
    """
    assert _library is not None, STATE
    if _library.revgnn_use_isa(name.encode()) != 0:
        raise ValueError(f"instruction set {name!r} cannot run here; in use is {isa()!r}")


def packer(name: str) -> Callable[..., bytes]:
    """Return a function that makes a kernel's C struct of its fields; those of a graph are flat."""
    # Several times as fast as a struct of ctypes. The empty field at the end pads as C does.
    return struct.Struct(f"@{abi.FORMATS[name]}0q").pack


class _Recorded(threading.local):
    """What a thread's kernel calls are noted in."""

    calls: list[tuple[str, tuple[Any, ...]]] | None = None
    """Name and fields of every call; ``None``: nobody notes them."""


recorded = _Recorded()


def kernel(name: str) -> Callable[..., None]:
    """Return a function that calls one kernel with the fields of its C struct."""
    pack = packer(name)
    if _library is None:
        return _missing
    function = getattr(_library, f"revgnn_{name}")
    function.argtypes = [ctypes.c_char_p]

    def call(*values: object) -> None:
        status = function(pack(*values))
        assert status == 0, f"kernel {name} has no code for these element types"
        if recorded.calls is not None:
            recorded.calls.append((name, values))

    return call


def call_all(
    rounds: int, kernels: ctypes.Array[ctypes.c_int32], offsets: ctypes.Array[ctypes.c_int64], structs: int, size: int
) -> None:
    """Make the same calls in several rounds.

    Args:
        rounds: how many.
        kernels: the number of each call's kernel, as `abi.FORMATS` counts them.
        offsets: where its struct stands among those of a round, in bytes.
        structs: address of the structs of all rounds.
        size: bytes of a round.
    """
    assert _library is not None, STATE
    status = _library.revgnn_calls(
        ctypes.c_int64(rounds), ctypes.c_int64(len(kernels)), kernels, offsets, ctypes.c_void_p(structs),
        ctypes.c_int64(size),
    )  # fmt: skip
    assert status == 0, "a kernel has no code for these element types"


def _missing(*fields: object) -> None:
    raise RuntimeError(f"{STATE}; run on the reference implementation")


@overload
def summable(vector: Tensor, x: Tensor) -> Tensor: ...
@overload
def summable(vector: Tensor | None, x: Tensor) -> Tensor | None: ...
def summable(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """Return a vector as a dense one in the type of sums over x; unchanged if it is one."""
    if vector is None:
        return None
    dtype = sum_dtype(x.dtype)
    return vector if vector.dtype is dtype and vector.is_contiguous() else vector.detach().to(dtype).contiguous()


def dense_columns(x: Tensor) -> Tensor:
    """Return ``x`` itself if its last dimension is dense, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
