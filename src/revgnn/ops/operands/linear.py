"""Checks the operands of the kernels for dense layers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import dense, rows
from .csr import Fields


def linear(x: Tensor, plus: Tensor | None, weight: Tensor, bias: Tensor | None, out: Tensor) -> Fields:
    """Operands of ``linear``."""
    return *_mapped(x, plus, weight, bias), *rows(out, "out", x.dtype, x.device, x.size(0), weight.size(0))


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
    """Operands of ``linear_backward``."""
    dtype, device, (n, k), d = x.dtype, x.device, x.shape, weight.size(0)
    return (
        *_mapped(x, plus, weight, bias),
        *rows(grad, "grad", dtype, device, n, d),
        *rows(value, "value", dtype, device, n, d),
        *rows(dx, "dx", dtype, device, n, k),
        dense(dweight, "dweight", dtype, device, d, k),
        dense(dbias, "dbias", dtype, device, d),
    )


def _mapped(x: Tensor, plus: Tensor | None, weight: Tensor, bias: Tensor | None) -> Fields:
    dtype, device, (n, k), d = x.dtype, x.device, x.shape, weight.size(0)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"a kernel maps float32 or float64, got {dtype}")
    return (
        n,
        k,
        d,
        *rows(x, "x", dtype, device, n, k),
        *rows(plus, "plus", dtype, device, n, k),
        dense(weight, "weight", dtype, device, d, k),
        dense(bias, "bias", dtype, device, d),
    )
