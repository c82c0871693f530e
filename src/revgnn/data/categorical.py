"""Category codes as a model takes them: node codes widened to int64, edge codes as columns of zeros and ones."""

from __future__ import annotations

import torch
from torch import Tensor


def multi_hot(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Write category codes as columns of zeros and ones, so that a sum of embeddings is one matrix product.

    Args:
        codes: [n, k] integer, column j in ``0..sizes[j]-1``.
        sizes: codes of each column.
    Returns: [n, sum(sizes)] float32 with k ones in each row.
    """
    starts = torch.tensor([0, *sizes[:-1]], device=codes.device).cumsum(0)
    hot = torch.zeros(codes.size(0), sum(sizes), device=codes.device)
    return hot.scatter_(1, codes.long() + starts, 1.0)


def widen(x: Tensor) -> Tensor:
    """Give node features as a `Batch` holds them: uint8 codes as int64, numbers as they are."""
    return x.long() if x.dtype == torch.uint8 else x


def edge_columns(edge_attr: Tensor | None, categories: tuple[int, ...] | None) -> Tensor | None:
    """Give edge features as a `Batch` holds them: codes as `multi_hot`, numbers as they are."""
    return edge_attr if edge_attr is None or categories is None else multi_hot(edge_attr, categories)
