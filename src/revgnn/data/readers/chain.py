"""Generates chains whose first node alone tells the class of all, as a measure of how far a network sees.

Nothing is downloaded. A network that sees h hops labels the first h nodes of a chain and guesses the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..dataset import Dataset
from ..info import GraphInfo

_SHARES = {"train": 0.1, "valid": 0.2, "test": 0.7}


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """Length, number and seed of the chains.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import ChainOptions
        >>> config = revgnn.DatasetConfig(name="chain", chain=ChainOptions(length=10, chains=4))  # of each class
        >>> revgnn.load_dataset(config, root="data").x.size(0)
        80
    """

    length: int = 100
    """Nodes of a chain; its last node is ``length`` - 1 hops from the first."""
    chains: int = 20
    """Chains of each class."""
    classes: int = 2
    """Number of classes."""
    seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        if self.length < 2 or self.chains < 1 or self.classes < 2 or self.seed < 0:
            raise ValueError(
                "chains must have length >= 2, chains >= 1, classes >= 2 and seed >= 0, got "
                f"{self.length}, {self.chains}, {self.classes} and {self.seed}"
            )


def make_chains(options: ChainOptions) -> Dataset:
    """Generate chains: to which class does each node's chain belong?

    Every node but the last of a chain has an edge to the next. The features are the one-hot class on the first node of
    a chain and 0 on all others. A tenth of all nodes trains, a fifth selects, and the rest tests.

    Args:
        options: see `ChainOptions`.
    Returns: N = length x chains x classes nodes, one feature per class; accuracy.
    Cost: milliseconds.
    Source: Gu et al. 2020, Implicit Graph Neural Networks (arXiv:2009.06211), section 5; the split is this project's.
    """
    length, classes = options.length, options.classes
    num_chains = options.chains * classes
    nodes = torch.arange(num_chains * length).view(num_chains, length)
    y = torch.arange(num_chains) % classes
    x = torch.zeros(num_chains * length, classes)
    x[nodes[:, 0], y] = 1.0
    order = np.random.default_rng(options.seed).permutation(nodes.numel())
    ends = np.round(np.cumsum(list(_SHARES.values()))[:-1] * len(order)).astype(np.int64)
    return Dataset(
        info=GraphInfo(name="chain", task="multiclass", num_outputs=classes),
        x=x,
        edge_index=torch.stack([nodes[:, :-1].reshape(-1), nodes[:, 1:].reshape(-1)]),
        y=y.repeat_interleave(length),
        splits={
            name: torch.from_numpy(np.sort(part)) for name, part in zip(_SHARES, np.split(order, ends), strict=True)
        },
    )
