"""UniMP, UniMP with cross edge features and UniMP_v2: graph transformers with labels as input, on PyG's modules.

Source: Shi et al. 2020 (arXiv:2009.03509); widths and gates as in PGL's ogb_examples/nodeproppred.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.readers.pyg import quiet_pyg
from ...graph import Graph
from .plain import adjacency


class UniMP(nn.Module):
    """A label embedding, then layers ``x = drop(relu(LN(attention(x) + W x)))`` with edge features.

    The last ``label_channels`` columns of the input are one-hot labels, zeros for a node without one. All layers share
    one edge embedding for keys and values.

    Args:
        cross: summarises each node's edges; the summary is added to every head of its embedding; ``None``: no summary.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        edge_channels: int | None,
        label_channels: int,
        num_layers: int,
        heads: int,
        dropout: float,
        cross: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.label_channels, self.heads, self.dropout = label_channels, heads, dropout
        self.lin_x = nn.Linear(in_channels - label_channels, hidden_channels)
        self.norm_x = nn.LayerNorm(hidden_channels)
        self.lin_label = nn.Linear(label_channels, hidden_channels)
        self.norm_label = nn.LayerNorm(hidden_channels)
        self.lin_edge = None if edge_channels is None else nn.Linear(edge_channels, hidden_channels)
        self.cross = cross
        self.convs = nn.ModuleList(
            _transformer(hidden_channels, hidden_channels // heads, heads, edges=edge_channels is not None)
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_channels) for _ in range(num_layers))
        self.head = nn.Linear(hidden_channels, out_channels)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] and [E, K] -> [N, T]."""
        x, labels = x[:, : -self.label_channels], x[:, -self.label_channels :]
        h = self.norm_x(self.lin_x(x))
        if self.cross is not None:
            h = h + self.cross(graph, edge_attr).repeat(1, self.heads)
        known = labels.ne(0).any(dim=1, keepdim=True)
        h = h + self.norm_label(self.lin_label(labels)) * known
        edges = None if self.lin_edge is None or edge_attr is None else self.lin_edge(edge_attr)
        edge_index = graph.edge_index
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.dropout(norm(conv(h, edge_index, edges)).relu(), self.dropout, self.training)
        out: Tensor = self.head(h)
        return out


class CrossEdges(nn.Module):
    """Summarise each node's incoming edges by self-attention: layers ``e = LN(relu(attend(e) + e))``, then the mean.

    Args:
        edge_channels: K.
        channels: width of the summary.
        num_layers: number of self-attention layers.
        most: maximum number of edges per node, sampled in every training step; the first ones in evaluation.
    Cost: [N, most, most] scores.
    Source: PGL, ogbn-proteins/unimp_cross_feat.
    """

    def __init__(self, edge_channels: int, channels: int, *, num_layers: int = 3, most: int = 64) -> None:
        super().__init__()
        self.most = most
        self.encoder = nn.Linear(edge_channels, channels)
        self.layers = nn.ModuleList(_SelfAttention(channels) for _ in range(num_layers))

    def forward(self, graph: Graph, edge_attr: Tensor) -> Tensor:
        """[E, K] in the graph's order -> [N, channels]; a node without edges has a summary of zeros."""
        h, there = self._gathered(graph, edge_attr)
        h = self.encoder(h)
        hidden = ~(there.unsqueeze(1) & there.unsqueeze(2))
        for layer in self.layers:
            h = layer(h, hidden)
        weight = there.to(h.dtype).unsqueeze(-1)
        out: Tensor = (h * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return out

    def _gathered(self, graph: Graph, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """Return [N, most, K] features of up to ``most`` incoming edges per node, and [N, most] whether each exists."""
        start, degree = graph.indptr[:-1].long(), graph.in_degree
        order = torch.arange(graph.num_edges, device=edge_attr.device)
        if self.training:
            order = (graph.destinations + torch.rand_like(order, dtype=torch.float64)).argsort()
        place = torch.arange(self.most, device=edge_attr.device)
        there = place < degree.unsqueeze(1)
        edges = (start.unsqueeze(1) + place).clamp(max=max(graph.num_edges - 1, 0))
        if graph.num_edges == 0:
            return edge_attr.new_zeros(graph.num_nodes, self.most, edge_attr.size(1)), there
        return edge_attr[order[edges]], there


class _SelfAttention(nn.Module):
    """Self-attention with one head and unscaled scores: ``LN(relu(W softmax(q k) v + x))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[N, M, d] and a mask [N, M, M], True for pairs without attention -> [N, M, d]."""
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        mixed = scores.masked_fill(hidden, -1e4).softmax(-1) @ self.value(x)
        out: Tensor = self.norm((self.out(mixed) + x).relu())
        return out


class UniMPv2(nn.Module):
    """UniMP of ogbn-arxiv with gated skips, 3 gated propagations after each layer, and 10 with the last attention.

    It omits the three virtual nodes of the original data preparation, which have no parameters.

    Source: PGL, ogbn-arxiv/unimp_appnp_vnode_smooth, current code.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        label_channels: int,
        num_layers: int,
        heads: int,
        dropout: float,
        input_dropout: float,
        edge_drop: float,
    ) -> None:
        super().__init__()
        self.label_channels, self.dropout, self.input_dropout = label_channels, dropout, input_dropout
        width = in_channels - label_channels
        self.embedding = nn.Parameter(torch.randn(label_channels, width))
        self.layers = nn.ModuleList()
        for _ in range(num_layers - 1):
            self.layers.append(_GatedLayer(width, hidden_channels // heads, heads, edge_drop=edge_drop))
            width = hidden_channels
        self.last = _GatedLayer(width, out_channels, heads + 1, edge_drop=edge_drop, concat=False)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        x, labels = x[:, : -self.label_channels], x[:, -self.label_channels :]
        known = labels.ne(0).any(dim=1, keepdim=True)
        embedded = _plain_norm(labels @ self.embedding).relu()
        h = _plain_norm(x) + embedded * known
        h = F.dropout(h, self.input_dropout, self.training)
        for layer in self.layers:
            h, _ = layer(h, graph)
            h = F.dropout(_plain_norm(h).relu(), self.dropout, self.training)
        h, weight = self.last(h, graph)
        src, dst = graph.edge_index
        weight = weight.mean(1, keepdim=True)
        out: Tensor = h
        for _ in range(10):
            out = 0.8 * torch.zeros_like(out).index_add(0, dst, weight * out[src]) + 0.2 * h
        return out


class _GatedLayer(nn.Module):
    """Attention averaged with the mean of neighbours, propagated, and combined with a linear skip by a gate."""

    def __init__(self, width: int, per_head: int, heads: int, *, edge_drop: float, concat: bool = True) -> None:
        super().__init__()
        out = per_head * heads if concat else per_head
        self.concat, self.heads = concat, heads
        self.conv = _transformer(width, per_head, heads, root=False, concat=concat, dropout=edge_drop)
        self.skip, self.gate = nn.Linear(width, out), nn.Linear(3 * out, 1)
        self.gates = nn.ModuleList(nn.Linear(3 * out, 1) for _ in range(3 if concat else 0))

    def forward(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """[N, width] -> [N, out] and the [E, heads] attention."""
        attended, (_, weight) = self.conv(x, graph.edge_index, return_attention_weights=True)
        scale = graph.in_degree.clamp(min=1).to(x.dtype).unsqueeze(1)
        matrix = adjacency(graph, x.dtype)
        mean = (matrix @ self.conv.lin_value(x)) / scale
        if not self.concat:
            mean = mean.view(x.size(0), self.heads, -1).mean(1)
        h_0 = h = 0.8 * attended + 0.2 * mean
        for gate in self.gates:
            h = scale.rsqrt() * (matrix @ (scale.rsqrt() * h))
            h = _mix(gate, h_0, h)
        return _mix(self.gate, self.skip(x), h), weight


def _mix(gate: nn.Module, base: Tensor, new: Tensor) -> Tensor:
    """Return ``g base + (1 - g) new`` with a gate computed from both and their difference."""
    # The original code concatenates in another order in one of its gates; that only permutes the gate's weights.
    g = gate(torch.cat([base, new, new - base], dim=1)).sigmoid()
    out: Tensor = g * base + (1.0 - g) * new
    return out


def _plain_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _transformer(
    width: int, per_head: int, heads: int, *, edges: bool = False, root: bool = True, **options: Any
) -> Any:
    """Build PyG's ``TransformerConv`` without its own map of edge features, which already have its width."""
    with quiet_pyg():
        from torch_geometric.nn import TransformerConv
    edge_dim = per_head * heads if edges else None
    conv = TransformerConv(width, per_head, heads=heads, edge_dim=edge_dim, root_weight=root, **options)
    if edges:
        conv.lin_edge = nn.Identity()
    if not root:
        conv.lin_skip = nn.Identity()
    return conv
