"""Checks the operands of the kernels for additive attention and its scores."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import dense, rows
from .csr import Csr, Fields, types_of

_Scores = tuple[Tensor, Tensor | None]
_Forward = tuple[Tensor | None, Tensor | None, Tensor | None]


def attention(x: Tensor, csr: Csr, scores: _Scores, keep: Tensor | None, out: Tensor, forward: _Forward) -> Fields:
    """Operands of ``attention``; ``forward``: what is kept for the backward, the normaliser and two sums of slopes."""
    return _attended(x, csr, scores, keep, ("out", out), forward)


def attention_backward(
    grad: Tensor,
    x: Tensor,
    csr: Csr,
    scores: _Scores,
    keep: Tensor | None,
    y: Tensor,
    forward: _Forward,
    scratch: Tensor,
    dx: Tensor,
    dscores: _Scores,
) -> Fields:
    """Operands of ``attention_backward``."""
    (dtype, total), (device, n, _, _), (h, f) = types_of(x), csr.on, _heads(x)
    if forward[0] is None or (dscores[1] is not None and (forward[1] is None or forward[2] is None)):
        raise ValueError("a kernel needs the normaliser, and slope_y and slope_sum for the gradient of score_dst")
    return (
        *_attended(x, csr, scores, keep, ("y", y), forward),
        *rows(grad, "grad", dtype, device, n, h, f),
        dense(scratch, "scratch", total, device, n, h, 4),
        *rows(dx, "dx", dtype, device, n, h, f),
        dense(dscores[0], "dscore_src", total, device, n, h),
        dense(dscores[1], "dscore_dst", total, device, n, h),
    )


def _attended(
    x: Tensor, csr: Csr, scores: _Scores, keep: Tensor | None, out: tuple[str, Tensor], forward: _Forward
) -> Fields:
    (dtype, total), (device, n, e, _), (h, f) = types_of(x), csr.on, _heads(x)
    return (
        *csr.fields(),
        h,
        f,
        *rows(x, "x", dtype, device, n, h, f),
        dense(scores[0], "score_src", total, device, n, h),
        dense(scores[1], "score_dst", total, device, n, h),
        dense(keep, "keep", torch.bool, device, e),
        *rows(out[1], out[0], dtype, device, n, h, f),
        dense(forward[0], "normaliser", total, device, n, 2, h),
        dense(forward[1], "slope_y", total, device, n, h, f),
        dense(forward[2], "slope_sum", total, device, n, h),
    )


def attention_scores(
    x: Tensor, attn_src: Tensor, attn_dst: Tensor | None, score_src: Tensor, score_dst: Tensor | None
) -> Fields:
    """Operands of ``attention_scores``."""
    return _scored(x, (attn_src, attn_dst), (score_src, score_dst), "")


def attention_scores_backward(
    x: Tensor, vectors: _Scores, dscores: _Scores, dx: Tensor, dvectors: tuple[Tensor, Tensor | None]
) -> Fields:
    """Operands of ``attention_scores_backward``."""
    (dtype, total), device, (n, h, f) = types_of(x), x.device, x.shape
    return (
        *_scored(x, vectors, dscores, "d"),
        *rows(dx, "dx", dtype, device, n, h, f),
        _vector(dvectors[0], "dattn_src", total, device, h, f),
        _vector(dvectors[1], "dattn_dst", total, device, h, f),
    )


def _scored(x: Tensor, vectors: _Scores, scores: _Scores, d: str) -> Fields:
    (dtype, total), device, n, (h, f) = types_of(x), x.device, x.size(0), _heads(x)
    if (vectors[1] is None) != (scores[1] is None):
        raise ValueError(f"a kernel needs attn_dst and {d}score_dst together")
    return (
        n,
        h,
        f,
        *rows(x, "x", dtype, device, n, h, f),
        _vector(vectors[0], "attn_src", total, device, h, f),
        _vector(vectors[1], "attn_dst", total, device, h, f),
        dense(scores[0], f"{d}score_src", total, device, n, h),
        dense(scores[1], f"{d}score_dst", total, device, n, h),
    )


def _vector(vector: Tensor | None, name: str, total: torch.dtype, device: torch.device, h: int, f: int) -> int:
    """[H, F] or [1, H, F]."""
    if vector is not None and vector.dim() == 3:
        return dense(vector, name, total, device, 1, h, f)
    return dense(vector, name, total, device, h, f)


def _heads(x: Tensor) -> tuple[int, int]:
    if x.dim() != 3:
        raise ValueError(f"a kernel needs x of shape [N, H, F], got {list(x.shape)}")
    return x.size(1), x.size(2)
