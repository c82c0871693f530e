"""The ops and their contracts: arguments, results and errors, the same for all implementations.

Each call runs on one of three implementations (`implementation` names a device's, ``REVGNN_OPS`` selects one):
`reference`, every op in plain torch; `native`, compiled CPU kernels; `triton`, the same kernels for CUDA. The kernels
never allocate a tensor per edge and channel. They support float32, bfloat16 and float64.
Invalid arguments raise the same errors on every implementation: ValueError for a shape or a choice, TypeError for a
type, RuntimeError for a device. Cases that the kernels do not support run on the reference:

| op | runs on the reference although kernels are selected |
|---|---|
| all | float16; int64 indices (2^31 nodes or edges); D = 0; transforms of `torch.func`, forward-mode differentiation, |
| | `torch.jit.trace`, ``make_fx``; tensors that wrap others, or have no memory of their own |
| `attention_scores` | under torch.compile, which fuses it |
| `gen_aggr` | ``edge_attr`` [E, D] without ``weight``; ``reduce="power"`` with edge features |
| `norm_act_drop` | ``norm="graph"``; x of other than two dimensions |
| `pool` | all |
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ..graph import Graph
from . import reference
from .attention import ATTENTION
from .attention import attention as attention_on_kernels
from .attention_scores import ATTENTION_SCORES
from .checks import check_dtype, check_features, check_operand, check_place, sum_dtype
from .choice import backend_for, kernels
from .cpu import EdgeTerm
from .gen_aggr import gen_aggr as gen_aggr_on_kernels
from .gen_aggr import op_of
from .linear import LINEAR
from .norm_act_drop import NORM_ACT_DROP
from .reference import Aggr, Norm, Reduce
from .spmm import MAX, SUM


def spmm(x: Tensor, graph: Graph, weight: Tensor | None = None, *, reduce: Reduce = "sum") -> Tensor:
    """Aggregate each node's neighbours.

    ``y_i = sum_j w_ij x_j`` (sum), the same divided by the number of incoming edges (mean), or ``max_j x_j`` per
    channel.

    Args:
        x: [N, D] node features.
        graph: incoming edges by destination; isolated nodes receive 0.
        weight: [E] weights in the graph's order of edges, of any floating-point type, with gradients; ``None`` means 1.
            Not with ``max``.
        reduce: ``sum``, ``mean`` or ``max``; max sends its gradient to the first edge that attains it.
    Returns: [N, D] in the dtype of ``x``; half-precision sums are kept in float32.
    Raises: ValueError, TypeError, RuntimeError: if shapes, types or devices disagree, or for ``max`` with weights.
    Cost: kernels: one pass over E x D; saves nothing, or x for the weights' gradient, or [N, D] int32 for max.
        reference: one [E, D] tensor.
    Source: Kipf & Welling 2017 (sum), Hamilton et al. 2017 (mean, max).

    Examples:
        >>> import torch
        >>> from revgnn import Graph, ops
        >>> graph = Graph.from_edge_index(torch.tensor([[0, 1], [2, 2]]), 3)
        >>> ops.spmm(torch.tensor([[1.0], [3.0], [0.0]]), graph, reduce="mean")
        tensor([[0.],
                [0.],
                [2.]])
    """
    _check_choice("reduce", reduce, _REDUCES)
    _check_nodes(x, graph)
    if weight is not None and reduce == "max":
        raise ValueError("reduce='max' takes no edge weight; scale x before, or use 'sum' or 'mean'")
    check_operand(weight, "weight", x, graph.num_edges, any_width=True)
    if reduce == "max":
        if MAX.runs(x, graph=graph):
            return MAX.on_kernels(x, graph)[0]
    elif SUM.runs(x, weight, graph=graph):
        return SUM.on_kernels(x, weight, graph, reduce == "mean")[0]
    return reference.spmm(x, graph, weight, reduce=reduce)


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
    """Aggregate the messages of generalised graph convolution (GEN).

    ``m_ij = relu(x_j + W e_ij + b) + 1e-7``, reduced over j per channel: sum, mean, max; ``softmax``: ``sum_j
    softmax_j(t m_ij) m_ij``; ``softmax_sg``: the same with the weights as constants; ``power``:
    ``mean_j(clamp(m_ij)^p)^(1/p)``.

    Args:
        x: [N, D] node features.
        graph: incoming edges by destination; isolated nodes receive 0.
        edge_attr: [E, K] edge features in the graph's order, or [E, D] where ``weight`` is ``None``; ``None`` means
            no term.
        weight: [D, K] map of the edge features; ``None`` adds ``edge_attr`` as it is.
        bias: [D] added to every message; only with ``weight``.
        reduce: the reduction of the messages.
        t: inverse temperature of the softmax, dimensionless; larger approaches max. A tensor may be learned.
        p: exponent of the power mean; a tensor may be learned.
    Returns: [N, D] in the dtype of ``x``.
    Raises: ValueError, TypeError, RuntimeError: if shapes, types or devices disagree.
    Cost: kernels: one pass over E x D each way; softmax without edge features: two, of plain sums, with [N, 2D]
        scratch; saves x, y and one [N, D] (softmax), [N, D] int32 (max). reference: several [E, D] tensors kept for
        the backward.
    Source: Li et al. 2020, DeeperGCN (arXiv:2006.07739).

    Examples:
        >>> import torch
        >>> from revgnn import Graph, ops
        >>> graph = Graph.from_edge_index(torch.tensor([[0, 1], [2, 2]]), 3)
        >>> ops.gen_aggr(torch.tensor([[1.0], [3.0], [0.0]]), graph, reduce="max")
        tensor([[0.],
                [0.],
                [3.]])
    """
    _check_choice("reduce", reduce, _AGGRS)
    _check_nodes(x, graph)
    if weight is not None and edge_attr is None:
        raise ValueError("weight maps edge_attr, but edge_attr is None; pass both or neither")
    if bias is not None and weight is None:
        raise ValueError("bias belongs to the map of edge_attr, but weight is None; pass both or neither")
    width = x.size(1) if weight is None else weight.size(-1)
    check_operand(weight, "weight", x, x.size(1), width)
    check_operand(edge_attr, "edge_attr", x, graph.num_edges, width)
    check_operand(bias, "bias", x, x.size(1))
    t, p = _exponent(t, "t", x), _exponent(p, "p", x)
    learned = (exponent for exponent in (t, p) if isinstance(exponent, Tensor))
    edges = EdgeTerm(edge_attr, weight, bias)
    op = op_of(edges, reduce)
    if op is not None and op.runs(x, *edges, *learned, graph=graph):
        return gen_aggr_on_kernels(x, graph, edges, reduce=reduce, t=t, p=p)
    return reference.gen_aggr(x, graph, edge_attr, weight, bias, reduce=reduce, t=t, p=p)


def attention(
    x: Tensor,
    graph: Graph,
    score_src: Tensor,
    score_dst: Tensor | None = None,
    *,
    negative_slope: float = 0.2,
    keep: Tensor | None = None,
) -> Tensor:
    """Aggregate neighbours with additive attention, all heads at once.

    ``y_i = sum_j softmax_j(leaky_relu(s_j + d_i)) x_j`` over the kept edges, per head.

    Args:
        x: [N, H, F] values.
        graph: incoming edges by destination; nodes without a kept edge receive 0.
        score_src: [N, H] part of the logit that belongs to the source.
        score_dst: [N, H] part that belongs to the destination; ``None`` means 0.
        negative_slope: slope of the leaky rectifier below 0.
        keep: [E] bool in the graph's order of edges; False removes an edge before the softmax. ``None`` keeps all.
    Returns: [N, H, F] in the dtype of ``x``.
    Raises: ValueError, TypeError, RuntimeError: if shapes, types or devices disagree, or ``keep`` is not bool.
    Cost: kernels: one pass over E x H x F forward and one backward; saves x, y, one [N, H, F] and a few [N, H].
        reference: one [E, H, F] and several [E, H] tensors.
    Source: Velickovic et al. 2018; edge drop as in the paper's RevGAT.

    Examples:
        >>> import torch
        >>> from revgnn import Graph, ops
        >>> graph = Graph.from_edge_index(torch.tensor([[0, 1], [2, 2]]), 3)
        >>> values, score = torch.randn(3, 2, 4), torch.randn(3, 2)  # two heads
        >>> ops.attention(values, graph, score, score).shape
        torch.Size([3, 2, 4])
    """
    _check_nodes(x, graph, "N, H, F")
    for name, score in (("score_src", score_src), ("score_dst", score_dst)):
        check_operand(score, name, x, x.size(0), x.size(1))
    if keep is not None:
        if keep.dtype != torch.bool:
            raise TypeError(f"keep must be bool, False where an edge is removed; got {keep.dtype}")
        check_place(keep, "keep", x, graph.num_edges)
    if ATTENTION.runs(x, score_src, score_dst, keep, graph=graph) and x.size(1) > 0:
        return attention_on_kernels(x, graph, score_src, score_dst, negative_slope=negative_slope, keep=keep)
    return reference.attention(x, graph, score_src, score_dst, negative_slope=negative_slope, keep=keep)


def attention_scores(x: Tensor, attn_src: Tensor, attn_dst: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Compute the scores of `attention`: the product of each head's values with the attention vectors of both ends.

    ``s_ih = <x_ih, a_h>``.

    Args:
        x: [N, H, F] values.
        attn_src: [H, F] or [1, H, F] vectors of the sources.
        attn_dst: the same for the destinations; ``None``: the score depends on the source only.
    Returns: [N, H] of the source, and of the destination or ``None``; float32 for half precision.
    Raises: ValueError, TypeError, RuntimeError: if a vector has another shape, type or device.
    Cost: kernels: one pass over N x H x F, one more in the backward; saves x. reference: one [N, H, F] product each.
    Source: Velickovic et al. 2018.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> source, target = ops.attention_scores(torch.randn(3, 2, 4), torch.randn(2, 4), torch.randn(2, 4))
        >>> source.shape
        torch.Size([3, 2])
    """
    check_features(x, "N, H, F")
    for name, attn in (("attn_src", attn_src), ("attn_dst", attn_dst)):
        if attn is not None:
            check_operand(attn, name, x, *(1,) * (attn.dim() == 3), x.size(1), x.size(2))
    if ATTENTION_SCORES.runs(x, attn_src, attn_dst) and x.size(1) > 0:
        score_src, score_dst = ATTENTION_SCORES.on_kernels(x, attn_src, attn_dst)
        return score_src, score_dst
    return reference.attention_scores(x, attn_src, attn_dst)


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
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Apply norm, ReLU and dropout, as at the start of every block.

    ``y = keep * relu(norm(x)) / (1 - p)``.

    Args:
        x: [N, D] features.
        weight, bias: [D] affine part of the norm; ``None`` leaves it out.
        norm: ``layer`` (over channels), ``batch`` (over nodes), ``graph`` (over the nodes of each graph) or ``none``.
        eps: added to the variance.
        stats: ([D] mean, [D] variance) to use instead of the batch's own; for ``batch`` in evaluation.
        graph: assigns nodes to graphs; for ``graph``.
        mean_scale: [D] learned factor of the subtracted mean; for ``graph``.
        act: whether to apply the ReLU.
        p: dropout probability; 0: no dropout.
        mask: [N, D] bool, True keeps, or the same packed, [N, D / 8] uint8 (`draw_mask`): a mask shared by all layers.
            ``None``: drawn from ``seed``.
        seed: determines the mask, a pure function of (seed, position); ``None`` without a mask: no dropout.
        dtype: of the result, rounded once at the end; ``None``: that of x.
    Returns: [N, D].
    Raises: ValueError, TypeError, RuntimeError: if shapes, types or devices disagree, or the mask is not bool.
    Cost: kernels: reads and writes [N, D] once, in the backward once (layer) or twice (batch); saves x and [N] or [D]
        statistics. reference: each step reads and writes [N, D].
    Source: Ba et al. 2016, Ioffe & Szegedy 2015, Cai et al. 2021 (GraphNorm); the shared mask is the paper's.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> ops.norm_act_drop(torch.tensor([[-1.0, 1.0]]), norm="none")
        tensor([[0., 1.]])
    """
    _check_choice("norm", norm, _NORMS)
    check_features(x, "")
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p must lie in [0, 1), got {p}")
    if norm != "none":
        width = x.size(1 if norm == "batch" else -1)
        check_operand(weight, "weight", x, width)
        check_operand(bias, "bias", x, width)
        check_operand(mean_scale, "mean_scale", x, width)
        if stats is not None:
            check_operand(stats[0], "stats[0]", x, width)
            check_operand(stats[1], "stats[1]", x, width)
    if norm == "graph":
        if graph is None:
            raise ValueError("norm='graph' needs the graph, to know which nodes belong together; pass graph=")
        _check_nodes(x, graph)
    if mask is not None:
        _check_mask(mask, x)
        if mask.dtype == torch.uint8 and "keep_bits" not in kernels(x).names:
            mask = reference.unpack_mask(mask)
    if norm != "graph" and x.dim() == 2 and NORM_ACT_DROP.runs(x, weight, bias, mask, *(stats or ())):
        if norm == "none":
            weight = bias = None
        mean, var = stats if stats is not None and norm == "batch" else (None, None)
        used_mask, narrow = None if p == 0.0 else mask, dtype is torch.bfloat16 and x.dtype is torch.float32
        out = NORM_ACT_DROP.on_kernels(x, weight, bias, mean, var, used_mask, norm, eps, act, p, seed, narrow)[0]
        return out if dtype is None else out.to(dtype)
    out = reference.norm_act_drop(
        x,
        weight,
        bias,
        norm=norm,
        eps=eps,
        stats=stats,
        graph=graph,
        mean_scale=mean_scale,
        act=act,
        p=p,
        mask=mask,
        seed=seed,
    )
    return out if dtype is None else out.to(dtype)


def draw_mask(seed: int, rows: int, width: int, p: float, device: torch.device, *, groups: int = 1) -> Tensor:
    """Draw a dropout mask that all layers share: `keep_mask` of ``rows * width`` positions.

    Args:
        seed: determines the mask, equally on every implementation.
        rows, width: N and D.
        p: dropout probability.
        device: device of the mask.
        groups: number of channel groups into which the mask will be split.
    Returns: [N, D / 8] uint8, one bit per element, if the kernels support it and no group splits a byte; otherwise [N,
        D] bool.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> mask = ops.draw_mask(0, rows=10, width=16, p=0.5, device=torch.device("cpu"))  # bits, or booleans
        >>> mask.size(0)
        10
    """
    backend = backend_for(device)
    if "keep_bits" in backend.names and width % (8 * groups) == 0 and not torch.compiler.is_compiling():
        bits = torch.empty(rows, width // 8, dtype=torch.uint8, device=device)
        backend.keep_bits(seed, p, out=bits)
        return bits
    return keep_mask(seed, rows * width, p, device).view(rows, width)


def pool(x: Tensor, graph: Graph, *, reduce: Reduce = "mean") -> Tensor:
    """Aggregate node rows into one row per graph.

    Args:
        x: [N, D] node features.
        graph: its ``batch`` assigns each node to a graph; without it, all nodes form one graph.
        reduce: ``sum``, ``mean`` or ``max``; a graph without nodes receives 0.
    Returns: [B, D].
    Raises: ValueError, TypeError, RuntimeError: if ``x`` does not have one row per node, or is elsewhere.
    Cost: one pass over N x D.

    Examples:
        >>> import torch
        >>> from revgnn import Graph, ops
        >>> two = Graph.from_edge_index(torch.tensor([[0], [1]]), 3, batch=torch.tensor([0, 0, 1]))
        >>> ops.pool(torch.tensor([[1.0], [3.0], [5.0]]), two)
        tensor([[2.],
                [5.]])
    """
    _check_choice("reduce", reduce, _REDUCES)
    _check_nodes(x, graph)
    return reference.pool(x, graph, reduce=reduce)


def keep_mask(seed: int, numel: int, p: float, device: torch.device) -> Tensor:
    """Draw ``numel`` booleans, each False with probability ``p``, as a pure function of (seed, position).

    Args:
        seed: 64 bits.
        numel: how many.
        p: probability of False, in [0, 1).
        device: device of the result; the bits are the same on every device.
    Returns: [numel] bool, the elements that `norm_act_drop` keeps with the same ``seed``.
    Cost: triton: one write. Otherwise several integer temporaries of ``numel``.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> kept = ops.keep_mask(0, 1000, 0.25, torch.device("cpu"))
        >>> 700 < int(kept.sum()) < 800
        True
    """
    backend = backend_for(device)
    if torch.compiler.is_compiling() or "keep_mask" not in backend.names:
        return reference.keep_mask(seed, numel, p, device)
    out = torch.empty(numel, dtype=torch.bool, device=device)
    backend.keep_mask(seed, p, out=out)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, narrow: bool = False) -> Tensor:
    """Map rows, ``y = x W^T + b``, and keep the sums of half-precision rows in float32.

    torch rounds such sums to the dtype of the rows; these may be added to a float32 stream as they are.

    Args:
        x: [N, K] rows; with bfloat16 rows the kernels may round W to bfloat16, as autocast does.
        weight: [D, K] in the dtype of the sums over x.
        bias: [D] in the same dtype; ``None`` adds nothing.
        narrow: whether the kernels may round float32 x and W to bfloat16 too, in place of a copy of x.
    Returns: [N, D] in the dtype of sums over x: float64 for float64, else float32.
    Raises: ValueError, TypeError, RuntimeError: if shapes, types or devices disagree.
    Cost: one pass over the rows each way; saves x.
    Source: the rule of mixed precision for sums, Micikevicius et al. 2018 (arXiv:1710.03740).

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> ops.linear(torch.ones(3, 4), torch.ones(2, 4))
        tensor([[4., 4.],
                [4., 4.],
                [4., 4.]])
    """
    check_features(x, "N, K")
    if weight.dim() != 2:
        raise ValueError(f"weight must be [D, {x.size(1)}], got {list(weight.shape)}")
    for value, name, shape in ((weight, "weight", (weight.size(0), x.size(1))), (bias, "bias", (weight.size(0),))):
        check_operand(value, name, x, *shape)
        if value is not None and value.dtype is not sum_dtype(x.dtype):
            raise TypeError(f"{name} must be {sum_dtype(x.dtype)}, as sums over x; got {value.dtype}")
    if LINEAR.runs(x, weight, bias) and weight.size(0) > 0:
        return LINEAR.on_kernels(x, weight, bias, narrow)[0]
    return reference.linear(x, weight, bias)


_REDUCES, _AGGRS, _NORMS = get_args(Reduce), get_args(Aggr), get_args(Norm)


def _check_mask(mask: Tensor, x: Tensor) -> None:
    if mask.dtype == torch.uint8 and x.dim() == 2 and x.size(1) % 8 == 0 and mask.shape != x.shape:
        return check_place(mask, "a packed mask", x, x.size(0), x.size(1) // 8)
    check_place(mask, "mask", x, *x.shape)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where x is kept; got {mask.dtype}; convert it with .bool()")


def _check_nodes(x: Tensor, graph: Graph, dims: str = "N, D") -> None:
    check_features(x, dims, graph.num_nodes, graph.device)


def _check_choice(name: str, choice: str, choices: tuple[str, ...]) -> None:
    if choice not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {choice!r}")


def _exponent(value: Tensor | float, name: str, x: Tensor) -> Tensor | float:
    """Move a learned exponent to x's device: one number, which may be on the CPU as in torch, or one per channel."""
    if not isinstance(value, Tensor):
        return value
    check_dtype(value, name, x, any_width=True)
    if value.dim() > 0 or value.device.type != "cpu":
        check_place(value.reshape(-1), name, x, 1 if value.numel() == 1 else x.size(1))
    value = value.to(x.device, sum_dtype(x.dtype))
    return value.reshape(-1) if value.dim() > 1 else value
