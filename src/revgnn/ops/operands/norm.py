"""Checks the operands of the kernels for norm, ReLU and dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import dense, rows
from .csr import Fields, types_of


def norm_act_drop(
    x: Tensor,
    kind: str,
    out: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    mask: Tensor | None,
) -> Fields:
    """Operands of ``norm_act_drop``."""
    narrow = x.dtype is torch.float32 and out.dtype is torch.bfloat16
    found = _normalised(x, kind, weight, bias, mean, rstd, mask)
    return *found, *rows(out, "out", torch.bfloat16 if narrow else x.dtype, x.device, *x.shape)


def norm_act_drop_backward(
    grad: Tensor,
    x: Tensor,
    kind: str,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    mask: Tensor | None,
) -> Fields:
    """Operands of ``norm_act_drop_backward``."""
    (dtype, total), device, (n, d) = types_of(x), x.device, x.shape
    narrow = dtype is torch.float32 and grad.dtype is torch.bfloat16
    return (
        *_normalised(x, kind, weight, bias, mean, rstd, mask),
        *rows(grad, "grad", torch.bfloat16 if narrow else dtype, device, n, d),
        *rows(dx, "dx", dtype, device, n, d),
        dense(dweight, "dweight", total, device, d),
        dense(dbias, "dbias", total, device, d),
    )


def _normalised(
    x: Tensor,
    kind: str,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    mask: Tensor | None,
) -> Fields:
    (dtype, total), device, (n, d) = types_of(x), x.device, x.shape
    if kind == "batch" and (mean is None or rstd is None):
        raise ValueError("a kernel needs mean and rstd for a norm over the batch")
    size = n if kind == "layer" else d
    return (
        n,
        d,
        *rows(x, "x", dtype, device, n, d),
        dense(weight, "weight", total, device, d),
        dense(bias, "bias", total, device, d),
        0 if kind == "none" else dense(mean, "mean", total, device, size),
        0 if kind == "none" else dense(rstd, "rstd", total, device, size),
        *((0, 0) if mask is None else _mask(mask, device, n, d)),
    )


def _mask(mask: Tensor, device: torch.device, n: int, d: int) -> tuple[int, int]:
    """[N, D] bool, or [N, D / 8] bits."""
    if mask.dtype is torch.uint8:
        return rows(mask, "mask", torch.uint8, device, n, d // 8)
    return rows(mask, "mask", torch.bool, device, n, d)


def batch_stats(x: Tensor, mean: Tensor, rstd: Tensor, var: Tensor | None) -> Fields:
    """Operands of ``batch_stats``."""
    (dtype, total), device, (n, d) = types_of(x), x.device, x.shape
    return (
        n,
        d,
        *rows(x, "x", dtype, device, n, d),
        dense(mean, "mean", total, device, d),
        dense(rstd, "rstd", total, device, d),
        dense(var, "var", total, device, d),
    )


def running_stats(mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, num_batches: Tensor) -> Fields:
    """Operands of ``running_stats`` behind the number of rows."""
    (_, total), device, (d,) = types_of(mean), mean.device, mean.shape
    vectors = {"mean": mean, "var": var, "running_mean": running_mean, "running_var": running_var}
    places = (dense(vector, name, total, device, d) for name, vector in vectors.items())
    return d, *places, dense(num_batches, "num_batches", torch.int64, device)


def bits(out: Tensor, dtype: torch.dtype) -> Fields:
    """A dense tensor of any shape for a mask."""
    return out.numel(), dense(out, "out", dtype, out.device, *out.shape)
