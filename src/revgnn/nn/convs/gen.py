"""`GENConv`, the generalised graph convolution: softmax, power-mean or maximum aggregation of messages"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ... import ops
from ...graph import Graph
from ...ops import cpu
from ...plain_config import check_literals
from ...stack import WorkSpace
from ..fusable import is_bare, keeps_forward, mapped
from ..norms import NormActDrop
from .gen_fused import EdgeFeatures, FusedGEN, folded
from .interface import Conv, EdgeMap, Gradients, convert_inputs, refuse_edge_weight
from .mlp import RELU, FusedMLP


@dataclass(frozen=True, kw_only=True)
class GENOptions:
    """Options of `GENConv`."""

    aggr: ops.Aggr = "softmax"
    """Aggregation of messages: sum, mean, max, softmax, softmax_sg (weights without gradient) or power."""
    t: float = 1.0
    """Inverse temperature of the softmax, dimensionless."""
    learn_t: bool = False
    """Whether t is a parameter."""
    p: float = 1.0
    """Exponent of the power mean."""
    learn_p: bool = False
    """Whether p is a parameter."""
    degree_scale: bool = False
    """Whether the aggregate is multiplied by in-degree^sigmoid(y), y a parameter initialised to 0 (the ``*_sum``
    variants)."""
    msg_norm: bool = False
    """Whether the aggregate is scaled to ``s ||x|| m / ||m||``."""
    learn_msg_scale: bool = False
    """Whether s, initialised to 1, is a parameter."""
    mlp_layers: int = 2
    """Number of linear layers of the MLP; hidden layers have twice the width, a norm and a ReLU."""
    mlp_norm: ops.Norm = "layer"
    """Norm of the hidden layers of the MLP."""
    mlp_bias: bool = True
    """Whether the linear layers of the MLP have biases."""
    edge_linear: bool = True
    """Whether the convolution has a linear map of edge features; False adds them unchanged."""
    edge_bias: bool = True
    """Whether that map has a bias; False for a sum of embeddings of multi-hot features."""

    def __post_init__(self) -> None:
        check_literals(self)
        if self.p == 0.0 or not math.isfinite(self.p) or not math.isfinite(self.t):
            raise ValueError(f"p must be finite and other than 0, and t finite, got p={self.p}, t={self.t}")


class GENConv(Conv):
    """Generalised graph convolution: ``y = MLP(x_i + aggr_j(relu(x_j + W e_ij + b) + 1e-7))``.

    Args:
        in_channels, out_channels: widths.
        edge_channels: K, width of the edge features; ``None``: no edge features.
        options: see `GENOptions`.
    Raises: ValueError: if edge features are passed although ``edge_channels`` is None, or are missing.
    Cost: one aggregation of width in, and the MLP.
    Source: Li et al. 2020, DeeperGCN (arXiv:2006.07739).

    Examples:
        >>> import torch
        >>> import revgnn
        >>> conv, edge_index = revgnn.GENConv(4, 8, edge_channels=2), torch.tensor([[0, 1], [1, 2]])
        >>> conv(torch.randn(3, 4), edge_index, torch.randn(2, 2)).shape
        torch.Size([3, 8])
    """

    takes_edge_attr = True
    options_type = GENOptions

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        edge_channels: int | None = None,
        options: GENOptions = GENOptions(),
    ) -> None:
        super().__init__()
        if options.mlp_layers < 1:
            raise ValueError(f"mlp_layers must be 1 or more, got {options.mlp_layers}")
        if edge_channels is not None and not options.edge_linear and edge_channels != in_channels:
            raise ValueError(
                f"edge_linear=False adds {edge_channels} edge features as they are to {in_channels} channels "
                "(a group has hidden_channels/num_groups, a shared edge encoder gives hidden_channels); set "
                "edge_linear=True"
            )
        self.in_channels, self.out_channels, self.edge_channels = in_channels, out_channels, edge_channels
        self.options = options
        widths = [in_channels] + [2 * in_channels] * (options.mlp_layers - 1) + [out_channels]
        self.lins = nn.ModuleList(nn.Linear(a, b, bias=options.mlp_bias) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(NormActDrop(width, options.mlp_norm).norm for width in widths[1:-1])
        self.lin_edge: nn.Linear | None = None
        if edge_channels is not None and options.edge_linear:
            self.lin_edge = nn.Linear(edge_channels, in_channels, bias=options.edge_bias)
        self.t = _scalar(options.t, options.learn_t)
        self.p = _scalar(options.p, options.learn_p)
        self.y = _scalar(0.0, options.degree_scale)
        self.msg_scale = _scalar(1.0, options.msg_norm and options.learn_msg_scale)

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out] with [E, K] edge features, to which ``edge_map`` applies first."""
        graph, edge_attr = convert_inputs(x, graph, edge_attr)
        refuse_edge_weight(self, graph)
        if (edge_attr is None) != (self.edge_channels is None):
            raise ValueError(
                f"GENConv was made with edge_channels={self.edge_channels} but got "
                f"{'no edge features' if edge_attr is None else f'edge features {list(edge_attr.shape)}'}"
            )
        weight, bias = folded(self.lin_edge, edge_map)
        if edge_attr is not None and self.lin_edge is not None and not is_bare(self.lin_edge):
            # A map with hooks, or a replaced one, is called, on edge features of its own width.
            wide = edge_attr if edge_map is None else nn.functional.linear(edge_attr, *edge_map)
            edge_attr, weight, bias = self.lin_edge(wide), None, None
        out = ops.gen_aggr(x, graph, edge_attr, weight, bias, reduce=self.options.aggr, t=self.t, p=self.p)
        if self.options.degree_scale:
            degree = graph.in_degree.clamp(min=1).to(cpu.sum_dtype(out.dtype)).unsqueeze(1)
            out = out * (degree ** torch.sigmoid(torch.as_tensor(self.y))).to(out.dtype)
        if self.options.msg_norm:
            out = nn.functional.normalize(out, dim=-1) * x.norm(dim=-1, keepdim=True) * self.msg_scale
        return self._mlp(x + out, graph)

    def _mlp(self, x: Tensor, graph: Graph) -> Tensor:
        for lin, norm in zip(self.lins, self.norms, strict=False):
            x = RELU(norm, mapped(lin, x, wide=True), graph, dtype=x.dtype)
        return mapped(self.lins[-1], x, wide=True)

    def over(self, edge_attr: Tensor | None, edge_map: EdgeMap | None) -> FusedGEN | None:
        """Return the fused evaluation; ``None`` where an option, or a modified module, needs autograd."""
        options, t = self.options, self.t
        is_own = not isinstance(t, Tensor) or (t.numel() == 1 and "t" in self._parameters)
        if (edge_attr is None) != (self.edge_channels is None) or options.degree_scale or options.msg_norm:
            return None
        if not (is_own and keeps_forward(self, GENConv)):
            return None
        edges = None if edge_attr is None else EdgeFeatures(edge_attr, self.lin_edge, edge_map)
        return FusedGEN(options.aggr, t, FusedMLP(self.lins, self.norms), edges)

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation without edge features applies."""
        fused = self.over(None, None)
        return fused is not None and fused.fuses(h, graph)

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Put the value without edge features into ``to``."""
        self._fused.add_value(to, sign, h, graph, seed, work)

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Put the value without edge features into ``to``, and return the gradients."""
        return self._fused.add_value_and_grad(to, sign, h, cotangent, graph, seed, work)

    @property
    def _fused(self) -> FusedGEN:
        fused = self.over(None, None)
        assert fused is not None, "asked for after `fuses` only"
        return fused


def _scalar(value: float, learned: bool) -> nn.Parameter | float:
    return nn.Parameter(torch.tensor(value)) if learned else value
