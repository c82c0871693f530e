"""Dense layers in place: the device's matrix library is the kernel, so these are a few calls of torch."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor,
    sign: int = 0,
    plus: Tensor | None = None,
) -> None:
    """Write, add or subtract ``(x + plus) weight^T + bias``; arguments as in `native.linear`."""
    _send(x if plus is None else x + plus, weight, bias, out, sign)


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
) -> None:
    """Write the gradients of `linear`, and its value; arguments as in `native.linear_backward`."""
    whole = x if plus is None else x + plus
    if value is not None:
        _send(whole, weight, bias, value, sign)
    torch.mm(grad.t(), whole, out=dweight)
    if dbias is not None:
        torch.sum(grad, 0, out=dbias)
    if dx is None:
        return
    if accumulate:
        dx.addmm_(grad, weight)
    elif dx.data_ptr() == grad.data_ptr():
        dx.copy_(grad @ weight)
    else:
        torch.mm(grad, weight, out=dx)


def _send(x: Tensor, weight: Tensor, bias: Tensor | None, to: Tensor, sign: int) -> None:
    # Formed apart and then added, so that the value has the same bits wherever it goes.
    value = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
    if sign == 0:
        to.copy_(value)
    else:
        to.add_(value, alpha=sign)
