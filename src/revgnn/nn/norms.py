"""Norm, ReLU and dropout as one module: the head of every block, of an MLP's hidden layers, and of the last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import Graph
from ..ops import native
from ..stack import WorkSpace, draw_seed, is_rebuilding
from .plain import keeps_forward, reads

NORMS: tuple[ops.Norm, ...] = ("layer", "batch", "graph", "none")


class NormActDrop(nn.Module):
    """Normalise, rectify and drop: ``keep * relu(norm(x)) / (1 - p)``.

    Running statistics of ``batch`` move once per step: not while a stack evaluates a block again.

    Args:
        channels: D.
        norm: ``layer``, ``batch``, ``graph`` (over the nodes of each graph, with a learned share of the mean) or
        ``none``. act: whether to apply the ReLU.
        dropout: probability of dropping, in training only.
        eps: added to the variance.
        momentum: share of the new batch in the running statistics.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    mean_scale: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        norm: ops.Norm = "layer",
        *,
        act: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is not known; choose one of {', '.join(NORMS)}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.channels, self.norm, self.act = channels, norm, act
        self.dropout, self.eps, self.momentum = dropout, eps, momentum
        affine = norm != "none"
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.mean_scale = nn.Parameter(torch.ones(channels)) if norm == "graph" else None
        if norm == "batch":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(
        self, x: Tensor, graph: Graph | None = None, *, mask: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        """Apply to [N, D]; ``mask`` [N, D] bool or ``seed`` say what drops, neither draws a seed."""
        dropping = self.training and self.dropout > 0.0
        if dropping and mask is None and seed is None:
            seed = draw_seed()
        return ops.norm_act_drop(
            x,
            self.weight,
            self.bias,
            norm=self.norm,
            eps=self.eps,
            stats=self._statistics(x),
            graph=graph,
            mean_scale=self.mean_scale,
            act=self.act,
            p=self.dropout if dropping else 0.0,
            mask=mask if dropping else None,
            seed=seed,
        )

    def fuses(self, x: Tensor) -> bool:
        """Whether `write` and `pull_back` can take [N, D] rows, without autograd."""
        width = x.size(1)
        return (
            self.norm != "graph"
            and x.dim() == 2
            and keeps_forward(self, NormActDrop)
            and reads(self, "weight", x, width)
            and reads(self, "bias", x, width)
            and (self.weight is None) == (self.bias is None)
            and (self.norm != "batch" or (self.running_mean.shape == self.running_var.shape == (width,)))
        )

    def write(
        self, out: Tensor, x: Tensor, work: WorkSpace, *, mask: Tensor | None = None, seed: int | None = None
    ) -> None:
        """Evaluate as `forward` does, into a dense buffer; the statistics stay in the work space for `pull_back`."""
        mean, rstd = self._in_work(x, work)
        if self.norm == "batch":
            running = self._statistics(x)
            if running is None:
                ops.kernels(x).batch_stats(x, eps=self.eps, mean=mean, rstd=rstd)
            else:
                mean.copy_(running[0])
                torch.rsqrt(running[1].to(x.dtype) + self.eps, out=rstd)
        ops.kernels(x).norm_act_drop(
            x, kind=self.norm, out=out, weight=self.weight, bias=self.bias, eps=self.eps, mean=mean, rstd=rstd,
            act=self.act, drop=self._drop(mask, seed),
        )  # fmt: skip

    def pull_back(
        self,
        dx: Tensor,
        x: Tensor,
        grad: Tensor,
        work: WorkSpace,
        *,
        accumulate: bool,
        mask: Tensor | None = None,
        seed: int | None = None,
    ) -> dict[Tensor | None, Tensor]:
        """Write the gradient of x after a `write` of the same, or add it; returns the parameters'."""
        mean, rstd = self._in_work(x, work)
        dweight, dbias = x.new_empty(self.channels), x.new_empty(self.channels)
        ops.kernels(x).norm_act_drop_backward(
            grad, x, kind=self.norm, dx=dx, dweight=dweight, dbias=dbias, weight=self.weight, bias=self.bias,
            mean=mean, rstd=rstd, fixed_stats=not self.training, act=self.act, drop=self._drop(mask, seed),
            accumulate=accumulate,
        )  # fmt: skip
        return {} if self.weight is None or self.bias is None else {self.weight: dweight, self.bias: dbias}

    def _in_work(self, x: Tensor, work: WorkSpace) -> tuple[Tensor, Tensor]:
        size = (x.size(0) if self.norm == "layer" else self.channels,)
        return work.empty("mean", x, size), work.empty("rstd", x, size)

    def _drop(self, mask: Tensor | None, seed: int | None) -> native.Drop:
        if not self.training or self.dropout == 0.0:
            return native.NO_DROP
        return native.Drop(self.dropout, mask, seed)

    def extra_repr(self) -> str:
        """Show the choices."""
        return f"{self.channels}, norm={self.norm}, act={self.act}, dropout={self.dropout}"

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The running statistics in evaluation; in training the batch's own (None), after moving the running ones."""
        if self.norm != "batch":
            return None
        if not self.training:
            return self.running_mean, self.running_var
        if not is_rebuilding() and x.size(0) > 0:
            with torch.no_grad():
                var, mean = torch.var_mean(x.to(self.running_mean.dtype), dim=0, correction=0)
                unbiased = var * (x.size(0) / max(x.size(0) - 1, 1))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
                self.num_batches_tracked += 1
        return None
