"""The paper's four graph convolutions, thin over the ops. They take a `Graph` or PyG's ``edge_index``.

A conv is a class with ``forward(x, graph, edge_attr=None, *, edge_map=None, seed=None)`` and one line in `CONVS`.
Given a `Graph`, edge features are in the graph's order of edges; given an ``edge_index``, in that tensor's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_normal_, xavier_uniform_, zeros_

from .. import ops
from ..graph import Graph, as_graph
from ..stack import draw_seed, fold_seed
from .norms import NormActDrop


class EdgeMap(NamedTuple):
    """An affine map of edge features that has not been applied: ``e W^T + b``.

    A network's shared edge encoder [E, K] -> [E, D] reaches every conv in this form, to be folded into the conv's own
    linear map [D -> d]: one K -> d product, and no [E, D] tensor.
    """

    weight: Tensor
    """[D, K]"""
    bias: Tensor | None
    """[D]"""


class Conv(Protocol):
    """What a block asks of a graph convolution."""

    takes_edge_attr: bool

    def __call__(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]."""
        ...


class GCNConv(nn.Module):
    """Graph convolution with symmetric normalisation: ``y = D^-1/2 A D^-1/2 x W^T + b``, A with one self loop per node.

    Args:
        in_channels, out_channels: widths.
        add_self_loops: whether the graph gets its self loops here (existing ones count); False takes it as it is.
        bias: whether to add b.
    Shape: ``edge_attr`` may be [E] edge weights, only with ``add_self_loops=False``; D then sums them.
    Cost: one aggregation of width min(in, out).
    Source: Kipf & Welling 2017.
    """

    takes_edge_attr = False

    def __init__(self, in_channels: int, out_channels: int, *, add_self_loops: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.add_self_loops = in_channels, out_channels, add_self_loops
        self.lin = nn.Linear(in_channels, out_channels, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as PyG does: Glorot weights, zero bias."""
        xavier_uniform_(self.lin.weight)
        if self.lin.bias is not None:
            zeros_(self.lin.bias)

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]; ``edge_attr`` [E] are edge weights."""
        graph, edge_attr = _border(x, graph, edge_attr)
        if edge_attr is not None and (edge_attr.dim() != 1 or self.add_self_loops):
            raise ValueError(
                "GCNConv takes edge weights [E], and only with add_self_loops=False "
                "(put the loops' weights in yourself); "
                f"got {list(edge_attr.shape)} with add_self_loops={self.add_self_loops}"
            )
        if self.add_self_loops:
            graph = graph.self_looped
        weight = _gcn_weight(graph, edge_attr, x.dtype)
        if self.in_channels <= self.out_channels:
            out: Tensor = self.lin(ops.spmm(x, graph, weight))
            return out
        out = ops.spmm(nn.functional.linear(x, self.lin.weight), graph, weight)
        return out if self.lin.bias is None else out + self.lin.bias


class SAGEConv(nn.Module):
    """Aggregate the neighbours and add the root: ``y = W_l reduce_j(x_j) + b + W_r x``.

    Args:
        in_channels, out_channels: widths.
        aggr: ``mean``, ``sum`` or ``max``.
        bias: whether to add b.
    Cost: one aggregation of width in.
    Source: Hamilton et al. 2017.
    """

    takes_edge_attr = False

    def __init__(self, in_channels: int, out_channels: int, *, aggr: ops.Reduce = "mean", bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.aggr = in_channels, out_channels, aggr
        self.lin_l = nn.Linear(in_channels, out_channels, bias=bias)
        self.lin_r = nn.Linear(in_channels, out_channels, bias=False)

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]."""
        graph, edge_attr = _border(x, graph, edge_attr)
        _refuse_edge_attr(self, edge_attr)
        out: Tensor = self.lin_l(ops.spmm(x, graph, reduce=self.aggr)) + self.lin_r(x)
        return out


@dataclass(frozen=True, kw_only=True)
class GENOptions:
    """What `GENConv` can be told beyond its widths."""

    aggr: ops.Aggr = "softmax"
    """How messages are put together: sum, mean, max, softmax, softmax_sg (weights without gradient) or power."""
    t: float = 1.0
    """Inverse temperature of the softmax, dimensionless."""
    learn_t: bool = False
    """Whether t is a parameter."""
    p: float = 1.0
    """Exponent of the power mean."""
    learn_p: bool = False
    """Whether p is a parameter."""
    degree_scale: bool = False
    """Whether the aggregate is multiplied by in-degree^sigmoid(y), y a parameter from 0 (the ``*_sum`` variants)."""
    msg_norm: bool = False
    """Whether the aggregate is scaled to ``s ||x|| m / ||m||``."""
    learn_msg_scale: bool = False
    """Whether s (from 1) is a parameter."""
    mlp_layers: int = 2
    """Linear layers of the MLP; hidden ones are twice as wide, with norm and ReLU."""
    mlp_norm: ops.Norm = "layer"
    """Norm of the hidden layers of the MLP."""
    edge_linear: bool = True
    """Whether edge features get a linear map of the conv's own; False adds them as they come."""
    edge_bias: bool = True
    """Whether that map has a bias; False for a sum of embeddings of multi-hot features."""


class GENConv(nn.Module):
    """Generalised graph convolution: ``y = MLP(x_i + aggr_j(relu(x_j + W e_ij + b) + 1e-7))``.

    Args:
        in_channels, out_channels: widths.
        edge_channels: K, the width of the edge features that come; ``None``: none come.
        options: the rest, see `GENOptions`.
    Raises: ValueError: if edge features come unannounced, or are missing.
    Cost: one aggregation of width in, the MLP.
    Source: Li et al. 2020, DeeperGCN (arXiv:2006.07739).
    """

    takes_edge_attr = True

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
        self.in_channels, self.out_channels, self.edge_channels = in_channels, out_channels, edge_channels
        self.options = options
        widths = [in_channels] + [2 * in_channels] * (options.mlp_layers - 1) + [out_channels]
        self.lins = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(NormActDrop(width, options.mlp_norm) for width in widths[1:-1])
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
        """[N, in] -> [N, out] with [E, K] edge features, which ``edge_map`` may have to widen first."""
        graph, edge_attr = _border(x, graph, edge_attr)
        if (edge_attr is None) != (self.edge_channels is None):
            raise ValueError(
                f"GENConv was made with edge_channels={self.edge_channels} but got "
                f"{'no edge features' if edge_attr is None else f'edge features {list(edge_attr.shape)}'}"
            )
        weight, bias = self._edge_weights(edge_map)
        out = ops.gen_aggr(x, graph, edge_attr, weight, bias, reduce=self.options.aggr, t=self.t, p=self.p)
        if self.options.degree_scale:
            degree = graph.in_degree.clamp(min=1).to(out.dtype).unsqueeze(1)
            out = out * degree ** torch.sigmoid(torch.as_tensor(self.y))
        if self.options.msg_norm:
            out = nn.functional.normalize(out, dim=-1) * x.norm(dim=-1, keepdim=True) * self.msg_scale
        return self._mlp(x + out, graph)

    def _mlp(self, x: Tensor, graph: Graph) -> Tensor:
        for lin, norm in zip(self.lins, self.norms, strict=False):
            x = norm(lin(x), graph)
        out: Tensor = self.lins[-1](x)
        return out

    def _edge_weights(self, edge_map: EdgeMap | None) -> tuple[Tensor | None, Tensor | None]:
        """The map from the edge features that come to the width of x, with a shared encoder folded in."""
        if self.lin_edge is None:
            return (None, None) if edge_map is None else (edge_map.weight, edge_map.bias)
        weight, bias = self.lin_edge.weight, self.lin_edge.bias
        if edge_map is None:
            return weight, bias
        folded = weight @ edge_map.weight
        if edge_map.bias is None:
            return folded, bias
        inner = weight @ edge_map.bias
        return folded, inner if bias is None else inner + bias


@dataclass(frozen=True, kw_only=True)
class GATOptions:
    """What `GATConv` can be told beyond its widths."""

    heads: int = 3
    """H; out_channels are divided among them."""
    norm_adj: bool = True
    """Whether sources are scaled by out-degree^-1/2 before the score, and results by in-degree^1/2."""
    edge_drop: float = 0.0
    """Share of the edges removed before the softmax, in training."""
    attn_dst: bool = False
    """Whether the destination has an attention vector too."""
    negative_slope: float = 0.2
    """Slope of the leaky ReLU."""


class GATConv(nn.Module):
    """Graph attention with a linear residual: ``y_i = sum_j softmax_j(leaky_relu(a W x_j)) W x_j + W_r x_i``, per head.

    An edge is dropped independently with probability ``edge_drop``, as a pure function of (seed, position).

    Args:
        in_channels, out_channels: widths; ``heads`` divides out_channels.
        options: the rest, see `GATOptions`.
    Cost: one attention of width out.
    Source: Velickovic et al. 2018, in the paper's RevGAT form (no biases, normalised adjacency).
    """

    takes_edge_attr = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        options: GATOptions = GATOptions(),
    ) -> None:
        super().__init__()
        if out_channels % options.heads:
            raise ValueError(f"out_channels={out_channels} must be divisible by heads={options.heads}")
        self.in_channels, self.out_channels, self.options = in_channels, out_channels, options
        per_head = (options.heads, out_channels // options.heads)
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.lin_root = nn.Linear(in_channels, out_channels, bias=False)
        self.attn_src = nn.Parameter(torch.empty(1, *per_head))
        self.attn_dst = nn.Parameter(torch.empty(1, *per_head)) if options.attn_dst else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every weight Xavier-normal with gain sqrt(2)."""
        for weight in self.parameters():
            xavier_normal_(weight, gain=math.sqrt(2))

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]; ``seed`` says which edges drop in training, ``None`` draws one."""
        graph, edge_attr = _border(x, graph, edge_attr)
        _refuse_edge_attr(self, edge_attr)
        values = self.lin(x)
        if self.options.norm_adj:
            values = values * graph.out_degree.clamp(min=1).to(values.dtype).pow(-0.5).unsqueeze(1)
        values = values.view(x.size(0), self.options.heads, self.out_channels // self.options.heads)
        out = ops.attention(
            values,
            graph,
            (values * self.attn_src).sum(-1),
            None if self.attn_dst is None else (values * self.attn_dst).sum(-1),
            negative_slope=self.options.negative_slope,
            keep=self._kept_edges(graph, seed),
        ).flatten(1)
        if self.options.norm_adj:
            out = out * graph.in_degree.clamp(min=1).to(out.dtype).pow(0.5).unsqueeze(1)
        total: Tensor = out + self.lin_root(x)
        return total

    def _kept_edges(self, graph: Graph, seed: int | None) -> Tensor | None:
        if not self.training or self.options.edge_drop == 0.0:
            return None
        seed = draw_seed() if seed is None else seed
        return ops.keep_mask(fold_seed(seed, _EDGE_DROP), graph.num_edges, self.options.edge_drop, graph.device)


_EDGE_DROP = 1  # keeps the edges' draw apart from the features', which uses the block's seed itself

CONVS: dict[str, type[nn.Module]] = {"gcn": GCNConv, "sage": SAGEConv, "gen": GENConv, "gat": GATConv}


def _border(x: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None) -> tuple[Graph, Tensor | None]:
    """A graph and edge features in its order, from either convention."""
    found = as_graph(graph, x.size(0))
    if edge_attr is not None and isinstance(graph, Tensor):
        edge_attr = found.sort_edges(edge_attr)
    return found, edge_attr


def _refuse_edge_attr(conv: nn.Module, edge_attr: Tensor | None) -> None:
    if edge_attr is not None:
        raise ValueError(
            f"{type(conv).__name__} takes no edge features, got {list(edge_attr.shape)}; use GENConv, or drop them"
        )


def _gcn_weight(graph: Graph, edge_weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[E] ``d_i^-1/2 w_ij d_j^-1/2``, d the (weighted) in-degree as in PyG; kept on the graph where it has no
    gradient."""

    def weight() -> Tensor:
        if edge_weight is None:
            degree = graph.in_degree.to(dtype)
        else:
            ones = edge_weight.new_ones(graph.num_nodes, 1)
            degree = ops.spmm(ones, graph, edge_weight).squeeze(1).to(dtype)
        scale = torch.where(degree > 0, degree, 1).pow(-0.5) * (degree > 0)
        product = scale.index_select(0, graph.indices) * scale.index_select(0, graph.destinations)
        return product if edge_weight is None else product * edge_weight

    if edge_weight is not None:
        return weight()
    kept: Tensor = graph.keep(f"gcn_weight {dtype}", weight)
    return kept


def _scalar(value: float, learned: bool) -> nn.Parameter | float:
    return nn.Parameter(torch.tensor(value)) if learned else value
