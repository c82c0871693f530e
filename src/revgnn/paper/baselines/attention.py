"""Baselines with additive attention: the GAT of ogbn-arxiv, and the GAT with edge features of ogbn-proteins"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.readers.pyg import quiet_pyg
from ...graph import Graph
from ...nn.convs import GATConv, GATOptions


class PlainGAT(nn.Module):
    """GAT layers with BatchNorm, ReLU and dropout between them; the last layer has one head and a bias.

    It uses this package's `GATConv`, because PyG's has an attention vector for destinations and no normalised
    adjacency.

    Source: Wang et al. 2021, Bag of Tricks for Node Classification (arXiv:2103.13355): GAT with normalised adjacency.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        heads: int,
        dropout: float,
        input_dropout: float,
        edge_drop: float,
    ) -> None:
        super().__init__()
        self.dropout, self.input_dropout = dropout, input_dropout
        options = GATOptions(heads=heads, edge_drop=edge_drop)
        widths = [in_channels, *[hidden_channels] * (num_layers - 1)]
        self.convs = nn.ModuleList(GATConv(width, hidden_channels, options=options) for width in widths[:-1])
        self.convs.append(GATConv(widths[-1], out_channels, options=GATOptions(heads=1, edge_drop=edge_drop)))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_channels) for _ in range(num_layers - 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        x = F.dropout(x, self.input_dropout, self.training)
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = F.dropout(norm(conv(x, graph)).relu(), self.dropout, self.training)
        out: Tensor = self.convs[-1](x, graph) + self.bias
        return out


class EdgeGAT(nn.Module):
    """GAT with edge features in its scores and a skip connection from layer to layer.

    Source: DGL's ogbn-proteins example, "GAT + edge feature attention" on OGB's leaderboard.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        edge_channels: int,
        num_layers: int,
        heads: int,
        dropout: float,
        input_dropout: float,
        edge_drop: float,
        edge_embedding: int = 16,
    ) -> None:
        super().__init__()
        self.dropout, self.input_dropout = dropout, input_dropout
        first = hidden_channels // heads
        self.encoder = nn.Linear(in_channels, first)
        widths = [first, *[hidden_channels] * (num_layers - 1)]
        self.edge_encoders = nn.ModuleList(nn.Linear(edge_channels, edge_embedding) for _ in widths)
        self.convs = nn.ModuleList(
            EdgeGATConv(width, hidden_channels, edge_channels=edge_embedding, heads=heads, edge_drop=edge_drop)
            for width in widths
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_channels) for _ in widths)
        self.head = nn.Linear(hidden_channels, out_channels)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] and [E, K] -> [N, T]."""
        assert edge_attr is not None, "build_baseline has checked it"
        h = F.dropout(self.encoder(x).relu(), self.input_dropout, self.training)
        before: Tensor | None = None
        for encode, conv, norm in zip(self.edge_encoders, self.convs, self.norms, strict=True):
            h = conv(h, graph, encode(edge_attr).relu())
            h = h if before is None else h + before
            before = h
            h = F.dropout(norm(h).relu(), self.dropout, self.training)
        out: Tensor = self.head(h)
        return out


class EdgeGATConv(nn.Module):
    """Attention with edge features: ``y_i = sum_j softmax_j(leaky_relu(a x_j + b x_i + c e_ij)) W x_j + V x_i + v``.

    Per head; a, b and c are linear scores of source, destination and edge. PyG has no attention of this form; its
    ``softmax`` normalises over a node's edges.

    Cost: one [E, D] tensor of messages.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, edge_channels: int, heads: int, edge_drop: float
    ) -> None:
        super().__init__()
        with quiet_pyg():
            from torch_geometric.utils import softmax
        self._softmax = softmax
        self.heads, self.edge_drop = heads, edge_drop
        self.lin_src = nn.Linear(in_channels, out_channels, bias=False)
        self.lin_root = nn.Linear(in_channels, out_channels)
        self.score_src = nn.Linear(in_channels, heads, bias=False)
        self.score_dst = nn.Linear(in_channels, heads, bias=False)
        self.score_edge = nn.Linear(edge_channels, heads, bias=False)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor) -> Tensor:
        """[N, in] and [E, K] in the graph's order -> [N, out]."""
        src, dst = graph.edge_index
        if self.training and self.edge_drop > 0.0:
            kept = torch.rand(graph.num_edges, device=x.device) >= self.edge_drop
            src, dst, edge_attr = src[kept], dst[kept], edge_attr[kept]
        score = self.score_src(x)[src] + self.score_dst(x)[dst] + self.score_edge(edge_attr)
        weight = self._softmax(F.leaky_relu(score, 0.2), dst, num_nodes=graph.num_nodes)
        values = self.lin_src(x).view(x.size(0), self.heads, -1)
        messages = (weight.unsqueeze(-1) * values[src]).flatten(1)
        out: Tensor = self.lin_root(x).index_add(0, dst, messages.to(x.dtype))
        return out
