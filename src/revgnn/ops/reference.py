"""Every op in plain torch, as in the paper: the specification, the portable fallback and the oracle in tests.

Each message step allocates one edge tensor [E, D], which autograd frees. Sums run over each destination's edges in the
graph's order and gradients over each source's edges, without atomics: the same call gives the same bits on any device.
Half-precision inputs are computed in float32, from the messages to the last division, and results have the input's
dtype. All ops support higher-order gradients and the transforms of `torch.func`.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import Graph
from .checks import is_transformed, sum_dtype

Reduce = Literal["sum", "mean", "max"]
"""How `spmm` and `pool` reduce rows.

Examples:
    >>> from typing import get_args
    >>> from revgnn.ops import Reduce
    >>> get_args(Reduce)
    ('sum', 'mean', 'max')
"""
Aggr = Literal["sum", "mean", "max", "softmax", "softmax_sg", "power"]
"""How `gen_aggr` reduces messages.

Examples:
    >>> from typing import get_args
    >>> from revgnn.ops import Aggr
    >>> get_args(Aggr)
    ('sum', 'mean', 'max', 'softmax', 'softmax_sg', 'power')
"""
Norm = Literal["none", "layer", "batch", "graph"]
"""What `norm_act_drop` normalises over: nothing, a row's channels, all rows, or the rows of each graph.

Examples:
    >>> from typing import get_args
    >>> from revgnn.ops import Norm
    >>> get_args(Norm)
    ('none', 'layer', 'batch', 'graph')
"""

MESSAGE_EPS = 1e-7
POWER_RANGE = (1e-7, 10.0)


# ---------------------------------------------------------------------- gather and segment sums, each other's transpose
class _Gather(torch.autograd.Function):
    """x_j of every edge; its gradient is summed by source over the reverse graph, one owner per row."""

    @staticmethod
    def forward(ctx, x: Tensor, graph: Graph) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.graph = graph
        return x.index_select(0, graph.indices)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        reverse = ctx.graph.reverse
        return segment_sum(grad.index_select(0, reverse.edge_ids), reverse), None


class _SegmentSum(torch.autograd.Function):
    """The sum of every destination's edges; its gradient is the destination's, gathered per edge."""

    @staticmethod
    def forward(ctx, values: Tensor, graph: Graph) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.graph = graph
        if values.device.type == "cpu":  # scatter_add_ is sequential per row there, and twice as fast
            index = graph.destinations.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
            return values.new_zeros(graph.num_nodes, *values.shape[1:]).scatter_add_(0, index, values)
        return torch.segment_reduce(values, "sum", offsets=graph.indptr.long(), axis=0, initial=0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return grad.index_select(0, ctx.graph.destinations), None


def gather(x: Tensor, graph: Graph) -> Tensor:
    """Return ``x_j`` for every edge j -> i: [N, ...] -> [E, ...]."""
    if is_transformed():
        return x.index_select(0, graph.indices)
    out: Tensor = _Gather.apply(x, graph)  # type: ignore[no-untyped-call]
    return out


def segment_sum(values: Tensor, graph: Graph) -> Tensor:
    """Sum [E, ...] values over each node's incoming edges -> [N, ...]; isolated nodes get 0."""
    if is_transformed():
        return values.new_zeros(graph.num_nodes, *values.shape[1:]).index_add(0, graph.destinations, values)
    out: Tensor = _SegmentSum.apply(values, graph)  # type: ignore[no-untyped-call]
    return out


def segment_mean(values: Tensor, graph: Graph) -> Tensor:
    """Average [E, D] values over each node's incoming edges; isolated nodes get 0."""
    degree = graph.in_degree.clamp(min=1).to(values.dtype)
    return segment_sum(values, graph) / degree.view(-1, *[1] * (values.dim() - 1))


def segment_max(values: Tensor, graph: Graph) -> Tensor:
    """Largest of [E, D] values over each node's incoming edges, per channel; isolated nodes get 0.

    The gradient goes to one edge per node and channel: the first, in the graph's order, that attains the maximum.
    """
    num_edges, is_exporting = graph.num_edges, torch.compiler.is_exporting()
    if not is_exporting and num_edges == 0:
        return values.new_zeros(graph.num_nodes, values.size(1)) + values.sum()
    index = graph.destinations.unsqueeze(1).expand_as(values)
    constant = values.detach()
    top = constant.new_zeros(graph.num_nodes, values.size(1))
    top = top.scatter_reduce(0, index, constant, "amax", include_self=False)
    attains = (constant == top.index_select(0, graph.destinations)) | constant.isnan()
    position = torch.arange(num_edges, device=values.device).unsqueeze(1).expand_as(values)
    first = torch.full_like(top, num_edges, dtype=torch.int64)
    first = first.scatter_reduce(0, index, torch.where(attains, position, num_edges), "amin")
    if is_exporting:  # a program takes graphs without edges too; an isolated node reads the row that is added
        return torch.cat([values, values.new_zeros(1, values.size(1))]).gather(0, first)
    found = values.gather(0, first.clamp(max=num_edges - 1))
    return torch.where((graph.in_degree > 0).unsqueeze(1), found, found.new_zeros(()))


def segment_softmax(logits: Tensor, graph: Graph) -> Tensor:
    """Softmax of [E, D] logits over each node's incoming edges, shifted by their maximum so that it cannot overflow."""
    top = segment_max(logits.detach(), graph)
    weights = (logits - top.index_select(0, graph.destinations)).exp()
    total = segment_sum(weights, graph)
    return weights / total.index_select(0, graph.destinations)


# ---------------------------------------------------------------------- the ops
def spmm(x: Tensor, graph: Graph, weight: Tensor | None = None, *, reduce: Reduce = "sum") -> Tensor:
    """Aggregate neighbours; contract in `revgnn.ops.spmm`."""
    messages = gather(_wide(x), graph)
    if weight is not None:
        messages = messages * weight.to(messages.dtype).unsqueeze(1)
    return _SEGMENT[reduce](messages, graph).to(x.dtype)


def gen_aggr(
    x: Tensor,
    graph: Graph,
    edge_attr: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    reduce: Aggr = "softmax",
    t: Tensor | float = 1.0,
    p: Tensor | float = 1.0,
) -> Tensor:
    """Aggregate GEN messages; contract in `revgnn.ops.gen_aggr`."""
    messages = gather(_wide(x), graph)
    if edge_attr is not None:
        term = _as(messages, edge_attr)
        if weight is not None:
            term = F.linear(term, _as(messages, weight), _as(messages, bias))
        messages = messages + term
    messages = messages.relu() + MESSAGE_EPS
    if reduce in ("softmax", "softmax_sg"):
        logits = messages.detach() * t if reduce == "softmax_sg" else messages * t
        out = segment_sum(segment_softmax(logits, graph) * messages, graph)
    elif reduce == "power":
        out = _power_mean(messages, graph, p)
    else:
        out = _SEGMENT[reduce](messages, graph)
    return out.to(x.dtype)


def attention(
    x: Tensor,
    graph: Graph,
    score_src: Tensor,
    score_dst: Tensor | None = None,
    *,
    negative_slope: float = 0.2,
    keep: Tensor | None = None,
) -> Tensor:
    """Aggregate with attention; contract in `revgnn.ops.attention`."""
    values = gather(_wide(x), graph)
    logits = gather(_as(values, score_src), graph)
    if score_dst is not None:
        logits = logits + _as(values, score_dst).index_select(0, graph.destinations)
    logits = F.leaky_relu(logits, negative_slope)
    if keep is None:
        weights = segment_softmax(logits, graph)
    else:
        # A dropped edge keeps its place with weight 0; a node that lost every edge divides 0 by 1.
        kept = keep.unsqueeze(1)
        top = segment_max(logits.detach().masked_fill(~kept, float("-inf")), graph)
        top = top.clamp(min=torch.finfo(logits.dtype).min)
        shifted = (logits - top.index_select(0, graph.destinations)).masked_fill(~kept, float("-inf"))
        weights = shifted.exp()
        total = segment_sum(weights, graph)
        total = torch.where(total == 0, torch.ones_like(total), total)
        weights = weights / total.index_select(0, graph.destinations)
    return segment_sum(values * weights.unsqueeze(2), graph).to(x.dtype)


def attention_scores(x: Tensor, attn_src: Tensor, attn_dst: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Score both ends; contract in `revgnn.ops.attention_scores`."""
    x = _wide(x)
    return (x * _as(x, attn_src)).sum(-1), None if attn_dst is None else (x * _as(x, attn_dst)).sum(-1)


def norm_act_drop(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: Norm = "layer",
    eps: float = 1e-5,
    stats: tuple[Tensor, Tensor] | None = None,
    graph: Graph | None = None,
    mean_scale: Tensor | None = None,
    act: bool = True,
    p: float = 0.0,
    mask: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    """Normalise, rectify and drop; contract in `revgnn.ops.norm_act_drop`."""
    dtype, x = x.dtype, _wide(x)
    weight, bias, mean_scale = _as(x, weight), _as(x, bias), _as(x, mean_scale)
    if norm == "layer":
        x = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    elif norm == "batch":
        mean, var = (None, None) if stats is None else (_as(x, value) for value in stats)
        x = torch.batch_norm(x, weight, bias, mean, var, stats is None, 0.0, eps, torch.backends.cudnn.enabled)
    elif norm == "graph":
        x = _graph_norm(x, weight, bias, mean_scale, graph, eps)
    if act:
        x = x.relu()
    if p == 0.0 or (mask is None and seed is None):
        return x.to(dtype)
    if mask is None:
        assert seed is not None
        mask = keep_mask(seed, x.numel(), p, x.device).view_as(x)
    elif mask.dtype == torch.uint8:
        mask = unpack_mask(mask)
    return (x * mask.to(x.dtype) * (1.0 / (1.0 - p))).to(dtype)


def keep_mask(seed: int, numel: int, p: float, device: torch.device) -> Tensor:
    """Draw ``numel`` booleans, each False with probability ``p``, as a pure function of (seed, position).

    Position i is kept where ``mix(mix(lo(i) ^ lo(seed)) ^ hi(seed) ^ hi(i) * 0x9E3779B9) >= p * 2**32``, with ``mix``
    the 32-bit finaliser lowbias32; the kernels compute the same, so that any implementation may rebuild another's mask.
    """
    if torch.compiler.is_compiling():
        drawn: Tensor = _keep_mask_op(seed, numel, p, device)
        return drawn
    position = torch.arange(numel, device=device)
    high = (position >> 32).to(torch.int32) * _signed(0x9E3779B9) if numel > 2**32 else 0
    h = _mix32(position.to(torch.int32) ^ _signed(seed & 0xFFFFFFFF))
    h = _mix32(h ^ _signed(seed >> 32 & 0xFFFFFFFF) ^ high)
    threshold = min(int(p * 2**32), 2**32 - 1)
    return (h ^ _signed(0x80000000)) >= _signed(threshold ^ 0x80000000)  # unsigned comparison in signed integers


@torch.library.custom_op("revgnn::keep_mask", mutates_args=())
def _keep_mask_op(seed: int, numel: int, p: float, device: torch.device) -> Tensor:
    """A compiler would compute with the seed, which is another number at every step and wider than its integers."""
    return keep_mask(seed, numel, p, device)


@_keep_mask_op.register_fake
def _(seed, numel, p, device):  # type: ignore[no-untyped-def]
    return torch.empty(numel, dtype=torch.bool, device=device)


def unpack_mask(bits: Tensor) -> Tensor:
    """Turn a packed mask [N, D / 8] uint8 into [N, D] bool: channel d is bit d % 8 of byte d / 8."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(-1) >> places & 1).flatten(-2).bool()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map rows; contract in `revgnn.ops.linear`."""
    wide = _wide(x)
    return F.linear(wide, _as(wide, weight), _as(wide, bias))


# ---------------------------------------------------------------------- parts
def _power_mean(messages: Tensor, graph: Graph, p: Tensor | float) -> Tensor:
    low, high = POWER_RANGE
    mean = segment_mean(messages.clamp(low, high).pow(p), graph)
    root = mean.clamp(low, high).pow(1.0 / p)
    return torch.where((graph.in_degree > 0).unsqueeze(1), root, root.new_zeros(())).to(messages.dtype)


def _graph_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean_scale: Tensor | None, graph: Graph | None, eps: float
) -> Tensor:
    """Normalise over the nodes of each graph: ``(x - a * mean) / sqrt(var + eps)``, the variance around ``a *
    mean``."""
    assert graph is not None
    if graph.batch is None:
        mean = x.mean(0, keepdim=True) if x.size(0) else x.new_zeros(1, x.size(1))
        centred = x - mean if mean_scale is None else x - mean * mean_scale
        var = centred.square().mean(0, keepdim=True)
    else:
        nodes_of = graph.keep("graph_of_node", lambda: _membership(graph))
        count = nodes_of.in_degree.clamp(min=1).to(x.dtype).unsqueeze(1)
        mean = (segment_sum(x, nodes_of) / count).index_select(0, graph.batch)
        centred = x - mean if mean_scale is None else x - mean * mean_scale
        var = (segment_sum(centred.square(), nodes_of) / count).index_select(0, graph.batch)
    x = centred * (var + eps).rsqrt()
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _membership(graph: Graph) -> Graph:
    """The nodes of every graph as the incoming 'edges' of one row a graph, so that pooling is a segment sum."""
    assert graph.batch is not None
    indptr = torch.searchsorted(graph.batch, torch.arange(graph.num_graphs + 1, device=graph.device))
    return Graph(num_nodes=graph.num_graphs, indptr=indptr, indices=torch.arange(graph.num_nodes, device=graph.device))


def pool(x: Tensor, graph: Graph, *, reduce: Reduce = "mean") -> Tensor:
    """Aggregate node rows per graph; contract in `revgnn.ops.pool`."""
    if graph.batch is None:
        whole = {"sum": lambda: x.sum(0), "mean": lambda: x.mean(0), "max": lambda: x.amax(0)}
        return (whole[reduce]() if x.size(0) else x.sum(0)).unsqueeze(0)
    return _SEGMENT[reduce](_wide(x), graph.keep("graph_of_node", lambda: _membership(graph))).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """In the type that sums over x are kept in."""
    return x.to(sum_dtype(x.dtype))


@overload
def _as(like: Tensor, value: Tensor) -> Tensor: ...
@overload
def _as(like: Tensor, value: Tensor | None) -> Tensor | None: ...
def _as(like: Tensor, value: Tensor | None) -> Tensor | None:
    """In the type of ``like``."""
    return None if value is None else value.to(like.dtype)


def _signed(value: int) -> int:
    """The int32 with the same bits as an unsigned 32-bit number."""
    return value - 2**32 if value >= 2**31 else value


def _mix32(h: Tensor) -> Tensor:
    h = h ^ (h >> 16 & 0xFFFF)
    h = h * _signed(0x7FEB352D)
    h = h ^ (h >> 15 & 0x1FFFF)
    h = h * _signed(0x846CA68B)
    return h ^ (h >> 16 & 0xFFFF)


_SEGMENT = {"sum": segment_sum, "mean": segment_mean, "max": segment_max}
