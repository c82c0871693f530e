"""The compiled library: where it lies, what it exports, and how tensors become its arguments."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...graph import Graph
from . import abi

DTYPES = {torch.float32: abi.F32, torch.bfloat16: abi.BF16, torch.float64: abi.F64}
"""Element types that the kernels have code for."""


class Csr(NamedTuple):
    """The edges of one direction of a graph, as plain tensors."""

    indptr: Tensor
    """[N+1] int32."""
    indices: Tensor
    """[E] int32."""
    edge_ids: Tensor | None = None
    """[E] int64: where each edge's own values stand; ``None``: at its position."""


def forward_csr(graph: Graph) -> Csr:
    """The edges by destination; values per edge stand in the graph's own order."""
    return Csr(graph.indptr, graph.indices)


def reverse_csr(graph: Graph) -> Csr:
    """The edges by source; `edge_ids` finds the values per edge."""
    reverse = graph.reverse
    return Csr(reverse.indptr, reverse.indices, reverse.edge_ids)


def reverse_weighted(graph: Graph, weight: Tensor | None) -> tuple[Csr, Tensor | None]:
    """The edges by source, and their weights: the graph's own brought into that order once (by edge number each is a
    random read), the caller's as they are, for nobody knows when he changes them."""
    csr = reverse_csr(graph)
    name = None if weight is None else graph.kept_as(weight)
    if weight is None or name is None or csr.edge_ids is None:
        return csr, weight
    ids = csr.edge_ids
    return Csr(csr.indptr, csr.indices), graph.keep(f"{name} reversed", lambda: weight.index_select(0, ids))


def inverse_degree(graph: Graph, dtype: torch.dtype) -> Tensor:
    """[N] one over the number of incoming edges, 1 where there is none, in the type of sums over ``dtype``."""
    found: Tensor = graph.keep(f"inverse_degree.{dtype}", lambda: inverse_of(graph.indptr, dtype))
    return found


def inverse_of(indptr: Tensor, dtype: torch.dtype) -> Tensor:
    """`inverse_degree` from the bounds of the rows alone."""
    return indptr.diff().clamp(min=1).to(sum_dtype(dtype)).reciprocal()


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over ``dtype`` are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _find() -> Path | None:
    """Beside this file, or where an editable install puts compiled files: the package path names both."""
    for folder in sys.modules[__name__.rpartition(".")[0]].__path__:
        for name in ("librevgnn_kernels.so", "librevgnn_kernels.dylib"):
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    return None


def _load() -> tuple[ctypes.CDLL | None, str]:
    path = _find()
    if path is None:
        return None, "the compiled kernels are not installed (no C++ compiler when the package was built)"
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
"""Whether the kernels are there; `STATE` says from where, or why not."""


def isa() -> str:
    """Name the instruction set in use: ``avx512``, ``avx2`` or ``baseline``."""
    assert _library is not None, STATE
    name: bytes = _library.revgnn_isa()
    return name.decode()


def use_isa(name: str) -> None:
    """Run on another instruction set from now on.

    Raises: ValueError: if this machine or build lacks it.
    """
    assert _library is not None, STATE
    if _library.revgnn_use_isa(name.encode()) != 0:
        raise ValueError(f"instruction set {name!r} cannot run here; in use is {isa()!r}")


def kernel(name: str) -> Callable[..., None]:
    """Bind one kernel: positional fields of its struct in, nothing out."""
    struct = abi.KERNELS[name]
    if _library is None:
        return _missing
    function = getattr(_library, f"revgnn_{name}")
    function.argtypes = [ctypes.POINTER(struct)]

    def call(*fields: Any) -> None:
        status = function(struct(*fields))
        assert status == 0, f"kernel {name} has no code for these element types"

    return call


def _missing(*fields: Any) -> None:
    raise RuntimeError(f"{STATE}; run on the reference implementation")


def ptr(tensor: Tensor | None) -> int | None:
    """Where a tensor's memory starts; ``None`` is the null pointer."""
    return None if tensor is None else tensor.data_ptr()


def csr_fields(csr: Csr) -> abi.Csr:
    """The struct of a graph."""
    indptr, indices, edge_ids = csr
    assert indptr.dtype == indices.dtype == torch.int32, "the kernels take int32 indices"
    return abi.Csr(indptr.numel() - 1, indices.numel(), indptr.data_ptr(), indices.data_ptr(), ptr(edge_ids))


def dense_columns(x: Tensor) -> Tensor:
    """Return ``x`` itself if its last dimension is dense, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def row_stride(x: Tensor) -> int:
    """Elements from one row to the next."""
    assert x.stride(-1) == 1 or x.size(-1) == 1, "columns must be dense"
    return x.stride(0)
