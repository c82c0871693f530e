"""Norm, ReLU and dropout in one pass: the head of every block, of an MLP's hidden layers, and of the last layer.

The norms are torch's own modules where torch has them, so that whatever looks for an `nn.LayerNorm` or an
`nn.BatchNorm1d` finds it: exclusion from weight decay, freezing, `update_bn`, `SyncBatchNorm`. `ActDrop` runs them on
the kernels. A module of any other type, or one that is watched by hooks, is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ops
from ..graph import Graph
from ..ops import cpu
from ..stack import WorkSpace, draw_seed, is_recomputing, is_watched
from ..stack.batch_norm import (
    SharedBatchNorm1d,
    move,
    over_ranks,
    rank_group,
    running,
    statistics,
    sum_over_ranks,
    uses_batch,
)
from ..stack.rank_group import is_alone


class GraphNorm(nn.Module):
    """Normalise over the nodes of each graph: ``(x - a * mean) / sqrt(var + eps) * w + b``, with a learned ``a``.

    Args:
        channels: D.
        eps: added to the variance.
    Source: Cai et al. 2021, GraphNorm (arXiv:2009.03294).
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.mean_scale = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from plain normalisation."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.ones_(self.mean_scale)

    def forward(self, x: Tensor, graph: Graph | None) -> Tensor:
        """[N, D] -> [N, D]."""
        return ActDrop(act=False).by_op("graph", self, x, graph)

    def extra_repr(self) -> str:
        """Show the choices."""
        return f"{self.weight.numel()}, eps={self.eps}"


NORMS: dict[ops.Norm, Callable[[int, float, float | None], nn.Module]] = {
    "layer": lambda channels, eps, momentum: nn.LayerNorm(channels, eps=eps),
    "batch": lambda channels, eps, momentum: nn.BatchNorm1d(channels, eps=eps, momentum=momentum),
    "graph": lambda channels, eps, momentum: GraphNorm(channels, eps=eps),
    "none": lambda channels, eps, momentum: nn.Identity(),
}
"""Name -> module of so many channels, from the number that is added to the variance and the momentum."""

KINDS: dict[type[nn.Module], ops.Norm] = {
    nn.LayerNorm: "layer",
    nn.BatchNorm1d: "batch",
    nn.SyncBatchNorm: "batch",
    SharedBatchNorm1d: "batch",
    GraphNorm: "graph",
    nn.Identity: "none",
}
"""Type of a module -> the kind that the ops know it as; none draws random numbers."""


def kind_of(norm: nn.Module, x: Tensor) -> ops.Norm | None:
    """As which kind a module's norm of [N, D] rows may be taken by the ops; ``None``: the module has to be called."""
    kind = KINDS.get(type(norm))
    if kind is None or is_watched(norm):
        return None
    if isinstance(norm, nn.LayerNorm) and norm.normalized_shape != (x.size(-1),):
        return None
    if isinstance(norm, _BatchNorm):
        if x.dim() != 2 or x.size(1) != norm.num_features:
            return None
        # torch's own knows ranks that are not found here.
        if type(norm) is nn.SyncBatchNorm and norm.training and not is_alone() and rank_group(norm) is None:
            return None
    return kind


def goes_by_rows(norm: nn.Module) -> bool:
    """Whether a norm treats every row for itself, and nobody waits to see it at work."""
    return type(norm) in (nn.LayerNorm, nn.Identity) and not is_watched(norm)


@dataclass(frozen=True)
class ActDrop:
    """What is done in one pass with a norm: ``keep * relu(norm(x)) / (1 - p)``.

    Running statistics of BatchNorm move once per step: not while a stack evaluates a block again.
    """

    act: bool = True
    """Whether there is the ReLU."""
    dropout: float = 0.0
    """Probability of dropping, in training only."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def __call__(
        self,
        norm: nn.Module,
        x: Tensor,
        graph: Graph | None = None,
        *,
        training: bool = False,
        mask: Tensor | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Apply to [N, D]; ``mask`` [N, D] bool or ``seed`` say what drops in ``training``, neither draws a seed."""
        drop = self._drop(training, mask, seed)
        kind = kind_of(norm, x)
        if kind is None:
            return self.by_op("none", nn.Identity(), _called(norm, x, graph), graph, drop)
        return self.by_op(kind, norm, x, graph, drop)

    def by_op(self, kind: ops.Norm, norm: Any, x: Tensor, graph: Graph | None, drop: cpu.Drop = cpu.NO_DROP) -> Tensor:
        """Apply by the op for a kind of norm, with what the module holds."""
        x, stats = statistics(norm, x) if kind == "batch" else (x, None)
        return ops.norm_act_drop(
            x,
            getattr(norm, "weight", None),
            getattr(norm, "bias", None),
            norm=kind,
            eps=getattr(norm, "eps", 0.0),
            stats=stats,
            graph=graph,
            mean_scale=getattr(norm, "mean_scale", None),
            act=self.act,
            p=drop.p,
            mask=drop.mask,
            seed=drop.seed,
        )

    def fuses(self, norm: nn.Module, x: Tensor) -> bool:
        """Whether `write` and `pull_back` can take [N, D] rows, without autograd."""
        running = (getattr(norm, name, None) for name in ("running_mean", "running_var"))
        return (
            x.dim() == 2
            and kind_of(norm, x) in ("layer", "batch", "none")
            and all(vector is None or ops.fits(vector, x, x.size(1)) for vector in _affine(norm).values())
            and all(v is None or (v.shape == x.shape[1:] and v.device == x.device) for v in running)
        )

    def write(
        self,
        norm: Any,
        out: Tensor,
        x: Tensor,
        work: WorkSpace,
        *,
        training: bool,
        mask: Tensor | None = None,
        seed: int | None = None,
    ) -> None:
        """Evaluate as a call does, into a dense buffer; the statistics stay in the work space for `pull_back`."""
        kind, kernels = KINDS[type(norm)], ops.kernels(x)
        mean, rstd = _in_work(kind, x, work)
        if kind == "batch":
            _write_statistics(norm, x, mean, rstd, work)
        kernels.norm_act_drop(
            x, kind=kind, out=out, eps=getattr(norm, "eps", 0.0), mean=mean, rstd=rstd, act=self.act,
            drop=self._drop(training, mask, seed), **_affine(norm),
        )  # fmt: skip

    def pull_back(
        self,
        norm: Any,
        dx: Tensor,
        x: Tensor,
        grad: Tensor,
        work: WorkSpace,
        *,
        training: bool,
        accumulate: bool,
        mask: Tensor | None = None,
        seed: int | None = None,
    ) -> dict[Tensor | None, Tensor]:
        """Write the gradient of x after a `write` of the same, or add it; overwrites ``grad``.

        Returns: the parameters' gradients.
        """
        kind = KINDS[type(norm)]
        mean, rstd = _in_work(kind, x, work)
        dweight, dbias = x.new_empty(x.size(1)), x.new_empty(x.size(1))
        group = rank_group(norm) if kind == "batch" else None
        affine = _affine(norm)
        ops.kernels(x).norm_act_drop_backward(
            grad, x, kind=kind, dx=dx, dweight=dweight, dbias=dbias, mean=mean, rstd=rstd,
            fixed_stats=kind == "batch" and (group is not None or not uses_batch(norm)), act=self.act,
            drop=self._drop(training, mask, seed), accumulate=accumulate, **affine,
        )  # fmt: skip
        if group is not None:
            # The kernel took the statistics of all ranks as constants: what they add is taken from every row.
            both, product = sum_over_ranks(torch.stack([dbias, dweight]), group)
            if group.counts:
                scale = rstd / work.empty("count", x, ())
                scale = scale if affine["weight"] is None else scale * affine["weight"]
                torch.sub(x, mean, out=grad)
                dx.sub_(grad.mul_(rstd * product * scale).add_(both * scale))
        found = {affine["weight"]: dweight, affine["bias"]: dbias}
        return {parameter: share for parameter, share in found.items() if parameter is not None}

    def _drop(self, training: bool, mask: Tensor | None, seed: int | None) -> cpu.Drop:
        if not training or self.dropout == 0.0:
            return cpu.NO_DROP
        return cpu.Drop(self.dropout, mask, draw_seed() if mask is None and seed is None else seed)


class NormActDrop(nn.Module):
    """Normalise, rectify and drop: ``keep * relu(norm(x)) / (1 - p)``.

    The blocks and heads of this package take one apart: its norm becomes theirs, so that weights are named ``norm``.

    Args:
        channels: D.
        norm: ``layer``, ``batch``, ``none`` or ``graph``, which goes over the nodes of each graph.
        act: whether to apply the ReLU.
        dropout: probability of dropping, in training only.
        eps: added to the variance.
        momentum: share of the new batch in the running statistics; ``None``: they are the mean of all batches.
    """

    def __init__(
        self,
        channels: int,
        norm: ops.Norm = "layer",
        *,
        act: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is not known; choose one of {', '.join(NORMS)}")
        self.channels = channels
        self.norm = NORMS[norm](channels, eps, momentum)
        self.act_drop = ActDrop(act, dropout)

    def forward(
        self, x: Tensor, graph: Graph | None = None, *, mask: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        """Apply to [N, D]; ``mask`` [N, D] bool or ``seed`` say what drops, neither draws a seed."""
        return self.act_drop(self.norm, x, graph, training=self.training, mask=mask, seed=seed)

    @property
    def running_mean(self) -> Tensor | None:
        """[D] running mean of BatchNorm."""
        found: Tensor | None = self.norm.running_mean  # type: ignore[assignment]
        return found

    @property
    def running_var(self) -> Tensor | None:
        """[D] running variance of BatchNorm."""
        found: Tensor | None = self.norm.running_var  # type: ignore[assignment]
        return found

    def extra_repr(self) -> str:
        """Show the choices that the norm does not."""
        return f"act={self.act_drop.act}, dropout={self.act_drop.dropout}"


def _write_statistics(norm: _BatchNorm, x: Tensor, mean: Tensor, rstd: Tensor, work: WorkSpace) -> None:
    """Write what BatchNorm normalises by, and move the running statistics."""
    if not uses_batch(norm):
        mean.copy_(running(norm)[0])
        torch.rsqrt(running(norm)[1].to(x.dtype) + norm.eps, out=rstd)
        return
    group, var = rank_group(norm), work.empty("var", x, (x.size(1),))
    ops.kernels(x).batch_stats(x, eps=norm.eps, mean=mean, rstd=rstd, var=var)
    if group is None:
        move(norm, mean, var, x.size(0))
        return
    of_all, var_of_all, count = over_ranks(x, group, (mean, var))
    move(norm, of_all, var_of_all, count)
    mean.copy_(of_all)
    torch.rsqrt(var_of_all + norm.eps, out=rstd)
    work.empty("count", x, ()).copy_(count)


def _affine(norm: nn.Module) -> dict[str, Any]:
    return {name: getattr(norm, name, None) for name in ("weight", "bias")}


def _in_work(kind: ops.Norm, x: Tensor, work: WorkSpace) -> tuple[Tensor, Tensor]:
    size = (x.size(0) if kind == "layer" else x.size(1),)
    return work.empty("mean", x, size), work.empty("rstd", x, size)


def _called(norm: nn.Module, x: Tensor, graph: Graph | None) -> Tensor:
    """Call a module; while a block is evaluated again, its buffers are left alone."""
    arguments = (x, graph) if isinstance(norm, GraphNorm) else (x,)
    if type(norm) is nn.BatchNorm1d and rank_group(norm) is not None:
        # torch's own would normalise by the rows of this rank alone.
        norm.__class__ = SharedBatchNorm1d
    if norm.training and is_recomputing():
        copies = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        found: Tensor = functional_call(norm, copies, arguments)
    else:
        found = norm(*arguments)
    return found
