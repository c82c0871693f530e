"""The block that a stack repeats: norm, ReLU, dropout, convolution. A pure function of its arguments."""

from __future__ import annotations

from torch import Tensor, nn

from ..graph import Graph
from .convs import EdgeMap
from .norms import NormActDrop


class Block(nn.Module):
    """Pre-activation block ``f(x) = conv(drop(relu(norm(x))))``; the skip around it is the stack's.

    Args:
        head: norm, ReLU and dropout of the block's width.
        conv: a graph convolution that keeps the width.
    Source: the paper's official code, eff_gcn_modules (order of norm, ReLU, dropout, conv).
    """

    def __init__(self, head: NormActDrop, conv: nn.Module) -> None:
        super().__init__()
        self.norm = head
        self.conv = conv

    def forward(
        self,
        x: Tensor,
        seed: int,
        graph: Graph,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
        edge_bias: Tensor | None = None,
    ) -> Tensor:
        """Evaluate.

        Args:
            x: [N, d].
            seed: of the dropout (where no mask is given) and of the edge drop.
            graph: shared by all blocks.
            mask: [N, d] bool, the network's shared dropout mask; ``None``: drawn from ``seed``.
            edge_attr: [E, K] in the graph's order.
            edge_weight, edge_bias: [D, K] and [D], the network's edge encoder, not applied yet.
        Returns: [N, d].
        """
        h = self.norm(x, graph, mask=mask, seed=seed)
        edge_map = None if edge_weight is None else EdgeMap(edge_weight, edge_bias)
        out: Tensor = self.conv(h, graph, edge_attr, edge_map=edge_map, seed=seed)
        return out
