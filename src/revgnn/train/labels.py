"""Checks the dtype and shape of labels for losses and metrics, and finds the labelled entries."""

from __future__ import annotations

import torch
from torch import Tensor


def check_classes(logits: Tensor, y: Tensor) -> None:
    """Check that labels are [n] int64 for logits [n, T].

    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    if y.dtype != torch.int64:
        raise TypeError(f"classes must be int64, got {y.dtype}; for labels of independent tasks use bce and rocauc")
    if logits.dim() != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"classes must have shape [n] beside logits [n, T], got {list(y.shape)} beside {list(logits.shape)}"
        )


def labelled_entries(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask of labelled entries of [n, T] labels, and the labels with 0 for missing ones.

    Raises: TypeError, ValueError: labels of another dtype or shape.
    """
    if not y.is_floating_point():
        raise TypeError(f"labels of tasks must be floating point, got {y.dtype}; for classes use cross_entropy")
    if logits.dim() != 2 or y.shape != logits.shape:
        raise ValueError(f"labels must have the shape of the logits {list(logits.shape)}, got {list(y.shape)}")
    labelled = ~torch.isnan(y)
    return labelled, torch.where(labelled, y, 0.0).to(logits.dtype)


def num_labelled(y: Tensor) -> int:
    """Count labels: one per row for classes, the entries that are not NaN for [n, T]."""
    return int((~torch.isnan(y)).sum()) if y.is_floating_point() else y.size(0)
