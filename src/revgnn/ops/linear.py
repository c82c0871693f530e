"""A dense layer with bfloat16 products on the kernels, whose sums stay float32; saved for the backward: x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .choice import kernels
from .cpu import dense_columns, sum_dtype
from .kernel_op import KernelOp, Needs
from .spmm import empty_dense


class _Mapped(NamedTuple):
    """Contract in `revgnn.ops.linear`."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    narrow: bool


def _outputs(a: _Mapped, needs: Needs) -> tuple[Tensor]:
    return (a.x.new_empty(a.x.size(0), a.weight.size(0), dtype=sum_dtype(a.x.dtype)),)


def _forward(a: _Mapped, outputs: tuple[Tensor]) -> None:
    kernels(a.x).linear(dense_columns(a.x), a.weight.contiguous(), a.bias, out=outputs[0], narrow=a.narrow)


def _backward(
    a: _Mapped, outputs: tuple[Tensor], cotangents: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    x, grad, weight = dense_columns(a.x), dense_columns(cotangents[0]), a.weight.contiguous()
    dx, dweight = empty_dense(x) if needs[0] else None, torch.empty_like(weight)
    dbias = None if a.bias is None else torch.empty_like(a.bias)
    kernels(x).linear_backward(grad, x, weight, dweight=dweight, dbias=dbias, dx=dx, narrow=a.narrow)
    return dx, dweight, dbias


LINEAR = KernelOp(
    name="revgnn::linear",
    arguments=_Mapped,
    kernels=("linear", "linear_backward"),
    outputs=_outputs,
    forward=_forward,
    saved=lambda a, outputs, needs: (*a[:3], None),
    backward=_backward,
    reference=lambda a: reference.linear(a.x, a.weight, a.bias),
)
