"""Loads data shipped with libraries: scikit-learn's digits as a nearest-neighbour graph, Zachary's karate club.

Nothing is downloaded or written. Splits are drawn from a fixed seed, so they are the same in every run.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..dataset import Dataset
from ..edges import make_undirected
from ..info import Counts, GraphInfo
from .pyg import quiet_pyg

_SPLIT_SEED = 0
DIGITS = GraphInfo(
    name="digits",
    num_outputs=10,
    in_channels=64,
    counts=Counts(nodes=1797, edges=19_858, splits=(("train", 200), ("valid", 300), ("test", 1297))),
)
KARATE = GraphInfo(
    name="karate",
    num_outputs=4,
    in_channels=34,
    counts=Counts(nodes=34, edges=156, splits=(("train", 4), ("valid", 10), ("test", 20))),
)


def read_digits() -> Dataset:
    """Make a graph of scikit-learn's 1,797 handwritten digits: 64 pixel intensities each, 10 classes.

    Each digit is joined with its 8 nearest by Euclidean distance of pixels, in both directions (19,858 edges). 20 of
    each class train, 300 select, the other 1,297 test.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, as packed in scikit-learn.
    """
    # An optional dependency with a slow import that only this data set needs.
    from sklearn.datasets import load_digits

    pixels, target = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    edge_index, _ = make_undirected(_nearest(pixels, 8), None, pixels.size(0))
    y = target.long()
    return Dataset(
        info=DIGITS,
        x=(pixels / 16).float(),
        edge_index=edge_index,
        y=y,
        splits=_few_labels(y, train_per_class=20, num_valid=300),
    )


def read_karate() -> Dataset:
    """Load Zachary's karate club: 34 members, 156 directed edges, 4 communities, one label each to train on.

    Features are one-hot. 10 members select, the other 20 test.

    Source: Zachary 1977, with the communities of Kipf and Welling 2017, as packed in PyG.
    """
    with quiet_pyg():
        from torch_geometric.datasets import KarateClub

        data = KarateClub()[0]
    train = data.train_mask.nonzero().view(-1)
    others = _shuffle((~data.train_mask).nonzero().view(-1))
    return Dataset(
        info=KARATE,
        x=data.x,
        edge_index=data.edge_index,
        y=data.y,
        splits={"train": train, "valid": others[:10].sort().values, "test": others[10:].sort().values},
    )


def _nearest(points: Tensor, count: int) -> Tensor:
    """Return [2, N * count] edges from each whole-numbered point to its nearest others, ties to the lower number."""
    # Whole numbers keep squared distances and keys exact, so that every machine draws the same graph.
    squares = points.square().sum(1)
    distances = squares[:, None] + squares - 2 * points @ points.T
    keys = distances.fill_diagonal_(torch.inf) * len(points) + torch.arange(len(points))
    nearest = keys.topk(count, dim=1, largest=False).indices
    return torch.stack([torch.arange(len(points)).repeat_interleave(count), nearest.reshape(-1)])


def _few_labels(y: Tensor, *, train_per_class: int, num_valid: int) -> dict[str, Tensor]:
    order = _shuffle(torch.arange(y.numel()))
    by_class = [order[y[order] == label][:train_per_class] for label in range(int(y.max()) + 1)]
    train = torch.cat(by_class).sort().values
    others = order[~torch.isin(order, train)]
    return {"train": train, "valid": others[:num_valid].sort().values, "test": others[num_valid:].sort().values}


def _shuffle(numbers: Tensor) -> Tensor:
    order = np.random.default_rng(_SPLIT_SEED).permutation(numbers.numel())
    return numbers[torch.from_numpy(order)]
