"""The scores of attention on the kernels: one pass over the values for both ends, and one for all gradients.

Saved for the backward: x and the vectors. Outside of torch.compile alone; the compiler fuses the reference itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import double_backward, reference
from .attention import dense_nodes
from .backend import kernels
from .cpu import sum_dtype, summable


def attention_scores(x: Tensor, attn_src: Tensor, attn_dst: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Score both ends; contract in `revgnn.ops.attention_scores`."""
    found: tuple[Tensor, Tensor | None] = _Function.apply(x, attn_src, attn_dst)  # type: ignore[no-untyped-call]
    return found


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, attn_src, attn_dst):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, attn_src, attn_dst)
        x = dense_nodes(x)
        score_src = x.new_empty(x.shape[:2], dtype=sum_dtype(x.dtype))
        score_dst = None if attn_dst is None else torch.empty_like(score_src)
        src, dst = summable(attn_src, x), summable(attn_dst, x)
        kernels(x).attention_scores(x, src, dst, score_src=score_src, score_dst=score_dst)
        return score_src, score_dst

    @staticmethod
    def backward(ctx, dscore_src, dscore_dst):  # type: ignore[no-untyped-def]
        x, attn_src, attn_dst = ctx.saved_tensors
        cotangents = (dscore_src,) if attn_dst is None else (dscore_src, dscore_dst)
        if double_backward.asks_reference(*cotangents):
            inputs, needs = (x, attn_src, attn_dst), ctx.needs_input_grad
            return tuple(double_backward.gradients(reference.attention_scores, inputs, cotangents, needs))
        x, src, dst = dense_nodes(x), summable(attn_src, x), summable(attn_dst, x)
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        dattn_src, dattn_dst = torch.empty_like(src), None if dst is None else torch.empty_like(dst)
        kernels(x).attention_scores_backward(
            x,
            src,
            dst,
            dscore_src=dscore_src.contiguous(),
            dscore_dst=None if dst is None else dscore_dst.contiguous(),
            dx=dx,
            dattn_src=dattn_src,
            dattn_dst=dattn_dst,
        )
        return (
            dx if ctx.needs_input_grad[0] else None,
            dattn_src.to(attn_src.dtype).view_as(attn_src) if ctx.needs_input_grad[1] else None,
            None if dattn_dst is None else dattn_dst.to(attn_dst.dtype).view_as(attn_dst),
        )
