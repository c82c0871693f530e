"""Norm, ReLU and dropout in one pass on the kernels, with one or two passes in the backward.

Saved for the backward: x, the statistics ([N] pairs for layer, [D] for batch) and the caller's mask; a mask drawn from
a seed is drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .choice import kernels
from .cpu import Drop, dense_columns, sum_dtype, summable
from .kernel_op import KernelOp, Needs
from .reference import Norm
from .spmm import empty_dense


class Head(NamedTuple):
    """What is normalised, rectified and dropped, and how; contract in `revgnn.ops.norm_act_drop`."""

    x: Tensor
    """[N, D]"""
    weight: Tensor | None
    """[D] of any type; ``None`` without a norm."""
    bias: Tensor | None
    """Likewise."""
    mean: Tensor | None
    """[D] with `var`: statistics to use instead of the batch's own."""
    var: Tensor | None
    mask: Tensor | None
    """[N, D] bool or [N, D / 8] uint8; ``None`` where nothing drops."""
    kind: str
    """The norm: ``layer``, ``batch`` or ``none``."""
    eps: float
    act: bool
    p: float
    seed: int | None
    narrow: bool
    """Whether the result is bfloat16, for float32 x."""

    @property
    def drop(self) -> Drop:
        return Drop(self.p, None if self.mask is None else dense_columns(self.mask), self.seed)


_Outputs = tuple[Tensor, Tensor, Tensor]


def _outputs(a: Head, needs: Needs) -> tuple[Tensor, Tensor, Tensor]:
    """The output and the statistics that the backward needs, empty for ``none``."""
    size = {"none": 0, "layer": a.x.size(0), "batch": a.x.size(1)}[a.kind]
    mean = a.x.new_empty(size, dtype=sum_dtype(a.x.dtype))
    return empty_dense(a.x, torch.bfloat16 if a.narrow else None), mean, torch.empty_like(mean)


def _forward(a: Head, outputs: _Outputs) -> None:
    x, (out, mean, rstd) = dense_columns(a.x), outputs
    if a.mean is not None and a.var is not None:
        mean.copy_(a.mean)
        rstd.copy_((a.var.to(rstd.dtype) + a.eps).rsqrt())
    elif a.kind == "batch":
        kernels(x).batch_stats(x, eps=a.eps, mean=mean, rstd=rstd)
    kernels(x).norm_act_drop(
        x,
        kind=a.kind,
        out=out,
        weight=summable(a.weight, x),
        bias=summable(a.bias, x),
        eps=a.eps,
        mean=mean,
        rstd=rstd,
        act=a.act,
        drop=a.drop,
    )


def _saved(a: Head, outputs: _Outputs, needs: Needs) -> tuple[Tensor | None, ...]:
    """The caller's statistics may change before the backward: those that were used are kept."""
    _, mean, rstd = outputs
    return a.x, a.weight, a.bias, None if a.mean is None else mean, None, a.mask, None, mean, rstd


def _backward(a: Head, outputs: _Outputs, cotangents: Sequence[Tensor], needs: Needs) -> tuple[Tensor | None, ...]:
    x, grad, (_, mean, rstd) = dense_columns(a.x), dense_columns(cotangents[0]), outputs
    dx = empty_dense(x)
    dweight = x.new_empty(x.size(1), dtype=sum_dtype(x.dtype))
    dbias = torch.empty_like(dweight)
    kernels(x).norm_act_drop_backward(
        grad,
        x,
        kind=a.kind,
        dx=dx,
        dweight=dweight,
        dbias=dbias,
        weight=summable(a.weight, x),
        bias=summable(a.bias, x),
        mean=mean,
        rstd=rstd,
        fixed_stats=a.mean is not None,
        act=a.act,
        drop=a.drop,
    )
    affine = ((dweight, a.weight), (dbias, a.bias))
    return dx, *(None if own is None else grad.to(own.dtype) for grad, own in affine), None, None, None


def _reference(a: Head) -> Tensor:
    stats = None if a.mean is None or a.var is None else (a.mean, a.var)
    found = reference.norm_act_drop(
        a.x, a.weight, a.bias, norm=_NORMS[a.kind], eps=a.eps, stats=stats, act=a.act, p=a.p, mask=a.mask, seed=a.seed
    )  # fmt: skip
    return found.to(torch.bfloat16) if a.narrow else found


_NORMS: dict[str, Norm] = {"layer": "layer", "batch": "batch", "none": "none"}

NORM_ACT_DROP = KernelOp(
    name="revgnn::norm_act_drop",
    arguments=Head,
    kernels=("norm_act_drop", "norm_act_drop_backward", "batch_stats"),
    outputs=_outputs,
    forward=_forward,
    saved=_saved,
    backward=_backward,
    reference=_reference,
    again=lambda a, outputs: _reference(a if a.mean is None else a._replace(var=outputs[2] ** -2 - a.eps)),
)
