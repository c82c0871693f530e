"""Checks the operands of the kernels for dense layers."""

from __future__ import annotations

from torch import Tensor

from ..checks import dense, rows
from .csr import Fields, types_of


def linear(x: Tensor, plus: Tensor | None, weight: Tensor, bias: Tensor | None, out: Tensor) -> Fields:
    """Operands of ``linear``; ``out`` is of x's type or of that of the sums."""
    dtype, total = types_of(x)
    out_dtype = total if out.dtype is total else dtype
    return *_mapped(x, plus, weight, bias), *rows(out, "out", out_dtype, x.device, x.size(0), weight.size(0))


def linear_backward(
    grad: Tensor,
    x: Tensor,
    plus: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    dweight: Tensor,
    dbias: Tensor | None,
    dx: Tensor | None,
    value: Tensor | None,
) -> Fields:
    """Operands of ``linear_backward``; ``grad`` is of x's type or of that of the sums."""
    (dtype, total), device, (n, k), d = types_of(x), x.device, x.shape, weight.size(0)
    return (
        *_mapped(x, plus, weight, bias),
        *rows(grad, "grad", total if grad.dtype is total else dtype, device, n, d),
        *rows(value, "value", total, device, n, d),
        *rows(dx, "dx", dtype, device, n, k),
        dense(dweight, "dweight", total, device, d, k),
        dense(dbias, "dbias", total, device, d),
    )


def _mapped(x: Tensor, plus: Tensor | None, weight: Tensor, bias: Tensor | None) -> Fields:
    (dtype, total), device, (n, k), d = types_of(x), x.device, x.shape, weight.size(0)
    return (
        n,
        k,
        d,
        *rows(x, "x", dtype, device, n, k),
        *rows(plus, "plus", dtype, device, n, k),
        dense(weight, "weight", total, device, d, k),
        dense(bias, "bias", total, device, d),
    )
