"""Max aggregation of GEN messages with edge features on the kernels; it saves the int32 positions [N, D].

Only the edge that attains a maximum receives a gradient, so the backward reads [N, D] positions for the edge map and
each source's edges for x, without recomputing messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..graph import Graph
from . import reference
from .choice import kernels
from .cpu import EdgeGrads, EdgeTerm, dense_columns, forward_csr
from .kernel_op import KernelOp, Needs
from .spmm import at_maximum, empty_dense, max_backward


class _Messages(NamedTuple):
    """``relu(x_j + edge_attr @ weight + bias) + 1e-7``."""

    x: Tensor
    """[N, D]"""
    edge_attr: Tensor
    """[E, K] in the type of the sums, dense."""
    weight: Tensor
    """[K, D] likewise."""
    bias: Tensor | None
    """[D] likewise."""
    graph: Graph


def _outputs(a: _Messages, needs: Needs) -> tuple[Tensor, Tensor]:
    return empty_dense(a.x), empty_dense(a.x, torch.int32)


def _forward(a: _Messages, outputs: tuple[Tensor, Tensor]) -> None:
    x, (out, arg) = dense_columns(a.x), outputs
    kernels(x).edge_max(x, forward_csr(a.graph), EdgeTerm(a.edge_attr, a.weight, a.bias), out=out, arg=arg)


def _backward(
    a: _Messages, outputs: tuple[Tensor, Tensor], cotangents: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    grad, arg = dense_columns(cotangents[0]), outputs[1]
    dx = max_backward(grad, arg, a.graph) if needs[0] else None
    if not any(needs[1:4]):
        return dx, None, None, None
    dedge_attr = torch.empty_like(a.edge_attr) if needs[1] else None
    dweight, dbias = torch.empty_like(a.weight), a.weight.new_empty(a.weight.size(1))
    terms, grads = EdgeTerm(a.edge_attr, a.weight), EdgeGrads(dweight, dbias, dedge_attr)
    kernels(grad).edge_max_backward(grad, arg, forward_csr(a.graph), terms, grads)
    return dx, dedge_attr, dweight, None if a.bias is None else dbias


def _reference(a: _Messages) -> Tensor:
    return reference.gen_aggr(a.x, a.graph, a.edge_attr, a.weight.t(), a.bias, reduce="max")


def _again(a: _Messages, outputs: tuple[Tensor, Tensor]) -> Tensor:
    """The messages at the positions of the maxima, but for a constant."""
    arg = outputs[1]
    own = at_maximum(a.x, arg, a.graph).to(a.weight.dtype)
    if a.graph.num_edges == 0:
        term = (a.edge_attr.sum() + a.weight.sum()) * 0
    else:
        term = torch.einsum("ndk,kd->nd", a.edge_attr[arg.clamp(min=0).long()], a.weight)
    term = term if a.bias is None else term + a.bias
    return (own + term * (arg >= 0)).to(a.x.dtype)


EDGE_MAX = KernelOp(
    name="revgnn::edge_max",
    arguments=_Messages,
    kernels=("edge_max", "edge_max_backward", "neighbour_max_backward"),
    outputs=_outputs,
    forward=_forward,
    saved=lambda a, outputs, needs: (None, a.edge_attr, a.weight, a.bias, None, outputs[1]),
    backward=_backward,
    reference=_reference,
    again=_again,
)
