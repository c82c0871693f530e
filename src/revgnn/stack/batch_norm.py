"""Statistics for BatchNorm: running statistics, those of the batch, or those of the rows of all ranks.

The modules are torch's own (`nn.BatchNorm1d`, `nn.SyncBatchNorm`): they hold weights, statistics and settings, and can
be frozen, reset or converted as usual. This file computes the statistics that they normalise by.

Rows of several ranks are normalised together under DistributedDataParallel and after `synchronise`: with n rows on all
ranks and ``xhat = (x - mean) / sqrt(var + eps)``, the gradient is ``dx = dz - (sum dz + xhat sum dz xhat) / n``, where
``dz`` is the gradient at fixed statistics and the sums run over all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .gradients import FunctionContext, refusing_second
from .rank_group import Exchange, RankGroup, is_alone
from .recomputing import is_recomputing

Statistics = tuple[Tensor, Tensor]
"""[D] mean, [D] biased variance."""


def synchronise(model: nn.Module, exchange: Exchange | None) -> RankGroup:
    """Make every `nn.BatchNorm1d` of a model, this library's included, normalise by the rows of all ranks.

    All ranks must then call the model equally often while it trains. The norms in `left_out` keep using the rows of
    their own rank.

    Args:
        model: the model, converted already if `torch.nn.SyncBatchNorm.convert_sync_batchnorm` is used: it replaces
            norms.
        exchange: torch's ProcessGroup, such as ``torch.distributed.group.WORLD``; ``None``: each rank normalises by its
            own rows, also under DistributedDataParallel.
    Returns: the group that the norms share.
    Cost: per norm two exchanges of up to 3 D numbers per rank, a third where a block is recomputed, and two passes over
        N x D in the backward.

    Examples:
        >>> import torch
        >>> from revgnn.nn import synchronise
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        >>> group = synchronise(model, None)  # with several ranks: torch.distributed.group.WORLD
    """
    group = RankGroup(exchange if exchange is not None and exchange.size() > 1 else None)
    for module in _batch_norms(model):
        module.rank_group = group  # type: ignore[assignment]
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SharedBatchNorm1d
    return group


@contextmanager
def synchronised(model: nn.Module, exchange: Exchange | None) -> Iterator[RankGroup]:
    """Apply `synchronise` inside the context, and restore the norms afterwards."""
    before = [(norm, type(norm), getattr(norm, "rank_group", None)) for norm in _batch_norms(model)]
    try:
        yield synchronise(model, exchange)
    finally:
        for norm, kind, known in before:
            norm.__class__, norm.rank_group = kind, known  # type: ignore[assignment]


def left_out(model: nn.Module) -> list[nn.Module]:
    """Return the norms that normalise by the rows of their own rank even after `synchronise`.

    They are of another type, or inside a module with ``evaluated_by_rank``: an equilibrium, whose solver evaluates the
    block a different number of times on each rank.
    """
    solved = {
        part for module in model.modules() if getattr(module, "evaluated_by_rank", False) for part in module.modules()
    }
    reached = (nn.BatchNorm1d, nn.SyncBatchNorm, SharedBatchNorm1d)
    return [norm for norm in _batch_norms(model) if norm in solved or type(norm) not in reached]


class SharedBatchNorm1d(nn.BatchNorm1d):
    """An `nn.BatchNorm1d` that normalises by the rows of all ranks, on any device; `synchronise` makes it."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] or [N, D, L] -> the same."""
        self._check_input_dim(x)
        rows = x.movedim(1, -1)
        flat, found = statistics(self, rows.reshape(-1, x.size(1)))
        mean, var = found or (None, None)
        cudnn = torch.backends.cudnn.enabled
        y = torch.batch_norm(flat, self.weight, self.bias, mean, var, found is None, 0.0, self.eps, cudnn)
        return y.view(rows.shape).movedim(-1, 1)


# ---------------------------------------------------------------------- statistics of one evaluation
def uses_batch(norm: _BatchNorm) -> bool:
    """Whether a norm uses the statistics of its input rather than the running statistics."""
    return norm.training or norm.running_mean is None


def statistics(norm: _BatchNorm, x: Tensor) -> tuple[Tensor, Statistics | None]:
    """Return the statistics for [N, D] rows, and update the running statistics once per step.

    Returns: the rows, through an autograd Function that differentiates the statistics of several ranks; and the
        statistics as constants, or ``None``: normalise by the rows themselves.
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
    """Return the running statistics of a norm that tracks them."""
    assert norm.running_mean is not None and norm.running_var is not None, "`uses_batch` excludes such a norm"
    return norm.running_mean, norm.running_var


def rank_group(norm: _BatchNorm) -> RankGroup | None:
    """Return the ranks whose rows are normalised together; ``None``: this rank's rows only.

    Without `synchronise` they are the ranks of the DistributedDataParallel module whose forward is running. A
    recomputation in the backward uses the ranks of the first evaluation.
    """
    known: RankGroup | None = vars(norm).get("rank_group")
    if not (known is not None and known.is_lasting) and not is_recomputing():
        found = _of_data_parallel(norm, known)
        if found is not known:
            norm.rank_group = known = found  # type: ignore[assignment]
    return None if known is None or known.exchange is None or not norm.training or is_alone() else known


def may_share_rows(norm: _BatchNorm) -> bool:
    """Whether an evaluation of a norm may ask for its `rank_group`, and find other ranks."""
    known: RankGroup | None = vars(norm).get("rank_group")
    active = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    return active is not None or (known is not None and known.exchange is not None)


def moves(norm: _BatchNorm) -> bool:
    """Whether this evaluation updates running statistics: they are tracked, and it is the first of its step."""
    return norm.training and norm.track_running_stats and norm.running_mean is not None and not is_recomputing()


@torch.no_grad()
def move(norm: _BatchNorm, new_mean: Tensor, new_var: Tensor, count: Tensor | int) -> None:
    """Update the running statistics, if `moves`, by the mean and the biased variance of ``count`` rows, 0 or more."""
    if not moves(norm):
        return
    mean, var = running(norm)
    assert norm.num_batches_tracked is not None, "a norm with running statistics counts batches"
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
    """Return the mean, the biased variance and the number of the rows of all ranks.

    Args:
        x: [N, D] rows of this rank.
        own: their statistics, if known.
    Returns: [D] and [D], at least float32, and a float64 scalar.
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
    """Sum a tensor over the ranks in float64; return the sum in the tensor's dtype."""
    return group.gather_counted(own.double()).sum(0).to(own.dtype)


# ---------------------------------------------------------------------- implementation
class _RanksContext(FunctionContext):
    group: RankGroup
    counts: bool


class _OverRanks(torch.autograd.Function):
    """Return the rows unchanged and the statistics of all ranks' rows; the module's docstring gives the gradient."""

    @staticmethod
    def forward(ctx: _RanksContext, x: Tensor, eps: float, group: RankGroup) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = over_ranks(x, group)
        ctx.group, ctx.counts = group, group.counts
        ctx.save_for_backward(x, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return x.view_as(x), mean, var, count

    @staticmethod
    def backward(ctx: _RanksContext, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, None, None]:
        x, mean, rstd, count = ctx.saved_tensors
        with torch.no_grad():
            xhat = (x - mean) * rstd
            own = torch.stack([grad.to(xhat.dtype).sum(0), (grad * xhat).sum(0)])
            mean_grad, mean_product = sum_over_ranks(own, ctx.group) / count.clamp(min=1.0).to(own.dtype)
            # The statistics do not depend on rows that do not count.
            found: list[Tensor | None] = [
                (grad - xhat.mul_(mean_product).add_(mean_grad)).to(grad.dtype) if ctx.counts else grad.clone()
            ]
        if torch.is_grad_enabled():
            # Grad mode in a backward means create_graph.
            found = refusing_second(found, [grad, x], "BatchNorm over several ranks", "turn synchronisation off for it")
        return found[0], None, None


def _of_data_parallel(norm: _BatchNorm, known: RankGroup | None) -> RankGroup | None:
    """Return the ranks of the DistributedDataParallel module whose forward is running, or None for a single rank."""
    active = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if active is None:
        return None
    exchange = getattr(norm, "process_group", None) or active.process_group
    if exchange.size() == 1:
        return None
    return known if known is not None and known.exchange is exchange else RankGroup(exchange, is_lasting=False)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
