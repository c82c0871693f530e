"""CPU kernels of narrow dense layers over many rows, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import operands
from .library import DTYPES, kernel

_linear = kernel("linear")
_linear_backward = kernel("linear_backward")


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor,
    sign: int = 0,
    plus: Tensor | None = None,
    narrow: bool = False,
) -> None:
    """Write, add or subtract ``(x + plus) weight^T + bias``.

    Args:
        x, plus: [N, K] float32, bfloat16 or float64. Sums of bfloat16 are float32; their factors may be rounded to it.
        weight, bias: [D, K] and [D] in the type of the sums, dense.
        out: [N, D] of x's type, or in that of the sums.
        sign: 0 writes ``out``, 1 adds to it, -1 subtracts from it.
        narrow: whether float32 factors may be rounded to bfloat16 too, where the machine multiplies that faster.
    """
    fields = operands.linear(x, plus, weight, bias, out)
    _linear(*fields, sign, DTYPES[x.dtype], DTYPES[out.dtype], narrow, torch.get_num_threads())


def linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dweight: Tensor,
    dbias: Tensor | None = None,
    dx: Tensor | None = None,
    accumulate: bool = False,
    value: Tensor | None = None,
    sign: int = 0,
    plus: Tensor | None = None,
    narrow: bool = False,
) -> None:
    """Write the gradients of `linear`, and its value from the same visit.

    Args:
        grad: [N, D] of x's type, or in that of the sums.
        dweight, dbias: [D, K] and [D] in the type of the sums, dense; written.
        dx: [N, K] gradient of ``x`` (and of ``plus``), of its type; may be ``x``, ``grad`` or ``plus`` itself.
        accumulate: add to ``dx``.
        value: [N, D] in the type of the sums; receives the value as `linear`'s ``out`` does with ``sign``, bit for bit;
            ``None``: not wanted.
        narrow: as in `linear`.
    """
    fields = operands.linear_backward(grad, x, plus, weight, bias, dweight, dbias, dx, value)
    dtypes, threads = (DTYPES[x.dtype], DTYPES[grad.dtype]), torch.get_num_threads()
    _linear_backward(*fields, sign, *dtypes, narrow, accumulate, threads)
