"""Triton kernels of GEN aggregation by softmax, sum or mean: the backward, over the reverse graph.

Each message is recomputed for its gradient. A program processes a fixed range of sources, writes their dx and
accumulates its partial sums for the edge map and for t; the partial sums are then added in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import operands
from ..cpu import NO_EDGE_GRADS, NO_EDGES, Csr, EdgeGrads, EdgeTerm, sum_dtype
from .launch import (
    SUMS,
    blocks,
    column_block,
    columns_of,
    columns_under,
    edge_block,
    edges_of,
    launch,
    launch_rows,
    left_out,
    long_rows,
    many_warps,
    places_of,
    power_of_two,
    put,
    row_of,
    rows_per_part,
    vector,
)
from .messages import edge_term, message_gradient


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
    """Write the gradients of `gen_aggr`; contract in `revgnn.ops.cpu.gen_aggr_backward`; ``scratch`` is not used."""
    operands.gen_aggr_backward(
        grad, x, reverse, reduce, dx, edges, edge_grads, t, dt, y, lse, indptr, scratch
    )  # fmt: skip
    num_rows, width = dx.shape
    is_softmax, has_edges, features = reduce == "softmax", edges.weight is not None, edges.num_features
    own = (x, *edges, t, *((y, lse) if is_softmax else (None, None)), grad, indptr)
    strides = (x.stride(0), y.stride(0) if is_softmax and y is not None else 0, grad.stride(0))
    # With sums for an edge map, narrow tiles leave registers free and allow more programs.
    block = column_block(width, min(32, columns_under(features))) if has_edges else column_block(width)
    shape = {"BLOCK_E": edge_block(block), "num_warps": 4 if has_edges else 1}
    constants: dict[str, Any] = {
        "REDUCE": reduce, "CONSTANT": constant_weights, "K": features, "K2": power_of_two(features),
        "SUM": SUMS[x.dtype], "BLOCK_D": block,
    }  # fmt: skip
    num_sums = has_edges * (features + 1) + is_softmax
    per_part = rows_per_part(num_rows, 2 * num_sums, 8192)
    num_parts, long = blocks(num_rows, per_part), long_rows(reverse.indptr)
    # Each long row is a separate part after the parts of short rows.
    num_long = 0 if long is None else long.numel()
    parts = x.new_empty(num_parts + num_long, num_sums, width, dtype=sum_dtype(x.dtype))

    edges_by_source = (reverse.indptr, reverse.indices, reverse.edge_ids)

    def run(rows: Tensor | None, into: Tensor, count: int, per_part: int, **shape: int) -> None:
        launch(
            _sources, (into.size(0), blocks(width, block)), x,
            rows, *edges_by_source, *own, dx, into, count, per_part, num_sums, width, *strides, dx.stride(0),
            ACCUMULATE=accumulate, **shape, **constants,
        )  # fmt: skip

    run(None, parts[:num_parts], num_rows, per_part, **shape, LONG=left_out(long))
    if long is not None:
        run(long, parts[num_parts:], num_long, 1, **many_warps(shape["BLOCK_E"], shape["num_warps"]))
    if has_edges and edge_grads.edge_attr is not None:
        to_edges = (*edges_by_source[1:], *own, edge_grads.edge_attr, width, *strides)
        launch_rows(_edges, reverse.indptr, (), x, *to_edges, **shape, **constants)
    for place, out in ((slice(0, features), edge_grads.weight), (features, edge_grads.bias), (num_sums - 1, dt)):
        if out is not None:
            torch.sum(parts[:, place], 0, out=out)


@triton.jit
def _sources(
    rows, indptr, indices, edge_ids, x, edge_attr, weight, bias, t, y, lse, grad, degree_indptr, dx, parts,
    count, per_part, num_sums, width, x_stride, y_stride, grad_stride, dx_stride,
    ACCUMULATE: tl.constexpr, REDUCE: tl.constexpr, CONSTANT: tl.constexpr, K: tl.constexpr, K2: tl.constexpr,
    SUM: tl.constexpr, LONG: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    d, inside = columns_of(tl.program_id(1), width, BLOCK_D)
    k2 = tl.arange(0, K2)
    temperature = tl.zeros((BLOCK_D,), SUM)
    if REDUCE == "softmax":
        temperature = vector(t, d, inside, SUM)
    dweight = tl.zeros((K2, BLOCK_D), SUM)
    dbias = tl.zeros((BLOCK_D,), SUM)
    dt = tl.zeros((BLOCK_D,), SUM)
    for at in range(part * per_part, tl.minimum((part + 1) * per_part, count)):
        row, start, end = row_of(rows, indptr, at, LONG)
        source = vector(x + row * x_stride, d, inside, SUM)
        total = tl.zeros((BLOCK_D,), SUM)
        for first in range(start, end, BLOCK_E):
            e, live, i = edges_of(indices, first, end, BLOCK_E)
            value = tl.zeros((BLOCK_E, BLOCK_D), SUM) + source[None, :]
            if edge_attr is not None:
                place = places_of(edge_ids, e, live)
                value += edge_term(edge_attr, weight, bias, place, live, d, inside, width, K, SUM)
            dm, more = message_gradient(
                value, i, live, d, inside, temperature, y, lse, grad, degree_indptr, width, y_stride, grad_stride,
                REDUCE, CONSTANT, SUM,
            )  # fmt: skip
            total += tl.sum(dm, 0)
            dt += more
            if edge_attr is not None:
                for k in tl.static_range(K):
                    features = tl.load(edge_attr + place * K + k, mask=live, other=0.0)
                    outer = tl.sum(features[:, None] * dm, 0)
                    dweight += tl.where(k2[:, None] == k, outer[None, :], 0.0)
        if edge_attr is not None:
            dbias += total
        put(dx + row * dx_stride, d, total, inside, ACCUMULATE)
    base = parts + part * num_sums * width
    if edge_attr is not None:
        tl.store(base + k2[:, None] * width + d[None, :], dweight, mask=(k2[:, None] < K) & inside[None, :])
        tl.store(base + K * width + d, dbias, mask=inside)
    if REDUCE == "softmax":
        tl.store(base + (num_sums - 1) * width + d, dt, mask=inside)


@triton.jit
def _edges(
    rows, indptr, indices, edge_ids, x, edge_attr, weight, bias, t, y, lse, grad, degree_indptr, dedge_attr,
    width, x_stride, y_stride, grad_stride,
    REDUCE: tl.constexpr, CONSTANT: tl.constexpr, K: tl.constexpr, K2: tl.constexpr,
    SUM: tl.constexpr, LONG: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of the edge features: one owner per edge, the source's program; columns block by block."""
    row, start, end = row_of(rows, indptr, tl.program_id(0).to(tl.int64), LONG)
    k2 = tl.arange(0, K2)
    for first in range(start, end, BLOCK_E):
        e, live, i = edges_of(indices, first, end, BLOCK_E)
        place = places_of(edge_ids, e, live)
        total = tl.zeros((BLOCK_E, K2), SUM)
        for block in range(tl.cdiv(width, BLOCK_D)):
            d, inside = columns_of(block, width, BLOCK_D)
            temperature = tl.zeros((BLOCK_D,), SUM)
            if REDUCE == "softmax":
                temperature = vector(t, d, inside, SUM)
            value = vector(x + row * x_stride, d, inside, SUM)[None, :]
            value += edge_term(edge_attr, weight, bias, place, live, d, inside, width, K, SUM)
            dm, _ = message_gradient(
                value, i, live, d, inside, temperature, y, lse, grad, degree_indptr, width, y_stride, grad_stride,
                REDUCE, CONSTANT, SUM,
            )  # fmt: skip
            for k in tl.static_range(K):
                inner = tl.sum(dm * vector(weight + k * width, d, inside, SUM)[None, :], 1)
                total += tl.where(k2[None, :] == k, inner[:, None], 0.0)
        at = dedge_attr + place[:, None] * K + k2[None, :]
        tl.store(at, total, mask=live[:, None] & (k2[None, :] < K))
