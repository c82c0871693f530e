"""The head of every block on the kernels: norm, ReLU and dropout in one pass, and one or two for the backward.

Saved for the backward: x, the statistics ([N] pairs for layer, [D] for batch) and the caller's own mask; a mask drawn
from a seed is drawn again. As in `spmm`, a lean autograd Function outside of torch.compile, custom ops inside.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import double_backward, reference
from .backend import kernels
from .cpu import Drop, dense_columns, sum_dtype, summable
from .tracing import is_traced


class _Settings(NamedTuple):
    """What is not a tensor."""

    kind: str
    eps: float
    act: bool
    p: float
    seed: int | None


def norm_act_drop(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    norm: str,
    eps: float,
    stats: tuple[Tensor, Tensor] | None,
    act: bool,
    p: float,
    mask: Tensor | None,
    seed: int | None,
) -> Tensor:
    """Normalise, rectify and drop; contract in `revgnn.ops.norm_act_drop`."""
    settings = _Settings(norm, eps, act, p, seed)
    if norm == "none":
        weight = bias = None
    mean, var = stats if stats is not None and norm == "batch" else (None, None)
    if p == 0.0:
        mask = None
    out: Tensor
    if is_traced(x):
        out, _, _ = _op(x, weight, bias, mean, var, mask, *settings)
    else:
        out = _Function.apply(x, weight, bias, mean, var, mask, settings)  # type: ignore[no-untyped-call]
    return out


# ---------------------------------------------------------------------- what both ways run
def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    mask: Tensor | None,
    settings: _Settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the output and the statistics that the backward needs (empty for ``none``)."""
    kind, eps, act, p, seed = settings
    x = dense_columns(x)
    mean, rstd = _stats(x, mean, var, kind, eps)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    kernels(x).norm_act_drop(
        x,
        kind=kind,
        out=out,
        weight=summable(weight, x),
        bias=summable(bias, x),
        eps=eps,
        mean=mean,
        rstd=rstd,
        act=act,
        drop=_drop(p, mask, seed),
    )
    return out, mean, rstd


def _stats(x: Tensor, mean: Tensor | None, var: Tensor | None, kind: str, eps: float) -> tuple[Tensor, Tensor]:
    dtype = sum_dtype(x.dtype)
    if mean is not None and var is not None:
        return mean.to(dtype, copy=True), (var.to(dtype) + eps).rsqrt()
    size = {"none": 0, "layer": x.size(0), "batch": x.size(1)}[kind]
    mean, rstd = x.new_empty(size, dtype=dtype), x.new_empty(size, dtype=dtype)
    if kind == "batch":
        kernels(x).batch_stats(x, eps=eps, mean=mean, rstd=rstd)
    return mean, rstd


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    mask: Tensor | None,
    fixed_stats: bool,
    settings: _Settings,
) -> tuple[Tensor, Tensor, Tensor]:
    kind, _, act, p, seed = settings
    x, grad = dense_columns(x), dense_columns(grad)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dweight = x.new_empty(x.size(1), dtype=sum_dtype(x.dtype))
    dbias = torch.empty_like(dweight)
    kernels(x).norm_act_drop_backward(
        grad,
        x,
        kind=kind,
        dx=dx,
        dweight=dweight,
        dbias=dbias,
        weight=summable(weight, x),
        bias=summable(bias, x),
        mean=mean,
        rstd=rstd,
        fixed_stats=fixed_stats,
        act=act,
        drop=_drop(p, mask, seed),
    )
    return dx, dweight, dbias


def _drop(p: float, mask: Tensor | None, seed: int | None) -> Drop:
    return Drop(p, None if mask is None else dense_columns(mask), seed)


# ---------------------------------------------------------------------- the lean way
class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, mask, settings):  # type: ignore[no-untyped-def]
        out, used_mean, used_rstd = _forward(x, weight, bias, mean, var, mask, settings)
        ctx.settings, ctx.fixed_stats = settings, mean is not None
        ctx.save_for_backward(x, weight, bias, used_mean, used_rstd, mask)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, bias, mean, rstd, mask = ctx.saved_tensors
        if double_backward.asks_reference(grad):
            call = partial(_by_reference, ctx.settings, (mean, rstd) if ctx.fixed_stats else None, mask)
            return *double_backward.gradients(call, (x, weight, bias), (grad,), ctx.needs_input_grad[:3]), *(None,) * 4
        dx, dweight, dbias = _backward(grad, x, weight, bias, mean, rstd, mask, ctx.fixed_stats, ctx.settings)
        return (
            dx if ctx.needs_input_grad[0] else None,
            dweight.to(weight.dtype) if ctx.needs_input_grad[1] else None,
            dbias.to(bias.dtype) if ctx.needs_input_grad[2] else None,
            *(None,) * 4,
        )


def _by_reference(settings, stats, mask, x, weight, bias):  # type: ignore[no-untyped-def]
    kind, eps, act, p, seed = settings
    if stats is not None:
        stats = stats[0], stats[1] ** -2 - eps
    return reference.norm_act_drop(
        x, weight, bias, norm=kind, eps=eps, stats=stats, act=act, p=p, mask=mask, seed=seed
    )  # fmt: skip


# ---------------------------------------------------------------------- custom ops
@torch.library.custom_op("revgnn::norm_act_drop", mutates_args=(), device_types=("cpu", "cuda"))
def _op(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    mask: Tensor | None,
    kind: str,
    eps: float,
    act: bool,
    p: float,
    seed: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _forward(x, weight, bias, mean, var, mask, _Settings(kind, eps, act, p, seed))


@_op.register_fake
def _(x, weight, bias, mean, var, mask, kind, eps, act, p, seed):  # type: ignore[no-untyped-def]
    size = {"none": 0, "layer": x.size(0), "batch": x.size(1)}[kind]
    stats = x.new_empty(size, dtype=sum_dtype(x.dtype))
    return torch.empty_like(x, memory_format=torch.contiguous_format), stats, torch.empty_like(stats)


@torch.library.custom_op("revgnn::norm_act_drop_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _backward_op(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    mask: Tensor | None,
    fixed_stats: bool,
    kind: str,
    eps: float,
    act: bool,
    p: float,
    seed: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(grad, x, weight, bias, mean, rstd, mask, fixed_stats, _Settings(kind, eps, act, p, seed))


@_backward_op.register_fake
def _(grad, x, weight, bias, mean, rstd, mask, fixed_stats, kind, eps, act, p, seed):  # type: ignore[no-untyped-def]
    vector = x.new_empty(x.size(1), dtype=sum_dtype(x.dtype))
    return torch.empty_like(x, memory_format=torch.contiguous_format), vector, torch.empty_like(vector)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias, mean, _, mask, *settings = inputs
    _, used_mean, used_rstd = output
    ctx.mark_non_differentiable(used_mean, used_rstd)
    ctx.settings, ctx.fixed_stats = settings, mean is not None
    ctx.save_for_backward(x, weight, bias, used_mean, used_rstd, mask)


def _vjp(ctx, grad, *_):  # type: ignore[no-untyped-def]
    x, weight, bias, mean, rstd, mask = ctx.saved_tensors
    dx, dweight, dbias = _backward_op(grad, x, weight, bias, mean, rstd, mask, ctx.fixed_stats, *ctx.settings)
    dweight = None if weight is None else dweight.to(weight.dtype)
    dbias = None if bias is None else dbias.to(bias.dtype)
    return dx, dweight, dbias, *(None,) * 8


_op.register_autograd(_vjp, setup_context=_setup)
double_backward.refuse_second(_backward_op)
