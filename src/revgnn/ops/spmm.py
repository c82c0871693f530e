"""Sums, means and maxima of neighbours on the kernels, with their gradients.

Saved for the backward: the weights; x if the weights need a gradient; the int32 positions of the maxima.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..graph import Graph
from . import reference
from .choice import kernels
from .cpu import dense_columns, forward_csr, inverse_degree, reverse_csr, reverse_weighted, sum_dtype, summable
from .kernel_op import KernelOp, Needs


def empty_dense(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Allocate a dense tensor of the shape of x, whatever its strides."""
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


# ---------------------------------------------------------------------- sums and means
class _Summed(NamedTuple):
    x: Tensor
    weight: Tensor | None
    graph: Graph
    mean: bool


def _sum_outputs(a: _Summed, needs: Needs) -> tuple[Tensor]:
    return (empty_dense(a.x),)


def _sum(a: _Summed, outputs: tuple[Tensor]) -> None:
    x = dense_columns(a.x)
    kernels(x).spmm(x, forward_csr(a.graph), out=outputs[0], weight=summable(a.weight, x), mean=a.mean)


def _sum_backward(
    a: _Summed, outputs: tuple[Tensor], cotangents: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    grad, dx, dweight = dense_columns(cotangents[0]), None, None
    if needs[0]:
        csr, weight = reverse_weighted(a.graph, a.weight)
        scale, dx = inverse_degree(a.graph, grad.dtype) if a.mean else None, empty_dense(grad)
        kernels(grad).spmm(grad, csr, out=dx, weight=summable(weight, grad), src_scale=scale)
    if needs[1] and a.weight is not None:
        dweight = grad.new_empty(a.graph.num_edges, dtype=sum_dtype(a.x.dtype))
        kernels(grad).edge_dot(dense_columns(a.x), grad, forward_csr(a.graph), out=dweight, mean=a.mean)
        dweight = dweight.to(a.weight.dtype)
    return dx, dweight


SUM = KernelOp(
    name="revgnn::spmm",
    arguments=_Summed,
    kernels=("spmm", "edge_dot"),
    outputs=_sum_outputs,
    forward=_sum,
    saved=lambda a, outputs, needs: (a.x if needs[1] else None, a.weight, None),
    backward=_sum_backward,
    reference=lambda a: reference.spmm(a.x, a.graph, a.weight, reduce="mean" if a.mean else "sum"),
)


# ---------------------------------------------------------------------- maxima
class _Largest(NamedTuple):
    x: Tensor
    graph: Graph


def _max_outputs(a: _Largest, needs: Needs) -> tuple[Tensor, Tensor]:
    return empty_dense(a.x), a.x.new_empty(a.x.shape if needs[0] else 0, dtype=torch.int32)


def _max(a: _Largest, outputs: tuple[Tensor, Tensor]) -> None:
    x, (out, arg) = dense_columns(a.x), outputs
    kernels(x).neighbour_max(x, forward_csr(a.graph), out=out, arg=arg if arg.shape == x.shape else None)


def max_backward(grad: Tensor, arg: Tensor, graph: Graph) -> Tensor:
    """Send each gradient to the source of the edge that ``arg`` names."""
    grad = dense_columns(grad)
    dx = empty_dense(grad)
    kernels(grad).neighbour_max_backward(grad, arg, reverse_csr(graph), dx=dx)
    return dx


def at_maximum(x: Tensor, arg: Tensor, graph: Graph) -> Tensor:
    """Return x at the sources of the edges that ``arg`` [N, D] names, 0 for -1; in plain torch."""
    if graph.num_edges == 0:
        return x * 0
    return x.gather(0, graph.indices[arg.clamp(min=0).long()].long()) * (arg >= 0)


MAX = KernelOp(
    name="revgnn::neighbour_max",
    arguments=_Largest,
    kernels=("neighbour_max", "neighbour_max_backward"),
    outputs=_max_outputs,
    forward=_max,
    saved=lambda a, outputs, needs: (None, None, outputs[1]),
    backward=lambda a, outputs, cotangents, needs: (max_backward(cotangents[0], outputs[1], a.graph),),
    reference=lambda a: reference.spmm(a.x, a.graph, reduce="max"),
    again=lambda a, outputs: at_maximum(a.x, outputs[1], a.graph),
)
