"""Helpers of the GEN kernels: compute a tile of messages from nodes and raw edge features, and its gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from ..reference import MESSAGE_EPS
from .launch import gather, vector

EPS = tl.constexpr(MESSAGE_EPS)


@triton.jit
def edge_term(edge_attr, weight, bias, place, live, d, inside, width, K: tl.constexpr, SUM: tl.constexpr):
    """``edge_attr @ weight + bias`` of some edges, [edges, columns]; only the tile exists."""
    term = tl.zeros((place.shape[0], d.shape[0]), SUM)
    if bias is not None:
        term += vector(bias, d, inside, SUM)[None, :]
    for k in tl.static_range(K):
        features = tl.load(edge_attr + place * K + k, mask=live, other=0.0)
        term += features[:, None] * vector(weight + k * width, d, inside, SUM)[None, :]
    return term


@triton.jit
def rectified(value):
    """``relu(value) + eps``; a NaN stays one."""
    return tl.where(value < 0, 0.0, value) + EPS


@triton.jit
def message_gradient(value, i, live, d, inside, t, y, lse, grad, degree_indptr, width, y_stride, grad_stride,
                     REDUCE: tl.constexpr, CONSTANT: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    """The gradients of some messages' rectifier inputs ``value`` [edges, columns], and their terms of that of t.

    With ``p = exp(t (m - y) - lse)``: ``dm = g p (1 + t (m - y))``, ``dt = sum g p (m - y)^2``; CONSTANT: ``dm = g p``.
    """
    g = gather(grad, i, grad_stride, d, live, inside, SUM)
    dt = tl.zeros((d.shape[0],), SUM)
    if REDUCE == "softmax":
        away = rectified(value) - gather(y, i, y_stride, d, live, inside, SUM)
        # Columns and edges that do not exist have g = 0 and a finite exponential.
        exponent = away * t[None, :] - gather(lse, i, width, d, live, inside, SUM)
        p = tl.exp(tl.where(live[:, None] & inside[None, :], exponent, 0.0)) * g
        dt = tl.sum(p * away * away, 0)
        dm = p if CONSTANT else p * (1.0 + t[None, :] * away)
    elif REDUCE == "mean":
        degree = tl.load(degree_indptr + i + 1, mask=live, other=1) - tl.load(degree_indptr + i, mask=live, other=0)
        dm = g / tl.maximum(degree, 1).to(SUM)[:, None]
    else:
        dm = g
    return tl.where(value > 0, dm, 0.0), dt
