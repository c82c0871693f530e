"""What BatchNorm normalises by: running statistics, those of the batch, or those of the rows of all ranks.

The modules are torch's own (`nn.BatchNorm1d`, `nn.SyncBatchNorm`): they hold weights, statistics and choices, and are
frozen, reset or converted like any other. This file reads them.

Rows of several ranks are normalised together under DistributedDataParallel, and wherever `synchronise` says so: with n
rows on all ranks and ``xhat = (x - mean) / sqrt(var + eps)``, the gradient is ``dx = dz - (sum dz + xhat sum dz xhat)
/ n``, where ``dz`` is the gradient at fixed statistics and the sums go over all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .gradients import refusing_second
from .rank_group import Exchange, RankGroup, is_alone
from .recomputing import is_recomputing

Statistics = tuple[Tensor, Tensor]
"""[D] mean, [D] biased variance."""


def synchronise(model: nn.Module, exchange: Exchange | None) -> RankGroup:
    """Let every `nn.BatchNorm1d` of a model, which this library's are too, normalise by the rows of all ranks.

    All ranks must then call the model equally often while it trains. The norms in `left_out` go on by themselves.

    Args:
        model: with its norms in place: `torch.nn.SyncBatchNorm.convert_sync_batchnorm` puts others there.
        exchange: torch's ProcessGroup, such as ``torch.distributed.group.WORLD``; ``None``: each rank normalises by its
            own rows, under DistributedDataParallel too.
    Returns: what the norms share.
    Cost: for each norm two exchanges of up to 3 D numbers a rank, a third where a block is evaluated again; and two
        passes over N x D in the backward.
    """
    group = RankGroup(exchange if exchange is not None and exchange.size() > 1 else None)
    for module in _batch_norms(model):
        module.rank_group = group  # type: ignore[assignment]
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SharedBatchNorm1d
    return group


@contextmanager
def synchronised(model: nn.Module, exchange: Exchange | None) -> Iterator[RankGroup]:
    """`synchronise` inside, and leave the norms as they were."""
    before = [(norm, type(norm), getattr(norm, "rank_group", None)) for norm in _batch_norms(model)]
    try:
        yield synchronise(model, exchange)
    finally:
        for norm, kind, known in before:
            norm.__class__, norm.rank_group = kind, known  # type: ignore[assignment]


def left_out(model: nn.Module) -> list[nn.Module]:
    """The norms that normalise by the rows of their own rank in any case.

    They are of another type, or inside a module with ``evaluated_by_rank``: an equilibrium, whose solver evaluates
    its block as often as each rank needs.
    """
    solved = {
        part for module in model.modules() if getattr(module, "evaluated_by_rank", False) for part in module.modules()
    }
    reached = (nn.BatchNorm1d, nn.SyncBatchNorm, SharedBatchNorm1d)
    return [norm for norm in _batch_norms(model) if norm in solved or type(norm) not in reached]


class SharedBatchNorm1d(nn.BatchNorm1d):
    """An `nn.BatchNorm1d` after `synchronise`: it normalises by the rows of all ranks, on any device."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] or [N, D, L] -> the same."""
        self._check_input_dim(x)
        rows = x.movedim(1, -1)
        flat, found = statistics(self, rows.reshape(-1, x.size(1)))
        mean, var = found or (None, None)
        cudnn = torch.backends.cudnn.enabled
        y = torch.batch_norm(flat, self.weight, self.bias, mean, var, found is None, 0.0, self.eps, cudnn)
        return y.view(rows.shape).movedim(-1, 1)


# ---------------------------------------------------------------------- what a norm is evaluated with
def uses_batch(norm: _BatchNorm) -> bool:
    """Whether a norm goes by the rows that it is given, not by running statistics."""
    return norm.training or norm.running_mean is None


def statistics(norm: _BatchNorm, x: Tensor) -> tuple[Tensor, Statistics | None]:
    """Find what to normalise [N, D] rows by, and move the running statistics, once per step.

    Returns: the rows, in a form whose gradient goes through the statistics of several ranks; and statistics that are
        constants beside them, or ``None``: those of the rows themselves.
    """
    if not uses_batch(norm):
        return x, running(norm)
    group = rank_group(norm)
    if group is None:
        if moves(norm) and x.size(0) > 0:
            var, mean = torch.var_mean(x.detach().to(running(norm)[0].dtype), dim=0, correction=0)
            move(norm, mean, var, x.size(0))
        return x, None
    x, mean, var, count = _OverRanks.apply(x, norm.eps, group)  # type: ignore[no-untyped-call]
    move(norm, mean, var, count)
    return x, (mean, var)


def running(norm: _BatchNorm) -> Statistics:
    """The running statistics of a norm that has them."""
    assert norm.running_mean is not None and norm.running_var is not None, "`uses_batch` was asked"
    return norm.running_mean, norm.running_var


def rank_group(norm: _BatchNorm) -> RankGroup | None:
    """The ranks whose rows are normalised together; ``None``: the rows of this one alone.

    Where nobody called `synchronise`, they are those of the DistributedDataParallel whose forward is going on. An
    evaluation that is repeated in the backward goes with the ranks of the first.
    """
    known: RankGroup | None = vars(norm).get("rank_group")
    if not (known is not None and known.is_lasting) and not is_recomputing():
        found = _of_data_parallel(norm, known)
        if found is not known:
            norm.rank_group = known = found  # type: ignore[assignment]
    return None if known is None or known.exchange is None or not norm.training or is_alone() else known


def moves(norm: _BatchNorm) -> bool:
    """Whether running statistics are tracked, and this evaluation is the first of its step."""
    return norm.training and norm.track_running_stats and norm.running_mean is not None and not is_recomputing()


@torch.no_grad()
def move(norm: _BatchNorm, new_mean: Tensor, new_var: Tensor, count: Tensor | int) -> None:
    """Move the running statistics, where they do, to the mean and the biased variance of so many rows, 0 or more."""
    if not moves(norm):
        return
    mean, var = running(norm)
    assert norm.num_batches_tracked is not None, "it is where running statistics are"
    norm.num_batches_tracked += count > 0
    share: Tensor | float | None = norm.momentum
    if share is None:
        share = norm.num_batches_tracked.to(mean.dtype).clamp(min=1.0).reciprocal()
    if isinstance(count, Tensor):
        share = share * (count > 0).to(mean.dtype)
        new_var = new_var * (count / (count - 1.0).clamp(min=1.0))
    else:
        share = share * (count > 0)
        new_var = new_var * (count / max(count - 1, 1))
    mean.lerp_(new_mean.to(mean.dtype), share)
    var.lerp_(new_var.to(var.dtype), share)


def over_ranks(x: Tensor, group: RankGroup, own: Statistics | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of the rows of all ranks: [D] and [D] in the dtype of sums, float64 scalar.

    Args:
        x: [N, D] rows of this rank.
        own: their statistics, where they are known.
    Source: Chan et al. 1979, for merging means and variances.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    sent = torch.zeros(3, x.size(1), dtype=torch.float64, device=x.device)
    if x.size(0) > 0:
        sent[1], sent[0] = torch.var_mean(x.detach().to(dtype), dim=0, correction=0) if own is None else own[::-1]
        sent[2] = x.size(0)
    means, variances, counts = group.gather_counted(sent).unbind(1)
    count = counts[:, 0].sum()
    share = counts / count.clamp(min=1.0)
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean.to(dtype), var.to(dtype), count


def sum_over_ranks(own: Tensor, group: RankGroup) -> Tensor:
    """Add a tensor up over the ranks, in float64; the sum is given in its own dtype."""
    return group.gather_counted(own.double()).sum(0).to(own.dtype)


# ---------------------------------------------------------------------- inside
class _OverRanks(torch.autograd.Function):
    """The rows unchanged, beside the statistics of all rows; the gradient is what the top of this file says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, group: RankGroup) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = over_ranks(x, group)
        ctx.group, ctx.counts = group, group.counts
        ctx.save_for_backward(x, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return x.view_as(x), mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, None, None]:
        x, mean, rstd, count = ctx.saved_tensors
        with torch.no_grad():
            along = (x - mean) * rstd
            own = torch.stack([grad.to(along.dtype).sum(0), (grad * along).sum(0)])
            both, product = sum_over_ranks(own, ctx.group) / count.clamp(min=1.0).to(own.dtype)
            # Rows that do not count have moved no statistics.
            found: list[Tensor | None] = [
                (grad - along.mul_(product).add_(both)).to(grad.dtype) if ctx.counts else grad.clone()
            ]
        if torch.is_grad_enabled():
            # The caller asked for create_graph.
            found = refusing_second(found, [grad, x], "BatchNorm over several ranks", "turn synchronisation off for it")
        return found[0], None, None


def _of_data_parallel(norm: _BatchNorm, known: RankGroup | None) -> RankGroup | None:
    """The ranks of the DistributedDataParallel whose forward is going on, if there are several."""
    active = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if active is None:
        return None
    exchange = getattr(norm, "process_group", None) or active.process_group
    if exchange.size() == 1:
        return None
    return known if known is not None and known.exchange is exchange else RankGroup(exchange, is_lasting=False)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
