"""Dense layers and row products in place on CUDA, by torch, which calls the device's own library."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import operands


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
    """Write, add or subtract ``(x + plus) weight^T + bias``; arguments as in `revgnn.ops.cpu.linear`. ``narrow``, which
    allows to round, has no effect: torch's own setting of float32 products decides."""
    operands.linear(x, plus, weight, bias, out)
    _send(_as_sums(x, plus, weight), weight, bias, out, sign)


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
    """Write the gradients of `linear`, and its value; arguments as in `revgnn.ops.cpu.linear_backward`.

    ``narrow`` is as in `linear`.
    """
    operands.linear_backward(grad, x, plus, weight, bias, dweight, dbias, dx, value)
    whole, grad = _as_sums(x, plus, weight), grad.to(weight.dtype)
    if value is not None:
        _send(whole, weight, bias, value, sign)
    torch.mm(grad.t(), whole, out=dweight)
    if dbias is not None:
        torch.sum(grad, 0, out=dbias)
    if dx is None:
        return
    if accumulate and dx.dtype is not weight.dtype:
        dx += grad @ weight
    elif accumulate:
        dx.addmm_(grad, weight)
    elif dx.data_ptr() == grad.data_ptr() or dx.dtype is not weight.dtype:
        dx.copy_(grad @ weight)
    else:
        torch.mm(grad, weight, out=dx)


def attention_scores(
    x: Tensor, attn_src: Tensor, attn_dst: Tensor | None, *, score_src: Tensor, score_dst: Tensor | None
) -> None:
    """Write every head's products with its vectors; arguments as in `revgnn.ops.cpu.attention_scores`."""
    operands.attention_scores(x, attn_src, attn_dst, score_src, score_dst)
    for attn, score in ((attn_src, score_src), (attn_dst, score_dst)):
        if attn is not None and score is not None:
            torch.sum(x * attn, -1, dtype=score.dtype, out=score)


def attention_scores_backward(
    x: Tensor,
    attn_src: Tensor,
    attn_dst: Tensor | None,
    *,
    dscore_src: Tensor,
    dscore_dst: Tensor | None,
    dx: Tensor,
    dattn_src: Tensor,
    dattn_dst: Tensor | None,
    accumulate: bool = False,
) -> None:
    """Write the gradients of `attention_scores`; arguments as in `revgnn.ops.cpu.attention_scores_backward`."""
    vectors, scores, dvectors = (attn_src, attn_dst), (dscore_src, dscore_dst), (dattn_src, dattn_dst)
    operands.attention_scores_backward(x, vectors, scores, dx, dvectors)
    if not accumulate:
        dx.zero_()
    for attn, dscore, dattn in ((attn_src, dscore_src, dattn_src), (attn_dst, dscore_dst, dattn_dst)):
        if attn is not None and dscore is not None and dattn is not None:
            dx += dscore.unsqueeze(-1) * attn
            torch.sum(dscore.unsqueeze(-1) * x, 0, out=dattn.view(x.shape[1:]))


def _send(x: Tensor, weight: Tensor, bias: Tensor | None, to: Tensor, sign: int) -> None:
    # Compute the value first and then add it, so that it has the same bits for every ``sign``.
    value = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
    if sign == 0:
        to.copy_(value)
    else:
        to.add_(value, alpha=sign)


def _as_sums(x: Tensor, plus: Tensor | None, weight: Tensor) -> Tensor:
    """Return ``x + plus`` in the type of the sums, which the weight has: torch multiplies one type only."""
    return (x if plus is None else x + plus).to(weight.dtype)
