"""What every kernel relies on: type, device, shape and stride of each operand, the same for all implementations.

One function per kernel, called by its wrappers in `native` and `triton` before they hand over an address. N rows, E
edges, D channels, H heads of F channels, K edge features; "sum" is the type that sums over the elements are kept in.
Raises, all of them: ValueError, TypeError, RuntimeError: naming the operand, what the kernel needs, and what it got.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .border import dense, rows, sum_dtype

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""Element types that the kernels have code for."""

_Edges = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True, eq=False, slots=True)
class Csr:
    """The edges of one direction of a graph, as plain tensors that have been looked at."""

    indptr: Tensor
    """[N+1] int32."""
    indices: Tensor
    """[E] int32."""
    edge_ids: Tensor | None = None
    """[E] int64: where each edge's own values stand; ``None``: at its position."""
    num_sources: int | None = None
    """Rows that the indices name; ``None``: N."""
    on: tuple[torch.device, int, int, int] = field(init=False, repr=False)
    """The device, N, E, and how many rows the indices name."""

    def __post_init__(self) -> None:
        device, num_edges = self.indptr.device, self.indices.numel()
        dense(self.indptr, "indptr", torch.int32, device, self.indptr.numel())
        dense(self.indices, "indices", torch.int32, device, num_edges)
        dense(self.edge_ids, "edge_ids", torch.int64, device, num_edges)
        if device.type == "cpu" and not (self.num_rows >= 0 and self.indptr[0] == 0 and self.indptr[-1] == num_edges):
            raise ValueError(f"indptr must go from 0 to the {num_edges} edges; Graph.from_edge_index makes it so")
        num_rows = self.num_rows
        sources = num_rows if self.num_sources is None else self.num_sources
        object.__setattr__(self, "on", (device, num_rows, num_edges, sources))

    @property
    def num_rows(self) -> int:
        """N."""
        return self.indptr.numel() - 1

    @property
    def num_edges(self) -> int:
        """E."""
        return self.indices.numel()


def spmm(
    x: Tensor, csr: Csr, out: Tensor, weight: Tensor | None, src_scale: Tensor | None, dst_scale: Tensor | None
) -> None:
    """Operands of ``spmm``."""
    (dtype, total), (device, n, e, sources), d = _types(x), csr.on, x.size(-1)
    rows(x, "x", dtype, device, sources, d)
    rows(out, "out", total if out.dtype is total else dtype, device, n, d)
    dense(weight, "weight", total, device, e)
    dense(src_scale, "src_scale", total, device, sources)
    dense(dst_scale, "dst_scale", total, device, n)


def edge_dot(x: Tensor, grad: Tensor, csr: Csr, out: Tensor) -> None:
    """Operands of ``edge_dot``."""
    (dtype, total), (device, n, e, _), d = _types(x), csr.on, x.size(-1)
    rows(x, "x", dtype, device, n, d)
    rows(grad, "grad", dtype, device, n, d)
    dense(out, "out", total, device, e)


def neighbour_max(x: Tensor, csr: Csr, out: Tensor, arg: Tensor | None) -> None:
    """Operands of ``neighbour_max``."""
    (dtype, _), (device, n, _, _), d = _types(x), csr.on, x.size(-1)
    rows(x, "x", dtype, device, n, d)
    rows(out, "out", dtype, device, n, d)
    dense(arg, "arg", torch.int32, device, n, d)


def neighbour_max_backward(grad: Tensor, arg: Tensor, csr: Csr, dx: Tensor) -> None:
    """Operands of ``neighbour_max_backward``."""
    (dtype, _), (device, n, _, _), d = _types(grad), csr.on, grad.size(-1)
    rows(grad, "grad", dtype, device, n, d)
    rows(dx, "dx", dtype, device, n, d)
    dense(arg, "arg", torch.int32, device, n, d)


# ---------------------------------------------------------------------- GEN
def _edge_term(edges: _Edges, total: torch.dtype, device: torch.device, e: int, d: int) -> int:
    """Checks an edge term; returns K."""
    edge_attr, weight, bias = edges
    k = 0 if edge_attr is None else edge_attr.size(-1)
    if (edge_attr is None) != (weight is None):
        raise ValueError("a kernel needs edge_attr and weight together")
    dense(edge_attr, "edge_attr", total, device, e, k)
    dense(weight, "weight", total, device, k, d)
    dense(bias, "bias", total, device, d)
    return k


def gen_aggr(
    x: Tensor,
    csr: Csr,
    reduce: str,
    out: Tensor,
    edges: _Edges,
    t: Tensor | None,
    lse: Tensor | None,
    scratch: Tensor | None,
) -> None:
    """Operands of ``gen_aggr``."""
    (dtype, total), (device, n, e, _), d = _types(x), csr.on, x.size(-1)
    _check_reduce(reduce, edges, t)
    rows(x, "x", dtype, device, n, d)
    rows(out, "out", dtype, device, n, d)
    _edge_term(edges, total, device, e, d)
    dense(t, "t", total, device, d)
    dense(lse, "lse", total, device, n, d)
    dense(scratch, "scratch", dtype, device, n, 2 * d)


def gen_aggr_backward(
    grad: Tensor,
    x: Tensor,
    csr: Csr,
    reduce: str,
    dx: Tensor,
    edges: _Edges,
    edge_grads: _Edges,
    t: Tensor | None,
    dt: Tensor | None,
    y: Tensor | None,
    lse: Tensor | None,
    indptr: Tensor | None,
    scratch: Tensor | None,
) -> None:
    """Operands of ``gen_aggr_backward``."""
    (dtype, total), (device, n, e, _), d = _types(x), csr.on, x.size(-1)
    _check_reduce(reduce, edges, t)
    if reduce == "softmax" and (y is None or lse is None):
        raise ValueError("a kernel needs y and lse of the forward for the gradient of a softmax")
    if reduce == "mean" and indptr is None:
        raise ValueError("a kernel needs indptr of the forward graph for the gradient of a mean")
    for name, value in (("grad", grad), ("x", x), ("dx", dx), ("y", y)):
        rows(value, name, dtype, device, n, d)
    k = _edge_term(edges, total, device, e, d)
    dense(edge_grads[0], "dweight", total, device, k, d)
    dense(edge_grads[1], "dbias", total, device, d)
    dense(edge_grads[2], "dedge_attr", total, device, e, k)
    dense(t, "t", total, device, d)
    dense(dt, "dt", total, device, d)
    dense(lse, "lse", total, device, n, d)
    dense(indptr, "indptr", torch.int32, device, n + 1)
    dense(scratch, "scratch", dtype, device, n, 2 * d)


def _check_reduce(reduce: str, edges: _Edges, t: Tensor | None) -> None:
    if reduce == "softmax" and t is None:
        raise ValueError("a kernel needs t for a softmax")
    if reduce != "softmax" and edges[0] is None:
        raise ValueError(f"a kernel reduces by {reduce!r} only with edge features; use spmm")


def edge_max(x: Tensor, csr: Csr, edges: _Edges, out: Tensor, arg: Tensor | None) -> None:
    """Operands of ``edge_max``."""
    neighbour_max(x, csr, out, arg)
    _edge_term(edges, sum_dtype(x.dtype), x.device, csr.num_edges, x.size(-1))


def edge_max_backward(grad: Tensor, arg: Tensor, csr: Csr, edges: _Edges, edge_grads: _Edges) -> None:
    """Operands of ``edge_max_backward``."""
    (dtype, total), (device, n, e, _), d = _types(grad), csr.on, grad.size(-1)
    rows(grad, "grad", dtype, device, n, d)
    dense(arg, "arg", torch.int32, device, n, d)
    k = _edge_term(edges, total, device, e, d)
    dense(edge_grads[0], "dweight", total, device, k, d)
    dense(edge_grads[1], "dbias", total, device, d)
    dense(edge_grads[2], "dedge_attr", total, device, e, k)


# ---------------------------------------------------------------------- attention
_Scores = tuple[Tensor, Tensor | None]
_Forward = tuple[Tensor | None, Tensor | None, Tensor | None]


def attention(x: Tensor, csr: Csr, scores: _Scores, keep: Tensor | None, out: Tensor, forward: _Forward) -> None:
    """Operands of ``attention``; ``forward``: what is kept for the backward, the normaliser and two sums of slopes."""
    _attend(x, csr, scores, keep, ("out", out), forward)


def attention_backward(
    grad: Tensor,
    x: Tensor,
    csr: Csr,
    scores: _Scores,
    keep: Tensor | None,
    y: Tensor,
    forward: _Forward,
    scratch: Tensor,
    dx: Tensor,
    dscores: _Scores,
) -> None:
    """Operands of ``attention_backward``."""
    _attend(x, csr, scores, keep, ("y", y), forward)
    (dtype, total), (device, n, _, _), (h, f) = _types(x), csr.on, _heads(x)
    rows(grad, "grad", dtype, device, n, h, f)
    rows(dx, "dx", dtype, device, n, h, f)
    dense(scratch, "scratch", total, device, n, h, 4)
    dense(dscores[0], "dscore_src", total, device, n, h)
    dense(dscores[1], "dscore_dst", total, device, n, h)
    if forward[0] is None or (dscores[1] is not None and (forward[1] is None or forward[2] is None)):
        raise ValueError("a kernel needs the normaliser, and slope_y and slope_sum for the gradient of score_dst")


def _attend(
    x: Tensor, csr: Csr, scores: _Scores, keep: Tensor | None, out: tuple[str, Tensor], forward: _Forward
) -> None:
    (dtype, total), (device, n, e, _), (h, f) = _types(x), csr.on, _heads(x)
    rows(x, "x", dtype, device, n, h, f)
    rows(out[1], out[0], dtype, device, n, h, f)
    dense(scores[0], "score_src", total, device, n, h)
    dense(scores[1], "score_dst", total, device, n, h)
    dense(keep, "keep", torch.bool, device, e)
    dense(forward[0], "normaliser", total, device, n, 2, h)
    dense(forward[1], "slope_y", total, device, n, h, f)
    dense(forward[2], "slope_sum", total, device, n, h)


def attention_scores(
    x: Tensor,
    vectors: tuple[Tensor, Tensor | None],
    scores: tuple[Tensor, Tensor | None],
    dx: Tensor | None = None,
    dvectors: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:
    """Operands of ``attention_scores`` and of its backward; any of them has both ends or only the source's."""
    (dtype, total), device, n, (h, f) = _types(x), x.device, x.size(0), _heads(x)
    rows(x, "x", dtype, device, n, h, f)
    rows(dx, "dx", dtype, device, n, h, f)
    d = "" if dx is None else "d"
    for end, vector, score, dvector in zip(("src", "dst"), vectors, scores, dvectors, strict=True):
        _either_layout(vector, f"attn_{end}", total, device, h, f)
        dense(score, f"{d}score_{end}", total, device, n, h)
        _either_layout(dvector, f"dattn_{end}", total, device, h, f)
        if (vector is None) != (score is None):
            raise ValueError(f"a kernel needs attn_{end} and {d}score_{end} together")


def _either_layout(vector: Tensor | None, name: str, total: torch.dtype, device: torch.device, h: int, f: int) -> None:
    """[H, F] or [1, H, F]."""
    dense(vector, name, total, device, *((h, f) if vector is None or vector.dim() == 2 else (1, h, f)))


# ---------------------------------------------------------------------- the head of a block, and dense layers
def norm_act_drop(
    x: Tensor,
    kind: str,
    out: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    mask: Tensor | None,
) -> None:
    """Operands of ``norm_act_drop``."""
    narrow = x.dtype is torch.float32 and out.dtype is torch.bfloat16
    rows(out, "out", torch.bfloat16 if narrow else x.dtype, x.device, *x.shape)
    _normalised(x, kind, weight, bias, mean, rstd, mask)


def norm_act_drop_backward(
    grad: Tensor,
    x: Tensor,
    kind: str,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    mask: Tensor | None,
) -> None:
    """Operands of ``norm_act_drop_backward``."""
    total, device, d = _normalised(x, kind, weight, bias, mean, rstd, mask)
    rows(grad, "grad", x.dtype, device, *x.shape)
    rows(dx, "dx", x.dtype, device, *x.shape)
    dense(dweight, "dweight", total, device, d)
    dense(dbias, "dbias", total, device, d)


def _normalised(
    x: Tensor,
    kind: str,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    mask: Tensor | None,
) -> tuple[torch.dtype, torch.device, int]:
    (dtype, total), device, (n, d) = _types(x), x.device, x.shape
    rows(x, "x", dtype, device, n, d)
    dense(weight, "weight", total, device, d)
    dense(bias, "bias", total, device, d)
    if kind == "batch" and (mean is None or rstd is None):
        raise ValueError("a kernel needs mean and rstd for a norm over the batch")
    if kind != "none":
        size = n if kind == "layer" else d
        dense(mean, "mean", total, device, size)
        dense(rstd, "rstd", total, device, size)
    if mask is not None:
        is_packed = mask.dtype is torch.uint8
        rows(mask, "mask", torch.uint8 if is_packed else torch.bool, device, n, d // 8 if is_packed else d)
    return total, device, d


def batch_stats(x: Tensor, mean: Tensor, rstd: Tensor, var: Tensor | None) -> None:
    """Operands of ``batch_stats``."""
    (dtype, total), device, (n, d) = _types(x), x.device, x.shape
    rows(x, "x", dtype, device, n, d)
    dense(mean, "mean", total, device, d)
    dense(rstd, "rstd", total, device, d)
    dense(var, "var", total, device, d)


def linear(x: Tensor, plus: Tensor | None, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Operands of ``linear``."""
    dtype, device, n, _, d = _mapped(x, plus, weight, bias)
    rows(out, "out", dtype, device, n, d)


def linear_backward(
    grad: Tensor,
    x: Tensor,
    plus: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    dweight: Tensor,
    dbias: Tensor | None,
    dx: Tensor | None,
    value: Tensor | None,
) -> None:
    """Operands of ``linear_backward``."""
    dtype, device, n, k, d = _mapped(x, plus, weight, bias)
    rows(grad, "grad", dtype, device, n, d)
    rows(value, "value", dtype, device, n, d)
    rows(dx, "dx", dtype, device, n, k)
    dense(dweight, "dweight", dtype, device, d, k)
    dense(dbias, "dbias", dtype, device, d)


def _mapped(
    x: Tensor, plus: Tensor | None, weight: Tensor, bias: Tensor | None
) -> tuple[torch.dtype, torch.device, int, int, int]:
    dtype, device, (n, k), d = x.dtype, x.device, x.shape, weight.size(0)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"a kernel maps float32 or float64, got {dtype}")
    rows(x, "x", dtype, device, n, k)
    rows(plus, "plus", dtype, device, n, k)
    dense(weight, "weight", dtype, device, d, k)
    dense(bias, "bias", dtype, device, d)
    return dtype, device, n, k, d


def bits(out: Tensor, dtype: torch.dtype) -> None:
    """A dense tensor of any shape for a mask."""
    dense(out, "out", dtype, out.device, *out.shape)


def _types(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The type of the elements, and of sums over them."""
    dtype = x.dtype
    if dtype not in DTYPES:
        raise TypeError(f"the kernels have code for float32, bfloat16 and float64, got {dtype}; use the ops")
    return dtype, sum_dtype(dtype)


def _heads(x: Tensor) -> tuple[int, int]:
    if x.dim() != 3:
        raise ValueError(f"a kernel needs x of shape [N, H, F], got {list(x.shape)}")
    return x.size(1), x.size(2)
