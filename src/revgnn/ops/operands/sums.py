"""Checks the operands of the kernels for sums and maxima over neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import dense, rows
from .csr import Csr, Fields, types_of


def spmm(
    x: Tensor, csr: Csr, out: Tensor, weight: Tensor | None, src_scale: Tensor | None, dst_scale: Tensor | None
) -> Fields:
    """Operands of ``spmm``."""
    (dtype, total), (device, n, e, sources), (_, d) = types_of(x), csr.on, x.shape
    return (
        *csr.fields(),
        d,
        *rows(x, "x", dtype, device, sources, d),
        dense(weight, "weight", total, device, e),
        dense(src_scale, "src_scale", total, device, sources),
        dense(dst_scale, "dst_scale", total, device, n),
        *rows(out, "out", total if out.dtype is total else dtype, device, n, d),
    )


def edge_dot(x: Tensor, grad: Tensor, csr: Csr, out: Tensor) -> Fields:
    """Operands of ``edge_dot``."""
    (dtype, total), (device, n, e, _), (_, d) = types_of(x), csr.on, x.shape
    return (
        *csr.fields(),
        d,
        *rows(x, "x", dtype, device, n, d),
        *rows(grad, "grad", dtype, device, n, d),
        dense(out, "out", total, device, e),
    )


def neighbour_max(x: Tensor, csr: Csr, out: Tensor, arg: Tensor | None) -> Fields:
    """Operands of ``neighbour_max``."""
    (dtype, _), (device, n, _, _), (_, d) = types_of(x), csr.on, x.shape
    return (
        *csr.fields(),
        d,
        *rows(x, "x", dtype, device, n, d),
        *rows(out, "out", dtype, device, n, d),
        dense(arg, "arg", torch.int32, device, n, d),
    )


def neighbour_max_backward(grad: Tensor, arg: Tensor, csr: Csr, dx: Tensor) -> Fields:
    """Operands of ``neighbour_max_backward``."""
    (dtype, _), (device, n, _, _), (_, d) = types_of(grad), csr.on, grad.shape
    return (
        *csr.fields(),
        d,
        *rows(grad, "grad", dtype, device, n, d),
        dense(arg, "arg", torch.int32, device, n, d),
        *rows(dx, "dx", dtype, device, n, d),
    )
