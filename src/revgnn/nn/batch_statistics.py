"""The statistics of a BatchNorm on the kernels: of the batch, running ones, and those of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ops
from ..stack import WorkSpace
from ..stack.batch_norm import move, moves, over_ranks, rank_group, running, uses_batch


def write_statistics(norm: _BatchNorm, x: Tensor, mean: Tensor, rstd: Tensor, work: WorkSpace) -> None:
    """Write BatchNorm's statistics of this evaluation, and update the running statistics."""
    if not uses_batch(norm):
        mean.copy_(running(norm)[0])
        torch.rsqrt(running(norm)[1].to(x.dtype) + norm.eps, out=rstd)
        return
    group, var = rank_group(norm), work.empty("var", x, (x.size(1),))
    ops.kernels(x).batch_stats(x, eps=norm.eps, mean=mean, rstd=rstd, var=var)
    if group is None:
        if moves(norm) and "running_stats" in ops.kernels(x).names and is_moved_by_kernel(norm, mean.dtype):
            ops.kernels(x).running_stats(
                mean, var, num_rows=x.size(0), running_mean=norm.running_mean, running_var=norm.running_var,
                num_batches=norm.num_batches_tracked, momentum=norm.momentum,
            )  # fmt: skip
        else:
            move(norm, mean, var, x.size(0))
        return
    global_mean, global_var, count = over_ranks(x, group, (mean, var))
    move(norm, global_mean, global_var, count)
    mean.copy_(global_mean)
    torch.rsqrt(global_var + norm.eps, out=rstd)
    work.empty("count", x, ()).copy_(count)


def is_moved_by_kernel(norm: _BatchNorm, dtype: torch.dtype) -> bool:
    """Whether a kernel can move the running statistics of a norm by those of a batch, which are of this type."""
    own, count, share = norm.running_mean, norm.num_batches_tracked, norm.momentum
    return (
        own is not None
        and own.dtype is dtype
        and ops.fits(own, own, norm.num_features)
        and ops.fits(norm.running_var, own, norm.num_features)
        and type(count) is Tensor
        and count.dtype is torch.int64
        and count.device == own.device
        and (share is None or 0.0 <= share <= 1.0)
    )
