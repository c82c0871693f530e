"""CPU kernels of sums and maxima over neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import operands
from ..operands import Csr
from .library import DTYPES, kernel

_spmm = kernel("spmm")
_edge_dot = kernel("edge_dot")
_max = kernel("max")
_max_backward = kernel("max_backward")


def spmm(
    x: Tensor,
    csr: Csr,
    *,
    out: Tensor,
    weight: Tensor | None = None,
    src_scale: Tensor | None = None,
    dst_scale: Tensor | None = None,
    mean: bool = False,
    accumulate: bool = False,
) -> None:
    """Sum neighbours: ``out_i = dst_scale_i * sum_e weight_e src_scale_j x_j``, over the degree with ``mean``.

    Args:
        x: [N, D] float32, bfloat16 or float64.
        csr: which rows each row sums.
        out: [N, D] of the same type, or float32 for bfloat16.
        weight: [E] in the type of the sums, read through ``csr.edge_ids``.
        src_scale, dst_scale: [N] in the type of the sums: weights that factor into the two ends need no [E] vector.
        mean: divide by the number of edges of the row.
        accumulate: add to ``out``.
    """
    fields = operands.spmm(x, csr, out, weight, src_scale, dst_scale)
    _spmm(*fields, DTYPES[x.dtype], DTYPES[out.dtype], mean, accumulate, torch.get_num_threads())


def edge_dot(x: Tensor, grad: Tensor, csr: Csr, *, out: Tensor, mean: bool = False) -> None:
    """Write ``<grad_i, x_j>`` of the forward graph's edges into ``out`` [E], over the degree of i with ``mean``."""
    _edge_dot(*operands.edge_dot(x, grad, csr, out), DTYPES[x.dtype], mean, torch.get_num_threads())


def neighbour_max(x: Tensor, csr: Csr, *, out: Tensor, arg: Tensor | None = None) -> None:
    """Write each channel's maximum over the neighbours; ``arg`` [N, D] int32: the first edge that attains it, or -1."""
    _max(*operands.neighbour_max(x, csr, out, arg), DTYPES[x.dtype], torch.get_num_threads())


def neighbour_max_backward(grad: Tensor, arg: Tensor, reverse: Csr, *, dx: Tensor, accumulate: bool = False) -> None:
    """Send each gradient to the source of the edge that ``arg`` names."""
    fields = operands.neighbour_max_backward(grad, arg, reverse, dx)
    _max_backward(*fields, DTYPES[grad.dtype], accumulate, torch.get_num_threads())
