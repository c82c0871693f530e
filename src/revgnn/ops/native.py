"""The compiled CPU kernels as functions on tensors: no autograd, results written into tensors that the caller gives.

Hides finding and loading the library, the C structs and raw pointers. These functions are the layer under the ops and
under fused steps that run in a work space of their own: `out=` is written, or added to with `accumulate=True`; nothing
is allocated. Rows may be strided (a column slice of a wider tensor), columns must be dense. Arguments are asserted, not
explained: the public ops check what a user can get wrong.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..graph import Graph
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


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over ``dtype`` are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# ---------------------------------------------------------------------- the library
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


def _kernel(name: str) -> Callable[..., None]:
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


def _ptr(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _csr(csr: Csr) -> abi.Csr:
    indptr, indices, edge_ids = csr
    assert indptr.dtype == indices.dtype == torch.int32, "the kernels take int32 indices"
    return abi.Csr(indptr.numel() - 1, indices.numel(), indptr.data_ptr(), indices.data_ptr(), _ptr(edge_ids))


def dense_columns(x: Tensor) -> Tensor:
    """Return ``x`` itself if its last dimension is dense, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _row_stride(x: Tensor) -> int:
    assert x.stride(-1) == 1 or x.size(-1) == 1, "columns must be dense"
    return x.stride(0)


# ---------------------------------------------------------------------- sums and maxima of neighbours
_spmm = _kernel("spmm")
_edge_dot = _kernel("edge_dot")
_max = _kernel("max")
_max_backward = _kernel("max_backward")


def spmm(
    x: Tensor,
    csr: Csr,
    *,
    out: Tensor,
    weight: Tensor | None = None,
    src_scale: Tensor | None = None,
    dst_scale: Tensor | None = None,
    mean: bool = False,
    accumulate: bool = False,
) -> None:
    """Sum neighbours: ``out_i = dst_scale_i * sum_e weight_e src_scale_j x_j``, over the degree with ``mean``.

    Args:
        x: [N, D] float32, bfloat16 or float64.
        csr: which rows each row sums.
        out: [N, D] of the same type, or float32 for bfloat16.
        weight: [E] in the type of the sums, read through ``csr.edge_ids``.
        src_scale, dst_scale: [N] in the type of the sums: weights that factor into the two ends need no [E] vector.
        mean: divide by the number of edges of the row.
        accumulate: add to ``out``.
    """
    _spmm(
        _csr(csr),
        x.size(1),
        x.data_ptr(),
        _row_stride(x),
        _ptr(weight),
        _ptr(src_scale),
        _ptr(dst_scale),
        out.data_ptr(),
        _row_stride(out),
        DTYPES[x.dtype],
        DTYPES[out.dtype],
        mean,
        accumulate,
        torch.get_num_threads(),
    )


def edge_dot(x: Tensor, grad: Tensor, csr: Csr, *, out: Tensor, mean: bool = False) -> None:
    """Write ``<grad_i, x_j>`` of the forward graph's edges into ``out`` [E], over the degree of i with ``mean``."""
    _edge_dot(
        _csr(csr),
        x.size(1),
        x.data_ptr(),
        _row_stride(x),
        grad.data_ptr(),
        _row_stride(grad),
        out.data_ptr(),
        DTYPES[x.dtype],
        mean,
        torch.get_num_threads(),
    )


def neighbour_max(x: Tensor, csr: Csr, *, out: Tensor, arg: Tensor | None = None) -> None:
    """Write each channel's maximum over the neighbours; ``arg`` [N, D] int32: the first edge that attains it, or -1."""
    _max(
        _csr(csr),
        x.size(1),
        x.data_ptr(),
        _row_stride(x),
        out.data_ptr(),
        _row_stride(out),
        _ptr(arg),
        DTYPES[x.dtype],
        torch.get_num_threads(),
    )


def neighbour_max_backward(grad: Tensor, arg: Tensor, reverse: Csr, *, dx: Tensor, accumulate: bool = False) -> None:
    """Send each gradient to the source of the edge that ``arg`` names."""
    _max_backward(
        _csr(reverse),
        grad.size(1),
        grad.data_ptr(),
        _row_stride(grad),
        arg.data_ptr(),
        dx.data_ptr(),
        _row_stride(dx),
        DTYPES[grad.dtype],
        accumulate,
        torch.get_num_threads(),
    )


# ---------------------------------------------------------------------- the head of a block
_norm = _kernel("norm")
_norm_backward = _kernel("norm_backward")
_batch_stats = _kernel("batch_stats")


class Drop(NamedTuple):
    """Which elements drop out, and by what the others are scaled."""

    p: float = 0.0
    mask: Tensor | None = None
    """[N, D] bool, True keeps."""
    seed: int | None = None
    """Draws the mask by position where ``mask`` is ``None``."""

    def fields(self) -> tuple[Any, ...]:
        """The struct's fields for it."""
        if self.p == 0.0 or (self.mask is None and self.seed is None):
            return (None, 0, 0, 0, False, 1.0)
        scale = 1.0 / (1.0 - self.p)
        if self.mask is not None:
            assert self.mask.dtype == torch.bool
            return (self.mask.data_ptr(), _row_stride(self.mask), 0, 0, False, scale)
        assert self.seed is not None
        return (None, 0, self.seed & 0xFFFFFFFFFFFFFFFF, min(int(self.p * 2**32), 2**32 - 1), True, scale)


NO_DROP = Drop()


def norm_act_drop(
    x: Tensor,
    *,
    kind: str,
    out: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    act: bool = True,
    drop: Drop = NO_DROP,
) -> None:
    """Write ``keep * relu(norm(x)) / (1 - p)``.

    Args:
        x: [N, D].
        kind: ``layer``, ``batch`` or ``none``.
        out: [N, D] of the same type, or bfloat16 for float32.
        weight, bias: [D] in the type of the sums.
        mean, rstd: layer: [N] vectors to write, for the backward; batch: [D] vectors to use (`batch_stats`).
    """
    _norm(
        x.size(0),
        x.size(1),
        x.data_ptr(),
        _row_stride(x),
        _ptr(weight),
        _ptr(bias),
        eps,
        _ptr(mean),
        _ptr(rstd),
        *drop.fields(),
        out.data_ptr(),
        _row_stride(out),
        abi.NORM_KINDS[kind],
        act,
        DTYPES[x.dtype],
        DTYPES[out.dtype],
        torch.get_num_threads(),
    )


def norm_act_drop_backward(
    grad: Tensor,
    x: Tensor,
    *,
    kind: str,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    fixed_stats: bool = False,
    act: bool = True,
    drop: Drop = NO_DROP,
    accumulate: bool = False,
) -> None:
    """Write, or add to ``dx``, the gradient of `norm_act_drop`; everything but the statistics is recomputed from ``x``.

    Args:
        dweight, dbias: [D] in the type of the sums; written.
        fixed_stats: batch: ``mean`` and ``rstd`` are constants instead of the batch's own.
        accumulate: add to ``dx``.
    """
    _norm_backward(
        x.size(0),
        x.size(1),
        x.data_ptr(),
        _row_stride(x),
        _ptr(weight),
        _ptr(bias),
        _ptr(mean),
        _ptr(rstd),
        *drop.fields(),
        grad.data_ptr(),
        _row_stride(grad),
        dx.data_ptr(),
        _row_stride(dx),
        dweight.data_ptr(),
        dbias.data_ptr(),
        abi.NORM_KINDS[kind],
        act,
        fixed_stats,
        DTYPES[x.dtype],
        accumulate,
        torch.get_num_threads(),
    )


def batch_stats(x: Tensor, *, eps: float, mean: Tensor, rstd: Tensor, var: Tensor | None = None) -> None:
    """Write each channel's mean, ``1 / sqrt(var + eps)`` and, if asked, biased variance over the rows."""
    _batch_stats(
        x.size(0),
        x.size(1),
        x.data_ptr(),
        _row_stride(x),
        eps,
        mean.data_ptr(),
        rstd.data_ptr(),
        _ptr(var),
        DTYPES[x.dtype],
        torch.get_num_threads(),
    )
