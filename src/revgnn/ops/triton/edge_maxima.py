"""Triton kernels of max aggregation of GEN messages with edge features, and of the gradients of the edge map.

Only the edge that attains a maximum has a gradient: the backward reads [N, D] positions, not all edges' channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import Csr, EdgeGrads, EdgeTerm, sum_dtype
from .launch import (
    SUMS,
    blocks,
    column_block,
    columns_of,
    columns_under,
    edge_block,
    edges_of,
    gather,
    launch,
    launch_rows,
    places_of,
    power_of_two,
    put,
    row_of,
    rows_per_part,
    vector,
)
from .maxima import raise_maximum
from .messages import EPS, edge_term


def edge_max(x: Tensor, csr: Csr, edges: EdgeTerm, *, out: Tensor, arg: Tensor | None = None) -> None:
    """Write each channel's largest message; contract in `revgnn.ops.cpu.edge_max`."""
    operands.edge_max(x, csr, edges, out, arg)
    width = out.size(1)
    block = column_block(width)
    launch_rows(
        _edge_max,
        csr.indptr,
        (blocks(width, block),),
        x,
        csr.indices,
        csr.edge_ids,
        x,
        *edges,
        out,
        arg,
        width,
        x.stride(0),
        out.stride(0),
        K=edges.num_features,
        SUM=SUMS[x.dtype],
        BLOCK_E=edge_block(block),
        BLOCK_D=block,
    )


@triton.jit
def _edge_max(
    rows, indptr, indices, edge_ids, x, edge_attr, weight, bias, out, arg, width, x_stride, out_stride,
    K: tl.constexpr, SUM: tl.constexpr, LONG: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    # The ReLU is a maximum with 0, so the search starts at 0; the position remains -1 if no message exceeds it.
    best = tl.zeros((BLOCK_D,), SUM)
    where = tl.full((BLOCK_D,), -1, tl.int32)
    for first in range(start, end, BLOCK_E):
        e, live, j = edges_of(indices, first, end, BLOCK_E)
        place = places_of(edge_ids, e, live)
        value = gather(x, j, x_stride, d, live, inside, SUM)
        value += edge_term(edge_attr, weight, bias, place, live, d, inside, width, K, SUM)
        best, where = raise_maximum(best, where, value, e, live)
    best = tl.where(start < end, best + EPS, 0.0)
    put(out + row * out_stride, d, best, inside, False)
    if arg is not None:
        tl.store(arg + row * width + d, where, mask=inside)


def edge_max_backward(grad: Tensor, arg: Tensor, csr: Csr, edges: EdgeTerm, edge_grads: EdgeGrads) -> None:
    """Write the gradients of the edge map of `edge_max`; contract in `revgnn.ops.cpu.edge_max_backward`."""
    operands.edge_max_backward(grad, arg, csr, edges, edge_grads)
    num_rows, width = grad.shape
    features = edges.num_features
    constants = {"K": features, "K2": power_of_two(features), "SUM": SUMS[grad.dtype]}
    block = column_block(width, columns_under(constants["K2"]))
    constants |= {"BLOCK_D": block, "num_warps": 4}
    per_part = rows_per_part(num_rows, 32)
    parts = grad.new_empty(blocks(num_rows, per_part), features + 1, width, dtype=sum_dtype(grad.dtype))
    launch(
        _edge_map,
        (parts.size(0), blocks(width, block)),
        grad,
        edges.edge_attr,
        grad,
        arg,
        parts,
        num_rows,
        per_part,
        width,
        grad.stride(0),
        BLOCK_N=edge_block(block),
        **constants,
    )
    if edge_grads.weight is not None:
        torch.sum(parts[:, :features], 0, out=edge_grads.weight)
    if edge_grads.bias is not None:
        torch.sum(parts[:, features], 0, out=edge_grads.bias)
    if edge_grads.edge_attr is not None:
        launch_rows(
            _edge_features,
            csr.indptr,
            (),
            grad,
            edges.weight,
            grad,
            arg,
            edge_grads.edge_attr,
            width,
            grad.stride(0),
            BLOCK_E=edge_block(block),
            **constants,
        )


@triton.jit
def _edge_map(
    edge_attr, grad, arg, parts, num_rows, per_part, width, grad_stride,
    K: tl.constexpr, K2: tl.constexpr, SUM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Partial sums of the gradients of weight and bias over a range of destinations."""
    part = tl.program_id(0).to(tl.int64)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    k2 = tl.arange(0, K2)
    dweight = tl.zeros((K2, BLOCK_D), SUM)
    dbias = tl.zeros((BLOCK_D,), SUM)
    last = tl.minimum((part + 1) * per_part, num_rows)
    for first in range(part * per_part, last, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        live = (rows < last)[:, None] & inside[None, :]
        edge = tl.load(arg + rows[:, None] * width + d[None, :], mask=live, other=-1).to(tl.int64)
        won = edge >= 0
        g = tl.load(grad + rows[:, None] * grad_stride + d[None, :], mask=won, other=0.0).to(SUM)
        dbias += tl.sum(g, 0)
        for k in tl.static_range(K):
            outer = tl.sum(g * tl.load(edge_attr + edge * K + k, mask=won, other=0.0), 0)
            dweight += tl.where(k2[:, None] == k, outer[None, :], 0.0)
    base = parts + part * (K + 1) * width
    tl.store(base + k2[:, None] * width + d[None, :], dweight, mask=(k2[:, None] < K) & inside[None, :])
    tl.store(base + K * width + d, dbias, mask=inside)


@triton.jit
def _edge_features(
    rows, indptr, weight, grad, arg, dedge_attr, width, grad_stride,
    K: tl.constexpr, K2: tl.constexpr, SUM: tl.constexpr, LONG: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of the edge features: one owner per edge, the destination's program."""
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    k2 = tl.arange(0, K2)
    for first in range(start, end, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        total = tl.zeros((BLOCK_E, K2), SUM)
        for block in range(tl.cdiv(width, BLOCK_D)):
            d, inside = columns_of(block, width, BLOCK_D)
            g = vector(grad + row * grad_stride, d, inside, SUM)
            won = tl.load(arg + row * width + d, mask=inside, other=-1)[None, :] == e[:, None]
            dm = tl.where(won, g[None, :], 0.0)
            for k in tl.static_range(K):
                inner = tl.sum(dm * vector(weight + k * width, d, inside, SUM)[None, :], 1)
                total += tl.where(k2[None, :] == k, inner[:, None], 0.0)
        at = dedge_attr + e.to(tl.int64)[:, None] * K + k2[None, :]
        tl.store(at, total, mask=(e < end)[:, None] & (k2[None, :] < K))
