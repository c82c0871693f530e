"""`GCNConv`, the graph convolution with symmetric normalisation"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ... import ops
from ...graph import Graph
from ...ops import cpu
from ...stack import WorkSpace
from ..fusable import is_bare, is_plain, keeps_forward, mapped
from .interface import Conv, EdgeMap, Gradients, convert_inputs, draw_glorot, empty_grads, looped


class GCNConv(Conv):
    """Graph convolution with symmetric normalisation: ``y = D^-1/2 A D^-1/2 x W^T + b``, A with one self loop per node.

    Args:
        in_channels, out_channels: widths.
        add_self_loops: whether to add the missing self loops; False uses the graph unchanged.
        bias: whether to add b.
    Shape: ``edge_weight`` is [E] or [E, 1], differentiated; D then sums the weights, and an added loop has 1.
        The weights of a `Graph.weighted` are constants.
    Cost: one aggregation of width min(in, out). Finding missing self loops depends on data: for torch.compile with
        ``fullgraph``, evaluate ``graph.self_looped`` before.
    Source: Kipf & Welling 2017.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> conv, edge_index = revgnn.GCNConv(4, 8), torch.tensor([[0, 1], [1, 2]])
        >>> conv(torch.randn(3, 4), edge_index, edge_weight=torch.tensor([0.5, 2.0])).shape
        torch.Size([3, 8])
    """

    takes_edge_weight = True
    calls_kernels_alone = True

    def __init__(self, in_channels: int, out_channels: int, *, add_self_loops: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.add_self_loops = in_channels, out_channels, add_self_loops
        self.lin = nn.Linear(in_channels, out_channels, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as PyG does: Glorot weights, zero bias."""
        draw_glorot(self.lin)

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]; ``edge_weight`` may stand in the place of ``edge_attr``, as in PyG."""
        if edge_attr is not None and edge_weight is not None:
            raise ValueError("GCNConv reads edge_weight alone; leave edge_attr out, or use GENConv")
        graph, weights = convert_inputs(x, graph, edge_attr if edge_weight is None else edge_weight)
        if weights is not None and weights.numel() != graph.num_edges:
            raise ValueError(f"GCNConv takes edge weights [{graph.num_edges}], got {list(weights.shape)}; use GENConv")
        if weights is not None:
            weights = weights.reshape(-1)
        if self.add_self_loops:
            weights = None if weights is None else _looped_weights(graph, weights)
            graph = looped(graph)
        weight = _gcn_weight(graph, weights, x.dtype)
        if self.in_channels <= self.out_channels or not is_bare(self.lin):
            return mapped(self.lin, ops.spmm(x, graph, weight), wide=True)
        out = ops.spmm(nn.functional.linear(x, self.lin.weight), graph, weight)
        return out if self.lin.bias is None else out + self.lin.bias

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation applies: aggregation precedes the linear map, as in a stack's layers."""
        aggregates_first = self.add_self_loops and self.in_channels <= self.out_channels
        return aggregates_first and keeps_forward(self, GCNConv) and is_plain(self.lin, h, bias=True)

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Aggregate into a buffer, and put its linear map into ``to``."""
        ops.kernels(h).linear(self._summed(h, graph, work), self.lin.weight, self.lin.bias, out=to, sign=sign)

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Evaluate the aggregation, the linear map and its gradients, then the transposed aggregation."""
        kernels = ops.kernels(h)
        summed, (weight, bias) = self._summed(h, graph, work), (self.lin.weight, self.lin.bias)
        grads = empty_grads(weight, bias)
        kernels.linear_backward(
            cotangent, summed, weight, bias,
            dweight=grads[weight], dbias=grads.get(bias), dx=summed, value=to, sign=sign,
        )  # fmt: skip
        graph = graph.self_looped
        reverse, edge_weight = cpu.reverse_weighted(graph, _gcn_weight(graph, None, h.dtype))
        kernels.spmm(summed, reverse, out=h, weight=edge_weight)
        return h, grads

    def _summed(self, h: Tensor, graph: Graph, work: WorkSpace) -> Tensor:
        graph, summed = graph.self_looped, work.empty("summed", h)
        ops.kernels(h).spmm(h, cpu.forward_csr(graph), out=summed, weight=_gcn_weight(graph, None, h.dtype))
        return summed


def _looped_weights(graph: Graph, weights: Tensor) -> Tensor:
    """Return the weights of the self-looped graph's edges: those of the graph's, and 1 for an added loop."""

    def make() -> Tensor:
        # As weights of the graph, the numbers of its edges find their places; an added loop has the number 1.
        numbers = torch.arange(2, graph.num_edges + 2, dtype=torch.float64, device=graph.device)
        found = replace(graph, edge_weight=numbers).self_looped.edge_weight
        assert found is not None
        return found.long() - 1

    places = graph.keep("places of looped edges", make)
    return torch.cat([weights.new_ones(1), weights]).index_select(0, places)


def _gcn_weight(graph: Graph, edge_weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return [E] ``d_i^-1/2 w_ij d_j^-1/2``, d the (weighted) in-degree as in PyG; cached on the graph without
    ``edge_weight``."""
    own = graph.edge_weight if edge_weight is None else edge_weight

    def weight() -> Tensor:
        whole = graph if edge_weight is not None else graph.trimmed_from or graph
        degree = _degree(whole, edge_weight, cpu.sum_dtype(dtype))[: graph.num_nodes]
        scale = torch.where(degree > 0, degree, 1).pow(-0.5) * (degree > 0)
        product = scale.index_select(0, graph.indices) * scale.index_select(0, graph.destinations)
        return product if own is None else product * own

    if edge_weight is not None:
        return weight()
    kept: Tensor = graph.keep(_NAMES[cpu.sum_dtype(dtype)], weight)
    return kept


def _degree(graph: Graph, edge_weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return [N] the degrees that normalise: sums of ``edge_weight``, or, without it, those of the graph."""
    if edge_weight is None and graph.norm_degree is not None:
        return graph.norm_degree.to(dtype)
    weight = graph.edge_weight if edge_weight is None else edge_weight
    if weight is None:
        return graph.in_degree.to(dtype)
    return ops.spmm(weight.new_ones(graph.num_nodes, 1, dtype=dtype), graph, weight).squeeze(1)


_NAMES = {dtype: f"gcn_weight {dtype}" for dtype in (torch.float32, torch.float64)}
"""Under which a graph keeps its weights; to make a name takes as long as a small kernel."""
