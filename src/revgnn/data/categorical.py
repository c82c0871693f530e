"""Converts category codes for models: node codes to int64, edge codes to multi-hot columns."""

from __future__ import annotations

import torch
from torch import Tensor


def multi_hot(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Convert category codes to multi-hot columns, so that a sum of embeddings is one matrix product.

    Args:
        codes: [n, k] integer, column j in ``0..sizes[j]-1``.
        sizes: number of codes of each column.
    Returns: [n, sum(sizes)] float32 with k ones in each row.
    """
    starts = torch.tensor([0, *sizes[:-1]], device=codes.device).cumsum(0)
    hot = torch.zeros(codes.size(0), sum(sizes), device=codes.device)
    return hot.scatter_(1, codes.long() + starts, 1.0)


def widen(x: Tensor) -> Tensor:
    """Convert node features for a `Batch`: uint8 codes to int64; numbers are unchanged."""
    return x.long() if x.dtype == torch.uint8 else x


def edge_columns(edge_attr: Tensor | None, categories: tuple[int, ...] | None) -> Tensor | None:
    """Convert edge features for a `Batch`: codes by `multi_hot`; numbers are unchanged."""
    return edge_attr if edge_attr is None or categories is None else multi_hot(edge_attr, categories)
