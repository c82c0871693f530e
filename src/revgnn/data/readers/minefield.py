"""Generates Minesweeper fields from a seed, by the published rule of the minesweeper data set.

Nothing is downloaded. A cell's label depends on counts many hops away, so deeper networks score higher here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..dataset import Dataset
from ..info import GraphInfo

COUNTS = 6
"""Columns of the one-hot count: 0 to 4 mines, and 5 or more."""
_MINES, _HIDDEN = 0.2, 0.5
_SPLITS = {"train": 0.5, "valid": 0.25, "test": 0.25}


@dataclass(frozen=True, kw_only=True)
class MinefieldOptions:
    """Size and seed of the generated field.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import MinefieldOptions
        >>> config = revgnn.DatasetConfig(name="minefield", minefield=MinefieldOptions(side=8))
        >>> revgnn.load_dataset(config, root="data").x.shape
        torch.Size([64, 7])
    """

    side: int = 100
    """Cells along each side of the square; 100 as published."""
    seed: int = 0
    """Seed of the positions of mines and of the hidden counts."""

    def __post_init__(self) -> None:
        if self.side < 4 or self.seed < 0:
            raise ValueError(
                f"a minefield must have side >= 4 and seed >= 0, got side={self.side} and seed={self.seed}"
            )


def make_minefield(options: MinefieldOptions, split: int = 0) -> Dataset:
    """Generate a field: which of its cells hold a mine?

    A node is a cell, joined with its up to 8 neighbours. A fifth of the cells hold a mine, which is the label. The
    features are 1 in column 0 where the count of a cell is hidden, which it is for half of them, else a one-hot count
    of the mines on neighbouring cells.

    Args:
        options: size and seed.
        split: the number of the split; each draws half of the cells to train, a quarter to select, a quarter to test,
            with a fifth of mines in all of them.
    Returns: N = side^2 nodes, 7 features, one yes-or-no label a node, ROC-AUC.
    Cost: milliseconds.
    Source: the rule of Platonov et al. 2023 (arXiv:2302.11640); 5 and more mines share a column, as in its file.
    """
    side, nodes = options.side, options.side**2
    rng = np.random.default_rng([options.seed, 0])
    mines = np.zeros(nodes, np.int64)
    mines[rng.permutation(nodes)[: round(_MINES * nodes)]] = 1
    column = 1 + np.minimum(count_neighbours(mines.reshape(side, side)).reshape(-1), COUNTS - 1)
    column[rng.permutation(nodes)[: round(_HIDDEN * nodes)]] = 0
    return Dataset(
        info=GraphInfo(name="minefield", task="binary", metric="rocauc", num_outputs=1, class_names=("free", "mine")),
        x=torch.eye(1 + COUNTS)[torch.from_numpy(column)],
        edge_index=grid_edges(side),
        y=torch.from_numpy(mines).float()[:, None],
        splits=_split(mines, np.random.default_rng([options.seed, 1 + split])),
    )


def count_neighbours(mines: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the mines on the up to 8 cells around each: [S, S] of 0 and 1 -> [S, S] of 0 to 8."""
    side = len(mines)
    padded = np.pad(mines, 1)
    around = sum(padded[i : i + side, j : j + side] for i in range(3) for j in range(3))
    return around - mines


def grid_edges(side: int) -> Tensor:
    """Join every cell of a square with its up to 8 neighbours: [2, E] int64 by source, cell (i, j) at i * side + j."""
    cells = np.arange(side**2).reshape(side, side)
    padded = np.pad(cells, 1, constant_values=-1)
    shifts = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    near = np.stack([padded[i : i + side, j : j + side].reshape(-1) for i, j in shifts], axis=1)
    src, place = np.nonzero(near >= 0)
    return torch.from_numpy(np.stack([src, near[src, place]]))


def _split(mines: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
    """Deal the cells with and those without a mine to the splits by the same shares."""
    ends = np.cumsum(list(_SPLITS.values()))[:-1]
    dealt = [
        np.split(order, np.round(ends * len(order)).astype(np.int64))
        for label in (0, 1)
        for order in [rng.permutation(np.flatnonzero(mines == label))]
    ]
    return {
        name: torch.from_numpy(np.sort(np.concatenate(parts)))
        for name, parts in zip(_SPLITS, zip(*dealt, strict=True), strict=True)
    }
