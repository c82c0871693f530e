"""The networks that are stepped beside each other: one architecture, this project's and PyG's.

Linear encoder; L layers of LayerNorm, ReLU, dropout by one mask that all layers share, convolution; LayerNorm, ReLU,
dropout, linear head. PyG's are its public modules, unmodified, put together as its documentation does.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric import nn as pyg

from revgnn import ModelConfig, build_model
from revgnn.data import GraphInfo
from revgnn.nn.convs import GATOptions, GENOptions
from revgnn.nn.heads import NodeHead
from revgnn.nn.model import GNN
from revgnn.nn.norms import NormActDrop

from .graphs import Task
from .registry import DROPOUT, GROUPS, Entrant, Step


def own_net(step: Step, entrant: Entrant, task: Task, *, layers: int, hidden: int, dropout: float = DROPOUT) -> GNN:
    """Build this project's network."""
    is_gat = step.conv == "gat"
    config = ModelConfig(
        conv=step.conv,
        num_layers=layers + 2 * is_gat,
        hidden_channels=hidden,
        coupling="grouped",
        num_groups=GROUPS,
        backprop=entrant.backprop,
        norm="layer",
        dropout=dropout,
        edge_encoder=False,
        gen=GENOptions(aggr="softmax", learn_t=True, mlp_layers=1),
        gat=GATOptions(heads=step.heads, norm_adj=False, attn_dst=True),
    )
    edge_channels = task.edge_attr.size(1) if step.edge_features and task.edge_attr is not None else None
    net = build_model(
        config, GraphInfo(in_channels=task.x.size(1), num_outputs=task.num_classes, edge_channels=edge_channels)
    )  # fmt: skip
    if is_gat:
        # The paper's RevGAT encodes and answers by attention layers of its own; here all convolutions share one frame.
        net.encoder, net.stem = nn.Linear(task.x.size(1), hidden), None
        net.head = NodeHead(NormActDrop(hidden, "layer", dropout=dropout), task.num_classes)
    return net


class PyGBlock(nn.Module):
    """LayerNorm, ReLU, shared mask, convolution."""

    def __init__(self, channels: int, conv: nn.Module) -> None:
        super().__init__()
        self.norm, self.conv = nn.LayerNorm(channels), conv

    def forward(self, x: Tensor, edge_index: Tensor, mask: Tensor | None, edge_attr: Tensor | None) -> Tensor:
        """[N, d] -> [N, d]; ``mask`` holds 0 and 1/(1-p)."""
        h = self.norm(x).relu()
        if mask is not None:
            h = h * mask
        out: Tensor = self.conv(h, edge_index) if edge_attr is None else self.conv(h, edge_index, edge_attr)
        return out


class PyGNet(nn.Module):
    """PyG's reversible network, or its plain residual one where activations are stored."""

    def __init__(
        self, step: Step, entrant: Entrant, task: Task, *, layers: int, hidden: int, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.dropout, self.is_reversible = dropout, entrant.backprop == "reversible"
        self.encoder, self.lin = nn.Linear(task.x.size(1), hidden), nn.Linear(hidden, task.num_classes)
        self.norm = nn.LayerNorm(hidden)
        make = partial(_pyg_conv, step, task, cached=entrant.rows)
        if self.is_reversible:
            width = hidden // GROUPS
            groups = ([PyGBlock(width, make(width)) for _ in range(GROUPS)] for _ in range(layers))
            self.layers = nn.ModuleList(pyg.GroupAddRev(nn.ModuleList(blocks)) for blocks in groups)
        else:
            self.layers = nn.ModuleList(PyGBlock(hidden, make(hidden)) for _ in range(layers))
        if entrant.compiled is not None:
            for block in self.modules():
                if isinstance(block, PyGBlock):
                    block.compile(dynamic=entrant.compiled == "dynamic")

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        # Under autocast the stream stays float32, as ours: PyG's layer cannot restore one whose dtype changes.
        h = self.encoder(x).to(x.dtype)
        mask = None
        if self.training and self.dropout > 0.0:
            mask = torch.empty_like(h).bernoulli_(1.0 - self.dropout).div_(1.0 - self.dropout)
        for layer in self.layers:
            # A reversible layer empties the storage that it is given: h is never used again.
            h = (
                layer(h, edge_index, mask, edge_attr)
                if self.is_reversible
                else h + layer(h, edge_index, mask, edge_attr)
            )
        h = F.dropout(self.norm(h).relu(), self.dropout, self.training)
        out: Tensor = self.lin(h)
        return out


def _pyg_conv(step: Step, task: Task, channels: int, *, cached: bool) -> nn.Module:
    edge_dim = task.edge_attr.size(1) if step.edge_features and task.edge_attr is not None else None
    conv: nn.Module
    if step.conv == "gcn":
        conv = pyg.GCNConv(channels, channels, cached=cached)
    elif step.conv == "sage":
        conv = pyg.SAGEConv(channels, channels)
    elif step.conv == "gen":
        conv = pyg.GENConv(
            channels, channels, aggr="softmax", t=1.0, learn_t=True, num_layers=1, bias=True, edge_dim=edge_dim
        )  # fmt: skip
    else:
        conv = pyg.GATConv(
            channels, channels // step.heads, heads=step.heads, add_self_loops=False, residual=True, bias=False
        )  # fmt: skip
    return conv
