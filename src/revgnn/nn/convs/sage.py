"""`SAGEConv`, GraphSAGE: aggregated neighbours plus the root"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ... import ops
from ...graph import Graph
from ...ops import cpu
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


class SAGEConv(Conv):
    """Aggregate the neighbours and add the root: ``y = W_l reduce_j(x_j) + b + W_r x``.

    Args:
        in_channels, out_channels: widths.
        options: see `SAGEOptions`.
    Cost: one aggregation of width in.
    Source: Hamilton et al. 2017.
    """

    options_type = SAGEOptions

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
        out = mapped(self.lin_l, ops.spmm(x, graph, reduce=self.options.aggr), wide=True)
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
        scale = cpu.inverse_degree(graph, h.dtype) if self.options.aggr == "mean" else None
        kernels.spmm(aggregated, cpu.reverse_csr(graph), out=h, src_scale=scale, accumulate=root is not None)
        return h, grads

    def _aggregated(self, h: Tensor, graph: Graph, work: WorkSpace) -> Tensor:
        aggregated = work.empty("aggregated", h)
        ops.kernels(h).spmm(h, cpu.forward_csr(graph), out=aggregated, mean=self.options.aggr == "mean")
        return aggregated
