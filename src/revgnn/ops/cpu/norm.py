"""CPU kernels of norm, ReLU and dropout in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import operands
from . import abi
from .library import DTYPES, dense_columns, kernel

_norm = kernel("norm")
_norm_backward = kernel("norm_backward")
_batch_stats = kernel("batch_stats")
_running_stats = kernel("running_stats")
_keep_bits = kernel("keep_bits")


class Drop(NamedTuple):
    """Dropout: the mask, and the scale of the kept elements."""

    p: float = 0.0
    mask: Tensor | None = None
    """[N, D] bool, True keeps; or the same packed, [N, D / 8] uint8."""
    seed: int | None = None
    """Draws the mask by position where ``mask`` is ``None``."""

    def readable(self) -> Drop:
        """Return the same dropout with a mask of dense columns, or `NO_DROP` if nothing drops."""
        if self.mask is None:
            return self
        return NO_DROP if self.p == 0.0 else self._replace(mask=dense_columns(self.mask))

    def fields(self) -> tuple[float, int, int, bool, bool]:
        """Return the fields of the C struct: scale of the kept elements, seed, threshold, and how the mask is given."""
        if self.p == 0.0 or (self.mask is None and self.seed is None):
            return 1.0, 0, 0, False, False
        scale = 1.0 / (1.0 - self.p)
        if self.mask is not None:
            return scale, 0, 0, False, self.mask.dtype == torch.uint8
        assert self.seed is not None
        return scale, self.seed & _WORD, _threshold(self.p), True, False


NO_DROP = Drop()
_WORD = 0xFFFFFFFFFFFFFFFF


def _threshold(p: float) -> int:
    return min(int(p * 2**32), 2**32 - 1)


def keep_bits(seed: int, p: float, *, out: Tensor) -> None:
    """Write the mask of `reference.keep_mask` packed: bit k of byte b of the dense uint8 ``out`` is position 8b + k."""
    _keep_bits(*operands.bits(out, torch.uint8), seed & _WORD, _threshold(p), torch.get_num_threads())


def norm_act_drop(
    x: Tensor,
    *,
    kind: str,
    out: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    act: bool = True,
    drop: Drop = NO_DROP,
) -> None:
    """Write ``keep * relu(norm(x)) / (1 - p)``.

    Args:
        x: [N, D].
        kind: ``layer``, ``batch`` or ``none``.
        out: [N, D] of the same type, or bfloat16 for float32.
        weight, bias: [D] in the type of the sums.
        mean, rstd: layer: [N] vectors to write, for the backward; batch: [D] vectors to use (`batch_stats`).
    """
    drop = drop.readable()
    fields = operands.norm_act_drop(x, kind, out, weight, bias, mean, rstd, drop.mask)
    dtypes = DTYPES[x.dtype], DTYPES[out.dtype]
    _norm(*fields, eps, *drop.fields(), abi.NORM_KIND[kind], act, *dtypes, torch.get_num_threads())


def norm_act_drop_backward(
    grad: Tensor,
    x: Tensor,
    *,
    kind: str,
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    fixed_stats: bool = False,
    act: bool = True,
    drop: Drop = NO_DROP,
    accumulate: bool = False,
) -> None:
    """Write, or add to ``dx``, the gradient of `norm_act_drop`; everything but the statistics is recomputed from ``x``.

    Args:
        grad: [N, D] of x's type, or bfloat16 for float32.
        dweight, dbias: [D] in the type of the sums; written.
        fixed_stats: batch: ``mean`` and ``rstd`` are constants instead of the batch's own.
        accumulate: add to ``dx``.
    """
    drop = drop.readable()
    fields = operands.norm_act_drop_backward(grad, x, kind, dx, dweight, dbias, weight, bias, mean, rstd, drop.mask)
    dtypes, threads = (DTYPES[x.dtype], DTYPES[grad.dtype]), torch.get_num_threads()
    _norm_backward(*fields, *drop.fields(), abi.NORM_KIND[kind], act, fixed_stats, *dtypes, accumulate, threads)


def batch_stats(x: Tensor, *, eps: float, mean: Tensor, rstd: Tensor, var: Tensor | None = None) -> None:
    """Write each channel's mean, ``1 / sqrt(var + eps)`` and, if asked, biased variance over the rows."""
    _batch_stats(*operands.batch_stats(x, mean, rstd, var), eps, DTYPES[x.dtype], torch.get_num_threads())


def count_versions(written: Sequence[Tensor]) -> None:
    """Tell autograd that kernels have written to these tensors."""
    torch.autograd.graph.increment_version([tensor for tensor in written if not tensor.is_inference()])


def running_stats(
    mean: Tensor,
    var: Tensor,
    *,
    num_rows: int,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches: Tensor,
    momentum: float | None,
) -> None:
    """Move running statistics by those of a batch, as torch's BatchNorm does, and count the batch.

    Args:
        mean, var: [D] mean and biased variance of the batch.
        num_rows: of the batch, at least 1.
        running_mean, running_var: [D] of the same type, dense.
        num_batches: int64 scalar.
        momentum: weight of the batch in [0, 1]; ``None``: one over the number of batches.
    """
    fields = operands.running_stats(mean, var, running_mean, running_var, num_batches)
    _running_stats(num_rows, *fields, -1.0 if momentum is None else momentum, DTYPES[mean.dtype])
    count_versions([running_mean, running_var, num_batches])
