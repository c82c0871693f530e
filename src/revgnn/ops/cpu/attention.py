"""CPU kernels of additive attention with any number of heads, and of its scores."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import operands
from ..operands import Csr
from .library import DTYPES, kernel

_attention = kernel("attention")
_attention_backward = kernel("attention_backward")
_attention_scores = kernel("attention_scores")
_attention_scores_backward = kernel("attention_scores_backward")


def attention(
    x: Tensor,
    csr: Csr,
    *,
    score_src: Tensor,
    score_dst: Tensor | None,
    negative_slope: float,
    keep: Tensor | None,
    out: Tensor,
    normaliser: Tensor | None = None,
    slope_y: Tensor | None = None,
    slope_sum: Tensor | None = None,
) -> None:
    """Sum neighbours with the softmax of ``leaky_relu(score_src_j + score_dst_i)``, per head.

    Args:
        x, out: [N, H, F] of the same type, dense but for the stride of nodes.
        score_src, score_dst: [N, H] in the type of the sums, dense.
        keep: [E] bool in the forward graph's order.
        normaliser: [N, 2, H] in the type of the sums, written for the backward: each row's largest logit, and one over
            the sum of ``exp(logit - largest)``.
        slope_sum: [N, H] likewise.
        slope_y: [N, H, F] in the type of the sums; with `slope_sum`, for the gradient of ``score_dst``.
    """
    fields = operands.attention(x, csr, (score_src, score_dst), keep, out, (normaliser, slope_y, slope_sum))
    _attention(*fields, negative_slope, DTYPES[x.dtype], torch.get_num_threads())


def attention_backward(
    grad: Tensor,
    x: Tensor,
    reverse: Csr,
    *,
    score_src: Tensor,
    score_dst: Tensor | None,
    negative_slope: float,
    keep: Tensor | None,
    y: Tensor,
    normaliser: Tensor,
    slope_y: Tensor | None,
    slope_sum: Tensor | None,
    scratch: Tensor,
    dx: Tensor,
    dscore_src: Tensor,
    dscore_dst: Tensor | None,
    accumulate: bool = False,
) -> None:
    """Write the gradients of `attention`; ``scratch``: [N, H, 4] in the type of the sums, ``accumulate``: into dx."""
    scores, dscores, forward = (score_src, score_dst), (dscore_src, dscore_dst), (normaliser, slope_y, slope_sum)
    fields = operands.attention_backward(grad, x, reverse, scores, keep, y, forward, scratch, dx, dscores)
    _attention_backward(*fields, negative_slope, DTYPES[x.dtype], accumulate, torch.get_num_threads())


def attention_scores(
    x: Tensor, attn_src: Tensor, attn_dst: Tensor | None, *, score_src: Tensor, score_dst: Tensor | None
) -> None:
    """Write ``<x_ih, attn_src_h>`` and, with ``attn_dst``, the same with it.

    Args:
        x: [N, H, F], dense but for the stride of nodes.
        attn_src, attn_dst: [H, F] or [1, H, F] in the type of the sums, dense.
        score_src, score_dst: [N, H] in the type of the sums, dense.
    """
    fields = operands.attention_scores(x, attn_src, attn_dst, score_src, score_dst)
    _attention_scores(*fields, DTYPES[x.dtype], torch.get_num_threads())


def attention_scores_backward(
    x: Tensor,
    attn_src: Tensor,
    attn_dst: Tensor | None,
    *,
    dscore_src: Tensor,
    dscore_dst: Tensor | None,
    dx: Tensor,
    dattn_src: Tensor,
    dattn_dst: Tensor | None,
    accumulate: bool = False,
) -> None:
    """Write the gradients of `attention_scores`; ``accumulate``: into ``dx``, which attention's has been written to."""
    vectors, scores, dvectors = (attn_src, attn_dst), (dscore_src, dscore_dst), (dattn_src, dattn_dst)
    fields = operands.attention_scores_backward(x, vectors, scores, dx, dvectors)
    _attention_scores_backward(*fields, DTYPES[x.dtype], accumulate, torch.get_num_threads())
