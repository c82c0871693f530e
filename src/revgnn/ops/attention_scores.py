"""The scores of attention on the kernels: one pass over the values for both ends, and one for all gradients.

Saved for the backward: x and the vectors. torch.compile fuses the reference itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .attention import dense_nodes
from .choice import kernels
from .cpu import sum_dtype, summable
from .kernel_op import KernelOp, Needs
from .spmm import empty_dense


class _Scored(NamedTuple):
    x: Tensor
    """[N, H, F]"""
    attn_src: Tensor
    """[H, F] or [1, H, F]"""
    attn_dst: Tensor | None


def _outputs(a: _Scored, needs: Needs) -> tuple[Tensor, Tensor | None]:
    score_src = a.x.new_empty(a.x.shape[:2], dtype=sum_dtype(a.x.dtype))
    return score_src, None if a.attn_dst is None else torch.empty_like(score_src)


def _forward(a: _Scored, outputs: tuple[Tensor, Tensor | None]) -> None:
    x, (score_src, score_dst) = dense_nodes(a.x), outputs
    src, dst = summable(a.attn_src, x), summable(a.attn_dst, x)
    kernels(x).attention_scores(x, src, dst, score_src=score_src, score_dst=score_dst)


def _backward(
    a: _Scored, outputs: tuple[Tensor, Tensor | None], cotangents: Sequence[Tensor], needs: Needs
) -> tuple[Tensor | None, ...]:
    x, (dscore_src, *dscore_dst) = dense_nodes(a.x), cotangents
    src, dst = summable(a.attn_src, x), summable(a.attn_dst, x)
    dx, dattn_src, dattn_dst = empty_dense(x), torch.empty_like(src), None if dst is None else torch.empty_like(dst)
    kernels(x).attention_scores_backward(
        x,
        src,
        dst,
        dscore_src=dscore_src.contiguous(),
        dscore_dst=dscore_dst[0].contiguous() if dscore_dst else None,
        dx=dx,
        dattn_src=dattn_src,
        dattn_dst=dattn_dst,
    )
    vectors = ((dattn_src, a.attn_src), (dattn_dst, a.attn_dst))
    return dx, *(None if d is None or attn is None else d.to(attn.dtype).view_as(attn) for d, attn in vectors)


ATTENTION_SCORES = KernelOp(
    name="revgnn::attention_scores",
    arguments=_Scored,
    kernels=("attention_scores", "attention_scores_backward"),
    outputs=_outputs,
    forward=_forward,
    saved=lambda a, outputs, needs: (*a, None, None),
    backward=_backward,
    reference=lambda a: reference.attention_scores(*a),
    num_results=2,
    is_traceable=False,
)
