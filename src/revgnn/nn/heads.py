"""What turns the stream into answers: one row per node, or one per graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import Graph
from ..stack import FusedHead, fold_seed, uncompiled
from .norms import NormActDrop, goes_by_rows

_HEAD = -1  # keeps the head's draws apart from every layer's


class NodeHead(nn.Module):
    """Answer per node: ``W drop(relu(norm(x))) + b``.

    Args:
        head: norm, ReLU and dropout of width D; its norm becomes this module's, its dropout is not the shared mask's.
        out_channels: T.
    """

    def __init__(self, head: NormActDrop, out_channels: int) -> None:
        super().__init__()
        self.norm, self.act_drop = head.norm, head.act_drop
        self.lin = nn.Linear(head.channels, out_channels)

    def forward(self, x: Tensor, graph: Graph, seed: int) -> Tensor:
        """[N, D] -> [N, T]."""
        if uncompiled.is_compiled():
            out: Tensor = uncompiled.call(NodeHead.forward, self, x, graph, seed)
            return out
        # A program that is exported takes any number of rows, and blocks of them are counted while it is traced.
        fused = None if torch.compiler.is_exporting() else self.fused(seed)
        if fused is not None:
            return fused(x)
        out = self.lin(self._headed(x, graph, fold_seed(seed, _HEAD)))
        return out

    def fused(self, seed: int) -> FusedHead | None:
        """The head as a stack's fused head, where its norm and its map take every row for itself."""
        if not goes_by_rows(self.norm) or type(self.lin) is not nn.Linear:
            return None
        return FusedHead(self, lambda rows, seed: self.lin(self._headed(rows, None, seed)), fold_seed(seed, _HEAD))

    def _headed(self, x: Tensor, graph: Graph | None, seed: int) -> Tensor:
        return self.act_drop(self.norm, x, graph, training=self.training, seed=seed)


class GraphHead(NodeHead):
    """Answer per graph: the mean of ``drop(relu(norm(x)))`` over its nodes, then a linear map; made as `NodeHead`."""

    def forward(self, x: Tensor, graph: Graph, seed: int) -> Tensor:
        """[N, D] -> [B, T]."""
        nodes = self._headed(x, graph, fold_seed(seed, _HEAD))
        out: Tensor = self.lin(ops.pool(nodes, graph, reduce="mean"))
        return out

    def fused(self, seed: int) -> None:
        """None: pooling goes over rows."""


class ConvHead(nn.Module):
    """Answer per node by one more convolution: ``conv(drop(relu(norm(x)))) + b``.

    Args:
        head: norm, ReLU and dropout of width D.
        conv: from D to T channels, without edge features.
        out_channels: T.
    Source: the paper's official code, ogbn_arxiv_dgl, whose last layer is one of attention.
    """

    def __init__(self, head: NormActDrop, conv: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.norm, self.act_drop = head.norm, head.act_drop
        self.conv = conv
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, graph: Graph, seed: int) -> Tensor:
        """[N, D] -> [N, T]."""
        seed = fold_seed(seed, _HEAD)
        h = self.act_drop(self.norm, x, graph, training=self.training, seed=seed)
        out: Tensor = self.conv(h, graph, seed=fold_seed(seed, 0)) + self.bias
        return out


HEADS: dict[str, type[NodeHead]] = {"node": NodeHead, "graph": GraphHead}
"""`Task.head` -> the head that answers."""
