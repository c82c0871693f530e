"""GEN aggregation on the kernels by softmax, sum, mean, power or max, with or without edge features.

Without edge features a message depends on its source only, and all reductions but the softmax are `spmm` of node
messages. With edge features the map [E, K] -> [E, D] is computed inside the loop over edges. Saved for the backward of
the softmax: x, y, and the [N, D] normaliser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..graph import Graph
from . import reference
from .choice import kernels
from .cpu import EdgeGrads, EdgeTerm, dense_columns, forward_csr, reverse_csr, sum_dtype
from .edge_max import EDGE_MAX
from .kernel_op import KernelOp, Needs
from .reference import MESSAGE_EPS, POWER_RANGE, Aggr
from .spmm import MAX, SUM, empty_dense


class _Messages(NamedTuple):
    """``relu(x_j + edge_attr @ weight + bias) + 1e-7``, and how they are reduced."""

    x: Tensor
    """[N, D]"""
    t: Tensor | None
    """[D] in the type of the sums; for a softmax."""
    edge_attr: Tensor | None
    """[E, K] in the type of the sums, dense."""
    weight: Tensor | None
    """[K, D] likewise."""
    bias: Tensor | None
    """[D] likewise."""
    graph: Graph
    reduce: str

    @property
    def edges(self) -> EdgeTerm:
        return EdgeTerm(self.edge_attr, self.weight, self.bias)

    @property
    def kind(self) -> str:
        """As kernels say it."""
        return "softmax" if self.reduce == "softmax_sg" else self.reduce


def gen_aggr(x: Tensor, graph: Graph, edges: EdgeTerm, *, reduce: Aggr, t: Tensor | float, p: Tensor | float) -> Tensor:
    """Aggregate GEN messages; contract in `revgnn.ops.gen_aggr`, and `op_of` says for which arguments.

    ``edges`` are as they came: ``weight`` is [D, K], and everything of any type.
    """
    if edges.edge_attr is None and not reduce.startswith("softmax"):
        messages = x.relu() + MESSAGE_EPS
        if reduce == "max":
            return MAX.on_kernels(messages, graph)[0]
        return _power_mean(messages, graph, p) if reduce == "power" else _sum(messages, graph, reduce == "mean")
    edge_attr, weight, bias = edges
    if edge_attr is not None and weight is not None:
        dtype = sum_dtype(x.dtype)
        edge_attr = edge_attr.to(dtype).contiguous()
        weight = weight.t().to(dtype).contiguous()
        bias = None if bias is None else bias.to(dtype).contiguous()
        if reduce == "max":
            return EDGE_MAX.on_kernels(x, edge_attr, weight, bias, graph)[0]
    temperature = _per_channel(t, x) if reduce.startswith("softmax") else None
    return GEN.on_kernels(x, temperature, edge_attr, weight, bias, graph, reduce)[0]


def _per_channel(t: Tensor | float, x: Tensor) -> Tensor:
    dtype = sum_dtype(x.dtype)
    if isinstance(t, Tensor):
        return t.to(dtype).reshape(-1).expand(x.size(1)).contiguous()
    return x.new_full((x.size(1),), t, dtype=dtype)


def _power_mean(messages: Tensor, graph: Graph, p: Tensor | float) -> Tensor:
    low, high = POWER_RANGE
    mean = _sum(messages.clamp(low, high).pow(p).to(messages.dtype), graph, True)
    root = mean.clamp(low, high).pow(1.0 / p)
    return torch.where((graph.in_degree > 0).unsqueeze(1), root, root.new_zeros(())).to(messages.dtype)


def _sum(messages: Tensor, graph: Graph, mean: bool) -> Tensor:
    return SUM.on_kernels(messages, None, graph, mean)[0]


# ---------------------------------------------------------------------- softmax, and all sums with edge features
def _outputs(a: _Messages, needs: Needs) -> tuple[Tensor, Tensor]:
    """The output and the softmax's normaliser."""
    keeps = any(needs) and a.t is not None
    return empty_dense(a.x), a.x.new_empty(a.x.shape if keeps else 0, dtype=sum_dtype(a.x.dtype))


def _forward(a: _Messages, outputs: tuple[Tensor, Tensor]) -> None:
    x, (out, lse) = dense_columns(a.x), outputs
    # None in half precision: its sums would be of rounded weights.
    has_scratch = a.weight is None and kernels(x).node_scratch and x.dtype != torch.bfloat16
    kernels(x).gen_aggr(
        x,
        forward_csr(a.graph),
        reduce=a.kind,
        out=out,
        edges=a.edges,
        t=a.t,
        lse=lse if lse.shape == x.shape else None,
        scratch=x.new_empty(x.size(0), 2 * x.size(1)) if has_scratch else None,
    )


def _backward(
    a: _Messages, outputs: tuple[Tensor | None, Tensor], cotangents: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    x, grad, (y, lse) = dense_columns(a.x), dense_columns(cotangents[0]), outputs
    dx, dt = empty_dense(x), None if a.t is None else torch.empty_like(a.t)
    dweight = None if a.weight is None else torch.empty_like(a.weight)
    dbias = None if a.weight is None else a.weight.new_empty(x.size(1))
    dedge_attr = torch.empty_like(a.edge_attr) if a.edge_attr is not None and needs[2] else None
    has_scratch = a.weight is None and kernels(x).node_scratch
    kernels(x).gen_aggr_backward(
        grad,
        x,
        reverse_csr(a.graph),
        reduce=a.kind,
        dx=dx,
        edges=a.edges,
        edge_grads=EdgeGrads(*(None if g is None or g.numel() == 0 else g for g in (dweight, dbias, dedge_attr))),
        t=a.t,
        dt=dt,
        y=y,
        lse=None if a.t is None else lse,
        indptr=a.graph.indptr,
        scratch=x.new_empty(x.size(0), 2 * x.size(1)) if has_scratch else None,
        constant_weights=a.reduce == "softmax_sg",
    )
    return dx, dt, dedge_attr, dweight, None if a.bias is None else dbias


def _reference(a: _Messages) -> Tensor:
    weight, reduce = None if a.weight is None else a.weight.t(), _AGGRS[a.reduce]
    return reference.gen_aggr(
        a.x, a.graph, a.edge_attr, weight, a.bias, reduce=reduce, t=1.0 if a.t is None else a.t
    )  # fmt: skip


_AGGRS: dict[str, Aggr] = {"softmax": "softmax", "softmax_sg": "softmax_sg", "sum": "sum", "mean": "mean"}

GEN = KernelOp(
    name="revgnn::gen_aggr",
    arguments=_Messages,
    kernels=("gen_aggr", "gen_aggr_backward"),
    outputs=_outputs,
    forward=_forward,
    saved=lambda a, outputs, needs: (*a[:5], None if a.t is None else outputs[0], outputs[1]),
    backward=_backward,
    reference=_reference,
)


def op_of(edges: EdgeTerm, reduce: Aggr) -> KernelOp[..., Any, Any] | None:
    """Find the op that aggregates these messages; none does [E, D] features added as they are, nor their power mean."""
    if edges.edge_attr is None:
        return GEN if reduce.startswith("softmax") else MAX if reduce == "max" else SUM
    if edges.weight is None or edges.weight.size(1) == 0 or reduce == "power":
        return None
    return EDGE_MAX if reduce == "max" else GEN
