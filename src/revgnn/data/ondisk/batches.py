"""Reads batches of a few parts from a prepared graph on disk, with memory for one batch instead of the graph.

Every batch is a pure function of (seed, epoch, step). The sampler shuffles parts and stores nothing of length N.
"""

from __future__ import annotations

import numpy as np

from ..batch import Series
from .store import Store

_EVALUATION = 0
"""Number that evaluations use instead of an epoch in their seeds; training epochs count from 1."""


class StoredParts:
    """Training batches of some parts each, shuffled in every epoch; edges between the parts of a step are kept.

    Steps without training nodes are skipped.

    Args:
        store: the graph.
        parts_per_batch: q, parts per step, at least 1; the last step of an epoch may have fewer.
        seed: seed of the order of parts, 0 or above.
    Cost: each step reads its parts and the edges between them; an epoch reads about q/P of the edges.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import Store, StoredParts
        >>> parts = StoredParts(Store.open(Path("graph")), parts_per_batch=2, seed=0)
        >>> len(parts), len(parts.train(epoch=1))
        (2, 2)
    """

    def __init__(self, store: Store, parts_per_batch: int, seed: int) -> None:
        self._store, self._together, self._seed = store, parts_per_batch, seed

    def __len__(self) -> int:
        """Steps in an epoch, including steps without training nodes."""
        return -(-self._store.num_parts // self._together)

    def train(self, epoch: int) -> Series:
        """Yield the batches of an epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._store.num_parts)
        steps = [
            sorted(order[first : first + self._together].tolist()) for first in range(0, len(order), self._together)
        ]
        steps = [parts for parts in steps if self._store.has_split(parts, "train")]
        return Series(len(steps), lambda number: self._store.batch(steps[number]))


class StoredViews:
    """Evaluation batches of groups of parts, so that every node occurs once per view.

    The groups are the same in every evaluation.

    Args:
        store: the graph.
        num_pieces: groups of each view, at most P.
        num_views: V; the evaluation averages a node's V logits by ``ids``. With one view there are no ids.
        seed: seed of the groups, 0 or above.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import Store, StoredViews
        >>> views = StoredViews(Store.open(Path("graph")), num_pieces=2, num_views=3, seed=0)
        >>> len(views.evaluate())
        6
    """

    def __init__(self, store: Store, num_pieces: int, num_views: int, seed: int) -> None:
        self._store, self._num_pieces, self._seed = store, num_pieces, seed
        self.num_views = num_views

    def groups(self, view: int) -> list[list[int]]:
        """Return the parts of each group of a view, ascending; the sizes of two groups differ by at most one."""
        order = np.random.default_rng((self._seed, _EVALUATION, view)).permutation(self._store.num_parts)
        groups = [sorted(group.tolist()) for group in np.array_split(order, self._num_pieces)]
        nodes = self._store.manifest.parts
        return [group for group in groups if any(nodes[number].nodes for number in group)]

    def evaluate(self) -> Series:
        """Yield the groups of every view; empty groups are skipped."""
        groups = [group for view in range(self.num_views) for group in self.groups(view)]
        return Series(len(groups), lambda number: self._store.batch(groups[number], with_ids=self.num_views > 1))
