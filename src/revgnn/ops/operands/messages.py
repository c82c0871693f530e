"""Checks the operands of the kernels for generalised graph convolution, with and without edge features."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import dense, rows
from .csr import Csr, Fields, types_of

_Edges = tuple[Tensor | None, Tensor | None, Tensor | None]


def gen_aggr(
    x: Tensor,
    csr: Csr,
    reduce: str,
    out: Tensor,
    edges: _Edges,
    t: Tensor | None,
    lse: Tensor | None,
    scratch: Tensor | None,
) -> Fields:
    """Operands of ``gen_aggr``."""
    (dtype, total), (device, n, _, _), (_, d) = types_of(x), csr.on, x.shape
    _check_reduce(reduce, edges, t)
    return (
        *_messages(x, csr, edges),
        dense(t, "t", total, device, d),
        *rows(out, "out", dtype, device, n, d),
        dense(lse, "lse", total, device, n, d),
        dense(scratch, "scratch", dtype, device, n, 2 * d),
    )


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
) -> Fields:
    """Operands of ``gen_aggr_backward``; ``edge_grads``: of weight, bias and edge_attr."""
    (dtype, total), (device, n, e, _), (_, d) = types_of(x), csr.on, x.shape
    _check_reduce(reduce, edges, t)
    if reduce == "softmax" and (y is None or lse is None):
        raise ValueError("a kernel needs y and lse of the forward for the gradient of a softmax")
    if reduce == "mean" and indptr is None:
        raise ValueError("a kernel needs indptr of the forward graph for the gradient of a mean")
    k = 0 if edges[0] is None else edges[0].size(-1)
    return (
        *_messages(x, csr, edges),
        dense(t, "t", total, device, d),
        *rows(y, "y", dtype, device, n, d),
        dense(lse, "lse", total, device, n, d),
        dense(indptr, "indptr", torch.int32, device, n + 1),
        *rows(grad, "grad", dtype, device, n, d),
        dense(scratch, "scratch", dtype, device, n, 2 * d),
        *rows(dx, "dx", dtype, device, n, d),
        dense(edge_grads[0], "dweight", total, device, k, d),
        dense(edge_grads[1], "dbias", total, device, d),
        dense(edge_grads[2], "dedge_attr", total, device, e, k),
        dense(dt, "dt", total, device, d),
    )


def edge_max(x: Tensor, csr: Csr, edges: _Edges, out: Tensor, arg: Tensor | None) -> Fields:
    """Operands of ``edge_max``."""
    device, n, _, _ = csr.on
    return (
        *_messages(x, csr, edges),
        *rows(out, "out", x.dtype, device, n, x.size(1)),
        dense(arg, "arg", torch.int32, device, n, x.size(1)),
    )


def edge_max_backward(grad: Tensor, arg: Tensor, csr: Csr, edges: _Edges, edge_grads: _Edges) -> Fields:
    """Operands of ``edge_max_backward``; ``edge_grads``: of weight, bias and edge_attr."""
    (dtype, total), (device, n, e, _), (_, d) = types_of(grad), csr.on, grad.shape
    k, *term = _edge_term(edges, total, device, e, d)
    return (
        *csr.fields(),
        d,
        k,
        *term[:2],
        *rows(grad, "grad", dtype, device, n, d),
        dense(arg, "arg", torch.int32, device, n, d),
        dense(edge_grads[0], "dweight", total, device, k, d),
        dense(edge_grads[1], "dbias", total, device, d),
        dense(edge_grads[2], "dedge_attr", total, device, e, k),
    )


def _messages(x: Tensor, csr: Csr, edges: _Edges) -> Fields:
    """What messages are made of."""
    (dtype, total), (device, n, e, _), (_, d) = types_of(x), csr.on, x.shape
    place = rows(x, "x", dtype, device, n, d)
    k, *term = _edge_term(edges, total, device, e, d)
    return *csr.fields(), d, k, *place, *term


def _edge_term(edges: _Edges, total: torch.dtype, device: torch.device, e: int, d: int) -> Fields:
    """K and the addresses of edge_attr, weight and bias."""
    edge_attr, weight, bias = edges
    if (edge_attr is None) != (weight is None):
        raise ValueError("a kernel needs edge_attr and weight together")
    k = 0 if edge_attr is None else edge_attr.size(-1)
    return (
        k,
        dense(edge_attr, "edge_attr", total, device, e, k),
        dense(weight, "weight", total, device, k, d),
        dense(bias, "bias", total, device, d),
    )


def _check_reduce(reduce: str, edges: _Edges, t: Tensor | None) -> None:
    if reduce == "softmax" and t is None:
        raise ValueError("a kernel needs t for a softmax")
    if reduce != "softmax" and edges[0] is None:
        raise ValueError(f"a kernel reduces by {reduce!r} only with edge features; use spmm")
