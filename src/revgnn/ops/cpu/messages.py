"""CPU kernels of generalised graph convolution, with and without edge features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import operands
from ..operands import Csr
from ..reference import MESSAGE_EPS
from . import abi
from .library import DTYPES, kernel

_gen_aggr = kernel("gen_aggr")
_gen_aggr_backward = kernel("gen_aggr_backward")
_edge_max = kernel("edge_max")
_edge_max_backward = kernel("edge_max_backward")


class EdgeTerm(NamedTuple):
    """The edge term of messages, ``edge_attr @ weight + bias``; all in the type of the sums, dense."""

    edge_attr: Tensor | None = None
    """[E, K], in the forward graph's order; ``None``: messages are ``relu(x_j) + eps``."""
    weight: Tensor | None = None
    """[K, D]: the transpose of a linear layer's."""
    bias: Tensor | None = None
    """[D]"""

    @property
    def num_features(self) -> int:
        """K."""
        return 0 if self.edge_attr is None else self.edge_attr.size(1)


NO_EDGES = EdgeTerm()


def gen_aggr(
    x: Tensor,
    csr: Csr,
    *,
    reduce: str,
    out: Tensor,
    edges: EdgeTerm = NO_EDGES,
    t: Tensor | None = None,
    lse: Tensor | None = None,
    scratch: Tensor | None = None,
) -> None:
    """Reduce messages ``relu(x_j + edge term) + 1e-7`` by ``softmax``; with edges also ``sum`` and ``mean``.

    Args:
        x, out: [N, D] of the same type.
        t: [D] in the type of the sums: inverse temperature of each channel.
        lse: [N, D] in the type of the sums: the log of the sum of ``exp(t (m - out))``, written for the backward.
        scratch: [N, 2D] of the type of ``x``; without edges, saves the exponentials per edge where their range allows.
    """
    fields = operands.gen_aggr(x, csr, reduce, out, edges, t, lse, scratch)
    _gen_aggr(*fields, MESSAGE_EPS, abi.REDUCE[reduce], DTYPES[x.dtype], torch.get_num_threads())


class EdgeGrads(NamedTuple):
    """Output tensors for the gradients of an `EdgeTerm`; all in the type of the sums."""

    weight: Tensor | None = None
    """[K, D]"""
    bias: Tensor | None = None
    """[D]"""
    edge_attr: Tensor | None = None
    """[E, K]; ``None``: not requested."""


NO_EDGE_GRADS = EdgeGrads()


def gen_aggr_backward(
    grad: Tensor,
    x: Tensor,
    reverse: Csr,
    *,
    reduce: str,
    dx: Tensor,
    edges: EdgeTerm = NO_EDGES,
    edge_grads: EdgeGrads = NO_EDGE_GRADS,
    t: Tensor | None = None,
    dt: Tensor | None = None,
    y: Tensor | None = None,
    lse: Tensor | None = None,
    indptr: Tensor | None = None,
    scratch: Tensor | None = None,
    constant_weights: bool = False,
    accumulate: bool = False,
) -> None:
    """Write the gradients of `gen_aggr`.

    Args:
        y, lse: what the forward wrote; softmax only.
        dt: [D] in the type of the sums, or ``None``.
        indptr: of the forward graph; mean only.
        scratch: [N, 2 D] of the type of ``x``: without edges, exponentials are then taken per node where the ranges of
            the channels allow it.
        constant_weights: no gradient through the softmax into the messages.
        accumulate: add to ``dx``; everything else is written.
    """
    fields = operands.gen_aggr_backward(
        grad, x, reverse, reduce, dx, edges, edge_grads, t, dt, y, lse, indptr, scratch
    )  # fmt: skip
    kind, dtype, threads = abi.REDUCE[reduce], DTYPES[x.dtype], torch.get_num_threads()
    _gen_aggr_backward(*fields, MESSAGE_EPS, constant_weights, kind, dtype, accumulate, threads)


def edge_max(x: Tensor, csr: Csr, edges: EdgeTerm, *, out: Tensor, arg: Tensor | None = None) -> None:
    """Write each channel's largest message with edge features; ``arg`` as in `neighbour_max`, -1 where it is shut."""
    _edge_max(*operands.edge_max(x, csr, edges, out, arg), MESSAGE_EPS, DTYPES[x.dtype], torch.get_num_threads())


def edge_max_backward(grad: Tensor, arg: Tensor, csr: Csr, edges: EdgeTerm, edge_grads: EdgeGrads) -> None:
    """Write the gradients of the edge map of `edge_max`; that of x is `neighbour_max_backward`'s."""
    fields = operands.edge_max_backward(grad, arg, csr, edges, edge_grads)
    _edge_max_backward(*fields, DTYPES[grad.dtype], torch.get_num_threads())
