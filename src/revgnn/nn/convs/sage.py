"""`SAGEConv`, GraphSAGE: aggregated neighbours plus the root"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...graph import Graph
from ...ops import cpu
from ...plain_config import check_literals
from ...stack import WorkSpace
from ..fusable import is_plain, keeps_forward, mapped
from .interface import Conv, EdgeMap, Gradients, convert_inputs, draw_glorot, empty_grads, refuse_edge_attr


@dataclass(frozen=True, kw_only=True)
class SAGEOptions:
    """Options of `SAGEConv`."""

    aggr: ops.Reduce = "mean"
    """Aggregation of neighbours: "mean", "sum" or "max"."""
    init: Literal["linear", "glorot"] = "linear"
    """Initial weights: "linear", as `torch.nn.Linear` and PyG draw them, with standard deviation (3 in)^-1/2; or
    "glorot", as `GCNConv` draws its own, sqrt(3) larger if in equals out, with zero bias."""
    bias: bool = True
    """Whether to add b."""
    root_weight: bool = True
    """Whether to add W_r x. Without it the layer has half the weights, and x enters through the stack's skip
    connection, or through self loops of the graph, which gives the "GCN aggregator" of the source."""

    def __post_init__(self) -> None:
        check_literals(self)


class SAGEConv(Conv):
    """Aggregate the neighbours and add the root: ``y = W_l reduce_j(x_j) + b + W_r x``.

    The weights of a `Graph.weighted` make the mean ``sum_j w_ij x_j / sum_j w_ij`` and the sum ``sum_j w_ij x_j``; the
    mean of a sampled graph divides by its ``norm_degree`` instead.

    Args:
        in_channels, out_channels: widths.
        options: see `SAGEOptions`.
    Cost: one aggregation of width in.
    Source: Hamilton et al. 2017.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> graph = revgnn.Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3)
        >>> revgnn.SAGEConv(4, 8)(torch.randn(3, 4), graph).shape
        torch.Size([3, 8])
    """

    options_type = SAGEOptions
    takes_edge_weight = True
    calls_kernels_alone = True

    def __init__(self, in_channels: int, out_channels: int, *, options: SAGEOptions = SAGEOptions()) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.options = in_channels, out_channels, options
        self.lin_l = nn.Linear(in_channels, out_channels, bias=options.bias)
        self.lin_r = nn.Linear(in_channels, out_channels, bias=False) if options.root_weight else None
        if options.init == "glorot":
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every weight according to ``options.init``."""
        for lin in filter(None, (self.lin_l, self.lin_r)):
            lin.reset_parameters()
            if self.options.init == "glorot":
                draw_glorot(lin)

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
        graph, edge_attr = convert_inputs(x, graph, edge_attr)
        refuse_edge_attr(self, edge_attr)
        weight = self._weight(graph, x.dtype)
        reduce: ops.Reduce = self.options.aggr if weight is None else "sum"
        out = mapped(self.lin_l, ops.spmm(x, graph, weight, reduce=reduce), wide=True)
        return out if self.lin_r is None else out + mapped(self.lin_r, x, wide=True)

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation applies: sum or mean; autograd differentiates a maximum."""
        return (
            self.options.aggr != "max"
            and keeps_forward(self, SAGEConv)
            and is_plain(self.lin_l, h, bias=True)
            and (self.lin_r is None or is_plain(self.lin_r, h, bias=False))
        )

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Aggregate into a buffer, and put the linear maps of buffer and root into ``to``."""
        kernels = ops.kernels(h)
        kernels.linear(self._aggregated(h, graph, work), self.lin_l.weight, self.lin_l.bias, out=to, sign=sign)
        if self.lin_r is not None:
            kernels.linear(h, self.lin_r.weight, out=to, sign=sign or 1)

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Evaluate the aggregation, each linear map and its gradients, then the transposed aggregation."""
        kernels = ops.kernels(h)
        near, bias = self.lin_l.weight, self.lin_l.bias
        root = None if self.lin_r is None else self.lin_r.weight
        grads = empty_grads(near, root, bias)
        aggregated = self._aggregated(h, graph, work)
        kernels.linear_backward(
            cotangent, aggregated, near, bias,
            dweight=grads[near], dbias=grads.get(bias), dx=aggregated, value=to, sign=sign,
        )  # fmt: skip
        if root is not None:
            kernels.linear_backward(cotangent, h, root, dweight=grads[root], dx=h, value=to, sign=sign or 1)
        weight = self._weight(graph, h.dtype)
        if weight is None:
            scale = cpu.inverse_degree(graph, h.dtype) if self.options.aggr == "mean" else None
            kernels.spmm(aggregated, cpu.reverse_csr(graph), out=h, src_scale=scale, accumulate=root is not None)
        else:
            reverse, weight = cpu.reverse_weighted(graph, weight)
            kernels.spmm(aggregated, reverse, out=h, weight=weight, accumulate=root is not None)
        return h, grads

    def _aggregated(self, h: Tensor, graph: Graph, work: WorkSpace) -> Tensor:
        aggregated, weight = work.empty("aggregated", h), self._weight(graph, h.dtype)
        mean = self.options.aggr == "mean" and weight is None
        ops.kernels(h).spmm(h, cpu.forward_csr(graph), out=aggregated, weight=weight, mean=mean)
        return aggregated

    def _weight(self, graph: Graph, dtype: torch.dtype) -> Tensor | None:
        """Return [E] the weights of a weighted graph, of a mean divided by their sum; cached on the graph."""
        own = graph.edge_weight
        if own is None:
            return None
        if self.options.aggr == "max":
            raise ValueError("SAGEConv with aggr='max' takes no edge weights; choose 'mean' or 'sum', or drop them")
        kind, is_mean = cpu.sum_dtype(dtype), self.options.aggr == "mean"

        def weight() -> Tensor:
            if not is_mean:
                return own.to(kind)
            total = graph.norm_degree
            if total is None:
                total = ops.spmm(own.new_ones(graph.num_nodes, 1, dtype=kind), graph, own.to(kind)).squeeze(1)
            share = torch.where(total > 0, total, 1).reciprocal().to(kind)
            return own.to(kind) * share.index_select(0, graph.destinations)

        kept: Tensor = graph.keep(f"sage_weight {is_mean} {kind}", weight)
        return kept
