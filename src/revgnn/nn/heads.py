"""Output heads: logits per node or per graph"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import Graph
from ..stack import FusedHead, fold_seed, keep_forwards, uncompiled
from ..stack.fused_head import ROWS
from .fusable import mapped
from .norms import NormActDrop, is_row_wise

_HEAD = -1  # seed of the head's random numbers, distinct from those of layers


class NodeHead(nn.Module):
    """Node-level head: ``W drop(relu(norm(x))) + b``.

    Args:
        head: norm, ReLU and dropout of width D; its norm becomes this module's submodule. Its dropout does not use the
            network's shared mask.
        out_channels: T.
        block_rows: rows that are evaluated at a time where every row is taken for itself.
    """

    def __init__(self, head: NormActDrop, out_channels: int, *, block_rows: int = ROWS) -> None:
        super().__init__()
        self.block_rows = block_rows
        self.norm, self.act_drop = head.norm, head.act_drop
        self.lin = nn.Linear(head.channels, out_channels)

    def forward(self, x: Tensor, graph: Graph, seed: int) -> Tensor:
        """[N, D] -> [N, T]."""
        if uncompiled.is_compiled():
            return uncompiled.call(NodeHead.forward, self, x, graph, seed)
        # An exported program takes any number of rows, but a fused head fixes the number of row blocks.
        fused = None if torch.compiler.is_exporting() else self.fused(seed)
        if fused is not None:
            return fused(x)
        return self._mapped(self._headed(x, graph, fold_seed(seed, _HEAD)))

    def fused(self, seed: int) -> FusedHead | None:
        """Return the head as a `FusedHead` if its norm and its linear map are row-wise, else None."""
        if not is_row_wise(self.norm) or type(self.lin) is not nn.Linear:
            return None
        seed = fold_seed(seed, _HEAD)
        return FusedHead(self, lambda rows, seed: self._mapped(self._headed(rows, None, seed)), seed, self.block_rows)

    def _headed(self, x: Tensor, graph: Graph | None, seed: int) -> Tensor:
        return self.act_drop(self.norm, x, graph, training=self.training, seed=seed, dtype=ops.row_dtype(x))

    def _mapped(self, h: Tensor) -> Tensor:
        return mapped(self.lin, h, wide=True)


keep_forwards(NodeHead)


class GraphHead(NodeHead):
    """Graph-level head: the mean of ``drop(relu(norm(x)))`` over each graph's nodes, then a linear map.

    Args: see `NodeHead`.
    """

    def forward(self, x: Tensor, graph: Graph, seed: int) -> Tensor:
        """[N, D] -> [B, T]."""
        nodes = self._headed(x, graph, fold_seed(seed, _HEAD))
        return self._mapped(ops.pool(nodes, graph, reduce="mean"))

    def fused(self, seed: int) -> None:
        """None: pooling is not row-wise."""


class ConvHead(nn.Module):
    """Node-level head with one more convolution: ``conv(drop(relu(norm(x)))) + b``.

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
