"""A block whose map contracts by construction, and the injection of an equilibrium's input, evaluated once per solve.

``z <- relu(W_r z + W_n A z + x)`` with the mean ``A`` over the neighbours. A bound below 1 on the weights bounds the
factor by which two states approach each other, so that the fixed point exists, is unique, and every solve reaches it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_uniform_

from .. import ops
from ..graph import Graph
from .convs import EdgeMap
from .norms import NormActDrop

BoundNorm = Literal["spectral", "row"]
"""The matrix norm that is bounded: the largest singular value, or the largest absolute row sum."""

Init = Literal["propagation", "glorot"]
"""Initial weights: ``bound`` times the identity for the neighbours and 0 for the node itself; or random ones."""

SQUARINGS = 6
"""Gram matrices squared for `spectral_bound`: at 64 channels it is at most 1.7% above the norm."""


def spectral_bound(weight: Tensor) -> Tensor:
    """Return an upper bound of the largest singular value, differentiably.

    ``||G^(2^k)||_F^(1 / 2^(k + 1))`` with ``G = W^T W``: at least the norm, and at most ``D^(1 / 2^(k + 2))`` times the
    norm. A power iteration approaches the norm from below and would bound nothing.

    Args:
        weight: [D, D].
    Returns: scalar.
    Cost: `SQUARINGS` + 1 products of D x D.
    Source: Delattre et al. 2023, Efficient Bound of Lipschitz Constant (arXiv:2305.16173), Gram iteration.
    """
    tiny = torch.finfo(weight.dtype).tiny
    with torch.autocast(weight.device.type, enabled=False):
        # Powers of small or large numbers would leave the range of floats: scale to norm 1 before each product.
        scale = weight.norm().clamp(min=tiny)
        log, share, gram = scale.log(), 0.5, weight / scale
        gram = gram.T @ gram
        for _ in range(SQUARINGS):
            scale = gram.norm().clamp(min=tiny)
            log, share, gram = log + share * scale.log(), share / 2, gram / scale
            gram = gram @ gram
        bound: Tensor = (log + share * gram.norm().clamp(min=tiny).log()).exp()
        return bound


def bounded(weight: Tensor, bound: float) -> Tensor:
    """Scale a weight [D, D] down until its largest singular value is at most ``bound``; a smaller one is unchanged."""
    return weight * (bound / spectral_bound(weight)).clamp(max=1.0)


class ContractiveBlock(nn.Module):
    """Propagate the state with a bounded weight, and add the input: ``relu(W_r z + W_n A z + x)``.

    ``A`` is the mean over incoming edges, 0 for a node without any. Two states approach each other by the factor
    ``bound`` at least, in a norm that weighs nodes by their degrees:

    - ``norm="spectral"``, on a graph whose edges all have a reverse: ``A`` is similar to a symmetric matrix with
      eigenvalues in [-1, 1], so the factor is ``max(||W_r + W_n||, ||W_r - W_n||)``. The parameters are these two
      matrices, each scaled to at most ``bound``, which reaches every admissible pair.
    - ``norm="row"``, on any graph: rows of ``A`` sum to at most 1, so the factor is the largest absolute row sum of
      ``[W_r, W_n]``, in the norm of the largest entry. Each row is scaled by itself.

    Args:
        channels: D.
        bound: the factor, in (0, 1).
        norm: the norm that is bounded.
        init: initial weights; see `Init`.
    Raises: ValueError: a bound outside (0, 1), an unknown name; in forward, the spectral norm on a directed graph.
    Cost: one aggregation of width D and two products per evaluation; the bound of the weights is computed each time.
    Source: Gu et al. 2020, Implicit Graph Neural Networks (arXiv:2009.06211), whose condition the row norm is.
    """

    is_pure = True

    def __init__(
        self, channels: int, *, bound: float = 0.9, norm: BoundNorm = "spectral", init: Init = "propagation"
    ) -> None:
        super().__init__()
        if not 0.0 < bound < 1.0:
            raise ValueError(f"bound={bound} must lie in (0, 1); a larger one sees farther and needs more iterations")
        for name, value, allowed in (("norm", norm, get_args(BoundNorm)), ("init", init, get_args(Init))):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}")
        self.bound, self.norm, self.init = bound, norm, init
        self.first = nn.Parameter(torch.empty(channels, channels))
        self.second = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw or set the initial weights.

        "propagation" is personalised PageRank: what is far away arrives at once. Random weights mix channels with
        random signs, so what they pass on dies out within a few hops.
        """
        if self.init == "glorot":
            xavier_uniform_(self.first)
            xavier_uniform_(self.second)
            return
        # The spectral norm's parameters are W_r + W_n and W_r - W_n.
        first, second = (0.0, 1.0) if self.norm == "row" else (1.0, -1.0)
        eye = torch.eye(self.first.size(0))
        self.first.data.copy_(first * eye)
        self.second.data.copy_(second * eye)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return ``W_r`` and ``W_n``, each [D, D] as [out, in], within the bound."""
        if self.norm == "row":
            sums = self.first.abs().sum(1, keepdim=True) + self.second.abs().sum(1, keepdim=True)
            scale = (self.bound / sums.clamp(min=torch.finfo(sums.dtype).tiny)).clamp(max=1.0)
            return self.first * scale, self.second * scale
        plus, minus = bounded(self.first, self.bound), bounded(self.second, self.bound)
        return (plus + minus) / 2, (plus - minus) / 2

    def forward(
        self,
        z: Tensor,
        seed: int,
        x: Tensor,
        graph: Graph,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
        edge_bias: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the block at the state ``z`` [N, D] with the input ``x`` [N, D]; it reads no other arguments."""
        if self.norm == "spectral" and not graph.is_symmetric:
            raise ValueError(
                "the spectral bound contracts on a graph whose edges all have a reverse, and this one is directed; "
                "take the row norm, or add the reverse edges (dataset.undirected=true)"
            )
        root, near = self.weights()
        near_z = ops.spmm(z, graph, reduce="mean")
        return (nn.functional.linear(z, root) + nn.functional.linear(near_z, near) + x).relu()

    def extra_repr(self) -> str:
        """Show width, bound and norm."""
        return f"{self.first.size(0)}, bound={self.bound}, norm={self.norm!r}"


class Injection(nn.Module):
    """The input of an equilibrium: ``drop(norm(conv(x)))``, evaluated once per solve.

    Norm and dropout stand here because neither is 1-Lipschitz: LayerNorm divides by a deviation that may be small, and
    dropout multiplies by 1 / (1 - p).

    Args:
        conv: a graph convolution.
        head: norm and dropout of its width, usually without ReLU.
    """

    def __init__(self, conv: nn.Module, head: NormActDrop) -> None:
        super().__init__()
        self.conv, self.norm, self.act_drop = conv, head.norm, head.act_drop

    def forward(
        self,
        x: Tensor,
        graph: Graph,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, D]; arguments as in `Conv`."""
        h = self.conv(x, graph, edge_attr, edge_map=edge_map, seed=seed)
        return self.act_drop(self.norm, h, graph, training=self.training, seed=seed)
