"""Input encoders: one-hot species, categorical columns, and labels appended to features"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpeciesEncoder(nn.Module):
    """Encode features with a one-hot species in the last columns: ``W [x_rest, S x_species + s] + b``.

    Args:
        in_channels: F, species columns included.
        out_channels: D.
        species: number of last columns that are the one-hot species.
    Source: the paper's official code for ogbn-proteins (8 columns of 8 species).

    Examples:
        >>> import torch
        >>> from revgnn.nn import SpeciesEncoder
        >>> SpeciesEncoder(10, 16, species=2)(torch.randn(3, 10)).shape  # the last two columns are the species
        torch.Size([3, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, *, species: int) -> None:
        super().__init__()
        if not 0 < species <= in_channels:
            raise ValueError(f"species={species} must lie in 1..in_channels={in_channels}")
        self.species = species
        self.one_hot = nn.Linear(species, species)
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F] -> [N, D]."""
        rest, species = x[:, : -self.species], x[:, -self.species :]
        out: Tensor = self.lin(torch.cat([rest, self.one_hot(species)], dim=1))
        return out


class CategoricalEncoder(nn.Module):
    """Encode integer columns as the sum of one embedding per column (OGB's atom encoder).

    Args:
        sizes: number of categories of each column.
        out_channels: D.
    Raises: ValueError: if x has another number of columns, or a category out of range, naming the first one.

    Examples:
        >>> import torch
        >>> from revgnn.nn import CategoricalEncoder
        >>> CategoricalEncoder([4, 2], 8)(torch.tensor([[3, 0], [1, 1]])).shape
        torch.Size([2, 8])
    """

    offsets: Tensor
    limits: Tensor

    def __init__(self, sizes: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.embedding = nn.Embedding(sum(self.sizes), out_channels)
        starts = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", starts, persistent=False)
        self.register_buffer("limits", torch.tensor(self.sizes), persistent=False)
        nn.init.xavier_uniform_(self.embedding.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, columns] int64 -> [N, D]."""
        if x.dim() != 2 or x.size(1) != len(self.sizes):
            raise ValueError(f"expected {len(self.sizes)} categorical columns, got x of shape {list(x.shape)}")
        bad = (x < 0) | (x >= self.limits)
        if not torch.compiler.is_exporting() and bool(bad.any()):  # an exported program cannot check values
            row, column = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"category {int(x[row, column])} in row {row}, column {column} is not in 0..{self.sizes[column] - 1}"
            )
        return F.embedding_bag(x + self.offsets, self.embedding.weight, mode="sum")


def append_labels(x: Tensor, y: Tensor, known: Tensor, num_classes: int) -> Tensor:
    """Append one-hot labels of known nodes to their features, zeros for the others.

    Args:
        x: [N, F].
        y: [N] int64 classes; only those of ``known`` are read.
        known: int64 indices of the nodes whose label is an input.
        num_classes: T.
    Returns: [N, F + T].
    Source: Wang et al. 2021 (label reuse), as used by the paper's GAT rows.

    Examples:
        >>> import torch
        >>> from revgnn.nn import append_labels
        >>> append_labels(torch.ones(3, 1), torch.tensor([1, 0, 1]), torch.tensor([0]), 2)
        tensor([[1., 0., 1.],
                [1., 0., 0.],
                [1., 0., 0.]])
    """
    labels = x.new_zeros(x.size(0), num_classes)
    labels[known, y[known]] = 1.0
    return torch.cat([x, labels], dim=1)
