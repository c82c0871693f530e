"""The blocks of a stack (norm, ReLU, dropout, convolution) and of an equilibrium (two convolutions).

Both are pure functions of their arguments.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, cast

from torch import Tensor, nn

from .. import ops
from ..graph import Graph
from ..ops import cpu
from ..stack import WorkSpace, fold_seed, is_watched, keep_forwards, parts_of
from .convs import CONVS, Conv, EdgeMap, FusedConv
from .convs.interface import Gradients
from .norms import KINDS, NormActDrop


class Block(nn.Module):
    """Pre-activation block ``f(x) = conv(drop(relu(norm(x))))``; the stack adds the skip connection.

    Args:
        head: norm, ReLU and dropout of the block's width; its norm becomes the block's submodule.
        conv: a graph convolution that keeps the width.
    Source: the paper's official code, eff_gcn_modules (order of norm, ReLU, dropout, conv).

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.nn import Block, GCNConv, NormActDrop
        >>> block = Block(NormActDrop(8, "layer", dropout=0.5), GCNConv(8, 8))
        >>> graph = revgnn.Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3)
        >>> block(torch.randn(3, 8), 0, graph).shape
        torch.Size([3, 8])
    """

    pure_types: ClassVar[frozenset[type[nn.Module]]]
    """Parts of which the same arguments always give the same value."""

    def __init__(self, head: NormActDrop, conv: nn.Module) -> None:
        super().__init__()
        self.norm, self.act_drop = head.norm, head.act_drop
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
        """Evaluate the block.

        Args:
            x: [N, d].
            seed: seed of dropout (without a mask) and of edge dropout.
            graph: the graph, shared by all blocks.
            mask: [N, d] bool, the network's shared dropout mask; ``None``: drawn from ``seed``.
            edge_attr: [E, K] in the caller's order of edges; fused if that is the graph's own.
            edge_weight, edge_bias: [D, K] and [D], the network's edge encoder, to be fused into the convolution.
        Returns: [N, d].
        """
        h = self.act_drop(
            self.norm, x, graph, training=self.training, mask=mask, seed=seed, dtype=ops.row_dtype(x)
        )  # fmt: skip
        edge_map = None if edge_weight is None else EdgeMap(edge_weight, edge_bias)
        out: Tensor = self.conv(h, graph, edge_attr, edge_map=edge_map, seed=seed)
        return out

    def fuses(
        self,
        x: Tensor,
        graph: Graph,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        *edge_map: Tensor | None,
    ) -> bool:
        """Whether the fused evaluation applies: compiled kernels and unmodified modules, which offer it."""
        conv = self._fused_conv(edge_attr, edge_map)
        return (
            conv is not None
            and (edge_attr is None or graph.edge_ids is None)
            and ops.runs_in_place(x, graph)
            and self.act_drop.fuses(self.norm, x, graph)
            and conv.fuses(x, graph)
        )

    def add_value(
        self,
        to: Tensor,
        sign: int,
        x: Tensor,
        seed: int,
        graph: Graph,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        *edge_map: Tensor | None,
        work: WorkSpace,
    ) -> None:
        """Put the value into ``to``; see `FusedBlock`."""
        h, conv = work.empty("h", x, dtype=ops.row_dtype(x)), self._fused_conv(edge_attr, edge_map)
        assert conv is not None, "asked for after `fuses` only"
        drop = self.act_drop.drop(self.training, mask, seed)
        self.act_drop.write(self.norm, h, x, work, drop)
        conv.add_value(to, sign, h, graph, seed, work)

    def add_value_and_grad(
        self,
        to: Tensor,
        sign: int,
        x: Tensor,
        cotangent: Tensor,
        dx: Tensor,
        seed: int,
        graph: Graph,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        *edge_map: Tensor | None,
        accumulate: bool,
        work: WorkSpace,
    ) -> Gradients:
        """Put the value into ``to`` and the gradient of x into ``dx``; see `FusedBlock`."""
        h, conv = work.empty("h", x, dtype=ops.row_dtype(x)), self._fused_conv(edge_attr, edge_map)
        assert conv is not None, "asked for after `fuses` only"
        drop = self.act_drop.drop(self.training, mask, seed)
        self.act_drop.write(self.norm, h, x, work, drop)
        dh, grads = conv.add_value_and_grad(to, sign, h, cotangent, graph, seed, work)
        return grads | self.act_drop.pull_back(self.norm, dx, x, dh, work, drop, accumulate=accumulate)

    def recording(
        self,
        x: Tensor,
        graph: Graph,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        *edge_map: Tensor | None,
    ) -> ops.Recording | None:
        """Return what records the calls of the CPU's kernels; ``None``: the evaluation does more than call them."""
        if edge_attr is not None or ops.kernels(x) is not cpu.BACKEND:
            return None
        is_recordable = isinstance(self.conv, Conv) and self.conv.calls_kernels_alone
        return ops.Recording() if is_recordable and self.act_drop.calls_kernels_alone(self.norm, x) else None

    def extra_repr(self) -> str:
        """Show activation and dropout."""
        return str(self.act_drop)

    def _fused_conv(self, edge_attr: Tensor | None, edge_map: tuple[Tensor | None, ...]) -> FusedConv | None:
        """Return the convolution's fused evaluation, over edge features where there are some; ``None``: it has none."""
        conv = self.conv
        if edge_attr is None:
            kind: type = type(conv)
            return cast(FusedConv, conv) if _offers_fusion(kind) else None
        if not isinstance(conv, Conv):
            return None
        weight, bias = (*edge_map, None, None)[:2]
        return conv.over(edge_attr, None if weight is None else EdgeMap(weight, bias))


@cache
def _offers_fusion(kind: type) -> bool:
    """Whether a class implements `FusedConv`; cached, because the check takes as long as a small kernel."""
    return issubclass(kind, FusedConv)


class EquilibriumBlock(nn.Module):
    """The block of a DEQ-GNN with input injection.

    ``z_1 = conv_1(z);  z_2 = norm_1(z_1 + x);  z_3 = conv_2(drop(relu(z_2)));  out = norm_2(relu(z_3 + z_1))``

    Args:
        conv_1, conv_2: graph convolutions that keep the width.
        middle: norm, ReLU and dropout between them.
        last: the norm of the output, without ReLU.
    Source: the paper, equations 12 to 15.
    """

    pure_types: ClassVar[frozenset[type[nn.Module]]]
    """As of `Block`."""

    def __init__(self, conv_1: nn.Module, conv_2: nn.Module, *, middle: NormActDrop, last: NormActDrop) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = conv_1, conv_2
        self.middle, self.act_drop = middle.norm, middle.act_drop
        self.last, self.act_drop_last = last.norm, last.act_drop

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
        """Evaluate the block at the state ``z`` [N, D] with the input ``x`` [N, D]; other arguments as in `Block`."""
        edge_map = None if edge_weight is None else EdgeMap(edge_weight, edge_bias)
        z_1: Tensor = self.conv_1(z, graph, edge_attr, edge_map=edge_map, seed=fold_seed(seed, 1))
        h = self.act_drop(self.middle, z_1 + x, graph, training=self.training, mask=mask, seed=seed)
        z_3: Tensor = self.conv_2(h, graph, edge_attr, edge_map=edge_map, seed=fold_seed(seed, 2))
        return self.act_drop_last(self.last, (z_3 + z_1).relu(), graph, training=self.training, seed=fold_seed(seed, 3))


def is_made_of_pure(module: nn.Module) -> bool:
    """Whether all submodules are of types in `PURE` and have no hooks or patched forwards."""
    return all(type(part) in PURE and not is_watched(part) for part in parts_of(module))


PURE: frozenset[type[nn.Module]] = frozenset(
    {Block, EquilibriumBlock, nn.Linear, nn.ModuleList, *KINDS, *CONVS.values()}
)
"""Modules that draw random numbers only from their seed and change no buffer during recomputation."""
Block.pure_types = EquilibriumBlock.pure_types = PURE
keep_forwards(Block, EquilibriumBlock)
