"""Norm, ReLU and dropout in one pass: at the start of every block, in MLPs and before the last layer.

Norms are torch's own modules where torch has them, so that code that searches for `nn.LayerNorm` or `nn.BatchNorm1d`
finds them: exclusion from weight decay, freezing, `update_bn`, `SyncBatchNorm`. `ActDrop` evaluates them by the ops. It
calls a module of any other type, or one with hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ops
from ..graph import Graph
from ..ops import cpu
from ..stack import WorkSpace, draw_seed, is_recomputing, is_watched, keep_forwards
from ..stack.batch_norm import (
    SharedBatchNorm1d,
    may_share_rows,
    rank_group,
    statistics,
    sum_over_ranks,
    uses_batch,
)
from ..stack.rank_group import is_alone
from .batch_statistics import is_moved_by_kernel, write_statistics
from .fusable import reads


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
        """Initialise to ordinary normalisation."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.ones_(self.mean_scale)

    def forward(self, x: Tensor, graph: Graph | None) -> Tensor:
        """[N, D] -> [N, D]."""
        return ActDrop(act=False).by_op("graph", self, x, graph)

    def extra_repr(self) -> str:
        """Show the width and eps."""
        return f"{self.weight.numel()}, eps={self.eps}"


NORMS: dict[ops.Norm, Callable[[int, float, float | None], nn.Module]] = {
    "layer": lambda channels, eps, momentum: nn.LayerNorm(channels, eps=eps),
    "batch": lambda channels, eps, momentum: nn.BatchNorm1d(channels, eps=eps, momentum=momentum),
    "graph": lambda channels, eps, momentum: GraphNorm(channels, eps=eps),
    "none": lambda channels, eps, momentum: nn.Identity(),
}
"""Name -> ``(channels, eps, momentum) -> module``."""

KINDS: dict[type[nn.Module], ops.Norm] = {
    nn.LayerNorm: "layer",
    nn.BatchNorm1d: "batch",
    nn.SyncBatchNorm: "batch",
    SharedBatchNorm1d: "batch",
    GraphNorm: "graph",
    nn.Identity: "none",
}
"""Module type -> the norm's name in the ops; none of these modules draws random numbers."""
keep_forwards(*KINDS)


_AFFINE, _RUNNING = ("weight", "bias"), ("running_mean", "running_var")
_VECTORS_OF = {"layer": _AFFINE, "batch": _AFFINE, "graph": (*_AFFINE, "mean_scale"), "none": ()}
"""The parameters of each kind of norm."""


def kind_of(norm: nn.Module, x: Tensor) -> ops.Norm | None:
    """Return the ops' name of a norm of [N, D] rows; ``None``: the module must be called."""
    kind = KINDS.get(type(norm))
    if kind is None or is_watched(norm):
        return None
    if isinstance(norm, nn.LayerNorm) and norm.normalized_shape != (x.size(-1),):
        return None
    if isinstance(norm, _BatchNorm):
        if x.dim() != 2 or x.size(1) != norm.num_features:
            return None
        # torch's SyncBatchNorm may use a process group that `rank_group` does not find.
        if type(norm) is nn.SyncBatchNorm and norm.training and not is_alone() and rank_group(norm) is None:
            return None
    return kind


def is_row_wise(norm: nn.Module) -> bool:
    """Whether a norm treats every row independently and has no hooks."""
    return type(norm) in (nn.LayerNorm, nn.Identity) and not is_watched(norm)


@dataclass(frozen=True)
class ActDrop:
    """ReLU and dropout, evaluated in one pass with a norm: ``keep * relu(norm(x)) / (1 - p)``.

    BatchNorm's running statistics are updated once per step, not during recomputation.
    """

    act: bool = True
    """Whether to apply the ReLU."""
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
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Apply to [N, D]; in ``training`` ``mask`` [N, D] bool or ``seed`` sets dropout, neither draws a seed.

        The result has ``dtype``, or that of x if it is ``None``.
        """
        drop = self.drop(training, mask, seed)
        kind = kind_of(norm, x)
        if kind is None:
            return self.by_op("none", nn.Identity(), _called(norm, x, graph), graph, drop, dtype)
        return self.by_op(kind, norm, x, graph, drop, dtype)

    def by_op(
        self,
        kind: ops.Norm,
        norm: nn.Module,
        x: Tensor,
        graph: Graph | None,
        drop: cpu.Drop = cpu.NO_DROP,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Apply through the op for a kind of norm, with the module's parameters and statistics."""
        x, stats = statistics(norm, x) if isinstance(norm, _BatchNorm) else (x, None)
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
            dtype=dtype,
        )

    def fuses(self, norm: nn.Module, x: Tensor, graph: Graph | None = None) -> bool:
        """Whether `write` and `pull_back` support [N, D] rows, those of one graph for GraphNorm, without autograd."""
        kind, width = kind_of(norm, x) if x.dim() == 2 else None, x.shape[1:]
        if kind is None or (kind == "graph" and (graph is None or graph.num_graphs != 1)):
            return False
        running = (getattr(norm, name) for name in (_RUNNING if kind == "batch" else ()))
        return all(reads(norm, name, x, *width) for name in _VECTORS_OF[kind]) and all(
            vector is None or (vector.shape == width and vector.device == x.device) for vector in running
        )

    def calls_kernels_alone(self, norm: nn.Module, x: Tensor) -> bool:
        """Whether `write` and `pull_back` do nothing but call kernels, of the CPU, for rows like ``x``."""
        if not isinstance(norm, _BatchNorm):
            return KINDS.get(type(norm)) in ("layer", "none")
        is_moved = not norm.track_running_stats or is_moved_by_kernel(norm, cpu.sum_dtype(x.dtype))
        return norm.training and is_moved and not may_share_rows(norm)

    def write(
        self,
        norm: nn.Module,
        out: Tensor,
        x: Tensor,
        work: WorkSpace,
        drop: cpu.Drop,
    ) -> None:
        """Evaluate like a call, into a contiguous buffer of x's dtype or bfloat16; keep the statistics in the work
        space for `pull_back`."""
        kind, kernels = _kernel_of(norm), ops.kernels(x)
        mean, rstd = _in_work(kind, x, work)
        if isinstance(norm, _BatchNorm):
            write_statistics(norm, x, mean, rstd, work)
        elif isinstance(norm, GraphNorm):
            _write_graph_statistics(norm, x, mean, rstd, work)
        kernels.norm_act_drop(
            x, kind=kind, out=out, eps=getattr(norm, "eps", 0.0), mean=mean, rstd=rstd, act=self.act,
            drop=drop, **_affine(norm),
        )  # fmt: skip

    def pull_back(
        self,
        norm: nn.Module,
        dx: Tensor,
        x: Tensor,
        grad: Tensor,
        work: WorkSpace,
        drop: cpu.Drop,
        *,
        accumulate: bool,
    ) -> dict[Tensor | None, Tensor]:
        """Write the gradient of x to ``dx`` after `write`, or add it with ``accumulate``; overwrites ``grad``.

        Returns: the parameters' gradients.
        """
        kind, is_graph = _kernel_of(norm), isinstance(norm, GraphNorm)
        mean, rstd = _in_work(kind, x, work)
        dweight, dbias = (x.new_empty(x.size(1), dtype=cpu.sum_dtype(x.dtype)) for _ in range(2))
        group = rank_group(norm) if isinstance(norm, _BatchNorm) else None
        affine = _affine(norm)
        ops.kernels(x).norm_act_drop_backward(
            grad, x, kind=kind, dx=dx, dweight=dweight, dbias=dbias, mean=mean, rstd=rstd,
            fixed_stats=is_graph or (isinstance(norm, _BatchNorm) and (group is not None or not uses_batch(norm))),
            act=self.act, drop=drop, accumulate=accumulate, **affine,
        )  # fmt: skip
        found = {affine["weight"]: dweight, affine["bias"]: dbias}
        if group is not None:
            # The kernel treats the statistics of all ranks as constants: add the gradient through them to every row.
            grad_sum, product = sum_over_ranks(torch.stack([dbias, dweight]), group)
            if group.counts:
                scale = rstd / work.empty("count", x, ())
                scale = scale if affine["weight"] is None else scale * affine["weight"]
                spare = grad if grad.dtype is x.dtype else work.empty("centred", x)
                torch.sub(x, mean, out=spare)
                dx.sub_(spare.mul_(rstd * product * scale).add_(grad_sum * scale))
        if isinstance(norm, GraphNorm):
            spare = grad if grad.dtype is x.dtype else work.empty("centred", x)
            found[norm.mean_scale] = _add_through_graph_statistics(norm, dx, x, spare, work, dweight, dbias)
        return {parameter: share for parameter, share in found.items() if parameter is not None}

    def drop(self, training: bool, mask: Tensor | None, seed: int | None) -> cpu.Drop:
        """Return the dropout of an evaluation; in ``training``, without mask and seed, a seed is drawn."""
        if not training or self.dropout == 0.0:
            return cpu.NO_DROP
        return cpu.Drop(self.dropout, mask, draw_seed() if mask is None and seed is None else seed)


class NormActDrop(nn.Module):
    """Norm, ReLU and dropout: ``keep * relu(norm(x)) / (1 - p)``.

    Blocks and heads of this package adopt its norm as their own submodule, so that weights are named ``norm``.

    Args:
        channels: D.
        norm: ``layer``, ``batch``, ``none`` or ``graph`` (over the nodes of each graph).
        act: whether to apply the ReLU.
        dropout: probability of dropping, in training only.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics; ``None``: the mean of all batches.

    Examples:
        >>> import torch
        >>> from revgnn.nn import NormActDrop
        >>> norm = NormActDrop(8, "batch", dropout=0.5)
        >>> torch.equal(norm(torch.ones(5, 8), seed=1), norm(torch.ones(5, 8), seed=1))
        True
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
        """Apply to [N, D]; ``mask`` [N, D] bool or ``seed`` sets dropout; without both, draw a seed."""
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
        """Show activation and dropout."""
        return f"act={self.act_drop.act}, dropout={self.act_drop.dropout}"


def _kernel_of(norm: nn.Module) -> ops.Norm:
    """The kernels' name of a norm. The nodes of one graph are normalised as a batch, by another mean and variance."""
    kind = KINDS[type(norm)]
    return "batch" if kind == "graph" else kind


def _write_graph_statistics(norm: GraphNorm, x: Tensor, mean: Tensor, rstd: Tensor, work: WorkSpace) -> None:
    """Write ``a m`` and ``1 / sqrt(mean((x - a m)^2) + eps)``; the mean m of the nodes stays in the work space."""
    true_mean, var = work.empty("true_mean", mean), work.empty("var", mean)
    ops.kernels(x).batch_stats(x, eps=norm.eps, mean=true_mean, rstd=rstd, var=var)
    torch.mul(true_mean, norm.mean_scale, out=mean)
    torch.rsqrt(var.add_((true_mean - mean).square_()).add_(norm.eps), out=rstd)


def _add_through_graph_statistics(
    norm: GraphNorm, dx: Tensor, x: Tensor, spare: Tensor, work: WorkSpace, dweight: Tensor, dbias: Tensor
) -> Tensor:
    """Add the gradient of x through the statistics, which the kernel takes for constants; return that of ``a``.

    With ``u = x - a m``, ``r = rstd``, ``z = r u`` and the gradient dz: ``du = r (dz - z sum(dz z) / N)`` and
    ``dx = du - a sum(du) / N``, ``da = -m sum(du)``, where ``sum(z) / N = r (1 - a) m``.
    """
    (mean, rstd), true_mean, num_rows = _in_work("batch", x, work), work.empty("true_mean", dbias), x.size(0)
    product, total = norm.weight * dweight, norm.weight * dbias
    sum_du = rstd * (total - product * rstd * (true_mean - mean))
    torch.sub(x, mean, out=spare)
    dx.sub_(spare.mul_(rstd.square() * product / num_rows).add_(norm.mean_scale * sum_du / num_rows))
    return true_mean.mul(sum_du).neg_()


def _affine(norm: nn.Module) -> dict[str, Tensor | None]:
    own = norm._parameters  # of a type in `KINDS`: nothing is computed
    return {"weight": own.get("weight"), "bias": own.get("bias")}


def _in_work(kind: ops.Norm, x: Tensor, work: WorkSpace) -> tuple[Tensor, Tensor]:
    size, dtype = (x.size(0) if kind == "layer" else x.size(1),), cpu.sum_dtype(x.dtype)
    return work.empty("mean", x, size, dtype), work.empty("rstd", x, size, dtype)


def _called(norm: nn.Module, x: Tensor, graph: Graph | None) -> Tensor:
    """Call a norm; during recomputation on copies of its buffers."""
    arguments = (x, graph) if isinstance(norm, GraphNorm) else (x,)
    if type(norm) is nn.BatchNorm1d and rank_group(norm) is not None:
        # torch's BatchNorm1d would normalise by the rows of this rank only.
        norm.__class__ = SharedBatchNorm1d
    if norm.training and is_recomputing():
        copies = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        found: Tensor = functional_call(norm, copies, arguments)
    else:
        found = norm(*arguments)
    return found
