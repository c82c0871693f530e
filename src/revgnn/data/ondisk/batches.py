"""Batches that are read from a prepared graph on disk, a few parts at a time: memory follows the batch, not the graph.

Every batch is a pure function of (seed, epoch, step). Nothing of length N is held: what is drawn is an order of parts.
"""

from __future__ import annotations

import numpy as np

from ..batch import Series
from .store import Store

_EVALUATION = 0
"""Stands where training has its epoch, which counts from 1."""


class StoredParts:
    """Training on some parts at a time, put together anew in every epoch; edges between parts of a step are kept.

    A step whose parts have no training nodes is left out: there is nothing to learn from it.

    Args:
        store: the graph.
        parts_per_batch: parts of a step, at least 1; the last step of an epoch may have fewer.
        seed: of the order of parts, 0 or above.
    Cost: per step, a read of its parts and of the edges between them; per epoch, of q/P of the edges.
    """

    def __init__(self, store: Store, parts_per_batch: int, seed: int) -> None:
        self._store, self._together, self._seed = store, parts_per_batch, seed

    def __len__(self) -> int:
        """Steps in an epoch, those without training nodes included."""
        return -(-self._store.num_parts // self._together)

    def train(self, epoch: int) -> Series:
        """Give the steps of an epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._store.num_parts)
        steps = [
            sorted(order[first : first + self._together].tolist()) for first in range(0, len(order), self._together)
        ]
        steps = [parts for parts in steps if self._store.has_split(parts, "train")]
        return Series(len(steps), lambda number: self._store.batch(steps[number]))


class StoredViews:
    """Every node once for each view: the parts of the graph in groups that are evaluated one by one.

    The groups are drawn once and are the same in every evaluation.

    Args:
        store: the graph.
        num_pieces: groups of each view, at most P.
        num_views: V; logits of a node are meant to be averaged over them, by ``ids``. With one view there are no ids.
        seed: of the groups, 0 or above.
    """

    def __init__(self, store: Store, num_pieces: int, num_views: int, seed: int) -> None:
        self._store, self._num_pieces, self._seed = store, num_pieces, seed
        self.num_views = num_views

    def groups(self, view: int) -> list[list[int]]:
        """Give the parts of each group of a view, ascending; groups have equally many, or one more than others."""
        order = np.random.default_rng((self._seed, _EVALUATION, view)).permutation(self._store.num_parts)
        groups = [sorted(group.tolist()) for group in np.array_split(order, self._num_pieces)]
        nodes = self._store.manifest.parts
        return [group for group in groups if any(nodes[number].nodes for number in group)]

    def evaluate(self) -> Series:
        """Give the groups of view after view; groups without nodes are left out."""
        groups = [group for view in range(self.num_views) for group in self.groups(view)]
        return Series(len(groups), lambda number: self._store.batch(groups[number], with_ids=self.num_views > 1))
