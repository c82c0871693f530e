"""`GATConv`, graph attention in the variant of the paper's RevGAT"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_normal_, zeros_

from ... import ops
from ...graph import Graph
from ...ops import cpu
from ...stack import WorkSpace, draw_seed, fold_seed
from ..fusable import is_plain, keeps_forward, mapped, reads
from .interface import (
    Conv,
    EdgeMap,
    Gradients,
    convert_inputs,
    empty_grads,
    looped,
    refuse_edge_attr,
    refuse_edge_weight,
)


@dataclass(frozen=True, kw_only=True)
class GATOptions:
    """Options of `GATConv`."""

    heads: int = 1
    """H; out_channels are divided among them."""
    norm_adj: bool = True
    """Whether sources are scaled by out-degree^-1/2 before the score, and results by in-degree^1/2."""
    edge_drop: float = 0.0
    """Probability of dropping an edge before the softmax, in training."""
    attn_dst: bool = False
    """Whether the destination has an attention vector too."""
    negative_slope: float = 0.2
    """Slope of the leaky ReLU."""
    root_weight: bool = True
    """Whether to add W_r x. Without it, and with a bias, autograd differentiates the layer, which needs more memory."""
    bias: bool = False
    """Whether to add b."""
    add_self_loops: bool = False
    """Whether to attend along exactly one self loop per node too."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads must be 1 or more, got {self.heads}")
        if not 0.0 <= self.edge_drop < 1.0:
            raise ValueError(f"edge_drop must lie in [0, 1), got {self.edge_drop}")


class GATConv(Conv):
    """Graph attention with a linear residual: ``y_i = sum_j softmax_j(leaky_relu(a W x_j)) W x_j + W_r x_i``, per head.

    Each edge is dropped independently with probability ``edge_drop``, as a pure function of (seed, edge position).

    Args:
        in_channels, out_channels: widths; ``heads`` divides out_channels.
        options: see `GATOptions`.
    Cost: one attention of width out.
    Source: Velickovic et al. 2018, in the paper's RevGAT form (no biases, normalised adjacency); the
        options ``norm_adj=False, attn_dst=True, bias=True, add_self_loops=True, root_weight=False`` give PyG's.

    Examples:
        >>> import torch
        >>> from revgnn.nn import GATConv
        >>> from revgnn.nn.convs import GATOptions
        >>> GATConv(4, 8, options=GATOptions(heads=2))(torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 8])
    """

    options_type = GATOptions
    width_divisor = "heads"
    last_options: ClassVar[Mapping[str, object]] = {"heads": 1}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        options: GATOptions = GATOptions(),
    ) -> None:
        super().__init__()
        if out_channels % options.heads:
            raise ValueError(f"out_channels={out_channels} must be divisible by heads={options.heads}")
        self.in_channels, self.out_channels, self.options = in_channels, out_channels, options
        per_head = (options.heads, out_channels // options.heads)
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.lin_root = nn.Linear(in_channels, out_channels, bias=False) if options.root_weight else None
        self.attn_src = nn.Parameter(torch.empty(1, *per_head))
        self.attn_dst = nn.Parameter(torch.empty(1, *per_head)) if options.attn_dst else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if options.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every weight Xavier-normal with gain sqrt(2), and the bias with zero."""
        for weight in self.parameters():
            if weight is self.bias:
                zeros_(weight)
            else:
                xavier_normal_(weight, gain=math.sqrt(2))

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]; ``seed`` determines edge dropout in training, ``None`` draws one."""
        graph, edge_attr = convert_inputs(x, graph, edge_attr)
        refuse_edge_weight(self, graph)
        refuse_edge_attr(self, edge_attr)
        graph = self._attended_graph(graph)
        values = mapped(self.lin, x)
        if self.options.norm_adj:
            values = (values * _degree_scale(graph, "out", cpu.sum_dtype(values.dtype))).to(values.dtype)
        values = values.view(x.size(0), self.options.heads, self.out_channels // self.options.heads)
        scores = ops.attention_scores(values, self.attn_src, self.attn_dst)
        out = ops.attention(
            values,
            graph,
            *scores,
            negative_slope=self.options.negative_slope,
            keep=self._kept_edges(graph, seed),
        ).flatten(1)
        if self.options.norm_adj:
            out = out * _degree_scale(graph, "in", cpu.sum_dtype(out.dtype))
        if self.bias is not None:
            out = out + self.bias
        return out if self.lin_root is None else out + mapped(self.lin_root, x, wide=True)

    def _attended_graph(self, graph: Graph) -> Graph:
        return looped(graph) if self.options.add_self_loops else graph

    def _kept_edges(self, graph: Graph, seed: int | None) -> Tensor | None:
        if not self.training or self.options.edge_drop == 0.0:
            return None
        seed = draw_seed() if seed is None else seed
        return ops.keep_mask(fold_seed(seed, _EDGE_DROP), graph.num_edges, self.options.edge_drop, graph.device)

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation applies: all linear maps and attention vectors are unmodified."""
        per_head = (1, self.options.heads, h.size(1) // self.options.heads)
        return (
            self.lin_root is not None
            and self.bias is None
            and not self.options.add_self_loops
            and keeps_forward(self, GATConv)
            and reads(self, "attn_src", h, *per_head)
            and reads(self, "attn_dst", h, *per_head)
            and is_plain(self.lin, h, bias=False)
            and is_plain(self.lin_root, h, bias=False)
        )

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Evaluate the attention into a buffer; put it and the root's linear map into ``to``."""
        attended = _Attended(self, h, graph, seed, work, with_sums=False)
        ops.kernels(h).linear(h, self._root, out=to, sign=sign)
        attended.add_to(to, sign or 1)

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Evaluate the attention and its gradients, then each linear map and its gradients."""
        kernels = ops.kernels(h)
        attended = _Attended(self, h, graph, seed, work, with_sums=True)
        lin, root = self.lin.weight, self._root
        grads = empty_grads(lin, root)
        dvalues = attended.pull_back(cotangent, grads)
        dh = attended.values.flatten(1)  # not read any more
        kernels.linear_backward(cotangent, h, root, dweight=grads[root], dx=dh, value=to, sign=sign)
        attended.add_to(to, sign or 1)
        kernels.linear_backward(dvalues, h, lin, dweight=grads[lin], dx=dh, accumulate=True)
        return dh, grads

    @property
    def _root(self) -> Tensor:
        assert self.lin_root is not None, "asked for after `fuses` only"
        return self.lin_root.weight


class _Attended:
    """The attention of one layer in buffers of a work space, and its gradients."""

    def __init__(self, conv: GATConv, h: Tensor, graph: Graph, seed: int, work: WorkSpace, *, with_sums: bool) -> None:
        self.conv, self.graph, self.work = conv, graph, work
        self.keep = conv._kept_edges(graph, seed)
        self.shape = (h.size(0), conv.options.heads, h.size(1) // conv.options.heads)
        self.kernels = kernels = ops.kernels(h)
        values = work.empty("values", h)
        kernels.linear(h, conv.lin.weight, out=values)
        if conv.options.norm_adj:
            values *= _degree_scale(graph, "out", cpu.sum_dtype(h.dtype))
        self.values = values.view(self.shape)
        per_node, total = self.shape[:2], cpu.sum_dtype(h.dtype)
        self.score_src = work.empty("score_src", h, per_node, total)
        self.score_dst = None if conv.attn_dst is None else work.empty("score_dst", h, per_node, total)
        kernels.attention_scores(
            self.values, *self._vectors, score_src=self.score_src, score_dst=self.score_dst
        )  # fmt: skip
        self.y = work.empty("y", h).view(self.shape)
        normaliser = (h.size(0), 2, conv.options.heads)
        self.normaliser = work.empty("normaliser", h, normaliser, total) if with_sums else None
        with_slopes = with_sums and self.score_dst is not None
        self.slope_y = work.empty("slope_y", h, dtype=total).view(self.shape) if with_slopes else None
        self.slope_sum = work.empty("slope_sum", h, per_node, total) if with_slopes else None
        kernels.attention(
            self.values, cpu.forward_csr(graph), score_src=self.score_src, score_dst=self.score_dst,
            negative_slope=conv.options.negative_slope, keep=self.keep, out=self.y, normaliser=self.normaliser,
            slope_y=self.slope_y, slope_sum=self.slope_sum,
        )  # fmt: skip

    def add_to(self, to: Tensor, sign: int) -> None:
        """Add or subtract the result."""
        y = self.y.flatten(1)
        if self.conv.options.norm_adj:
            to.addcmul_(y, _degree_scale(self.graph, "in", to.dtype), value=sign)
        else:
            to.add_(y, alpha=sign)

    def pull_back(self, cotangent: Tensor, grads: Gradients) -> Tensor:
        """Return the gradient of ``W h``, and put those of the attention vectors into ``grads``."""
        conv, work, values = self.conv, self.work, self.values.flatten(1)
        assert self.normaliser is not None
        if conv.options.norm_adj:
            scale = _degree_scale(self.graph, "in", cotangent.dtype)
            cotangent = torch.mul(cotangent, scale, out=work.empty("scaled", values))
        elif cotangent.dtype is not values.dtype:
            cotangent = work.empty("scaled", values).copy_(cotangent)
        dvalues = work.empty("dvalues", values)
        dscore_src = work.empty("dscore_src", self.score_src)
        dscore_dst = None if self.score_dst is None else work.empty("dscore_dst", self.score_src)
        self.kernels.attention_backward(
            cotangent.view(self.shape), self.values, cpu.reverse_csr(self.graph),
            score_src=self.score_src, score_dst=self.score_dst, negative_slope=conv.options.negative_slope,
            keep=self.keep, y=self.y, normaliser=self.normaliser, slope_y=self.slope_y, slope_sum=self.slope_sum,
            scratch=work.empty("scratch", self.score_src, (*self.score_src.shape, 4)),
            dx=dvalues.view(self.shape), dscore_src=dscore_src, dscore_dst=dscore_dst,
        )  # fmt: skip
        grads |= empty_grads(conv.attn_src, conv.attn_dst)
        self.kernels.attention_scores_backward(
            self.values, *self._vectors, dscore_src=dscore_src, dscore_dst=dscore_dst, dx=dvalues.view(self.shape),
            dattn_src=grads[conv.attn_src], dattn_dst=grads.get(conv.attn_dst), accumulate=True,
        )  # fmt: skip
        if conv.options.norm_adj:
            dvalues *= _degree_scale(self.graph, "out", cpu.sum_dtype(values.dtype))
        return dvalues

    @property
    def _vectors(self) -> tuple[Tensor, Tensor | None]:
        src, dst = self.conv.attn_src, self.conv.attn_dst
        return src.detach(), None if dst is None else dst.detach()


def _degree_scale(graph: Graph, which: str, dtype: torch.dtype) -> Tensor:
    """Return [N, 1]: out-degree^-1/2 for sources, in-degree^1/2 for results."""

    def make() -> Tensor:
        whole = graph.trimmed_from or graph
        degree, power = (whole.out_degree, -0.5) if which == "out" else (whole.in_degree, 0.5)
        return degree[: graph.num_nodes].clamp(min=1).to(cpu.sum_dtype(dtype)).pow(power).to(dtype).unsqueeze(1)

    scale: Tensor = graph.keep(f"{which}_degree_scale {dtype}", make)
    return scale


_EDGE_DROP = 1  # distinguishes edge dropout from feature dropout, which uses the block's seed itself
