"""Makes batches from any iterable of PyG ``Data``: PyG's loaders, a list, or a user's generator.

The rows of a split follow from the attributes that PyG's loaders set: masks, the number of seed nodes (``batch_size``),
or whole graphs (``batch``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...edge_index import fingerprint, plain
from ...graph import Graph
from ...weak_cache import Memo
from ..batch import Batch, check_finite

if TYPE_CHECKING:
    from torch_geometric.data import Data

_MASKS = {"train": ("train_mask",), "valid": ("val_mask", "valid_mask"), "test": ("test_mask",)}
"""Split -> names of its mask in PyG's data sets."""


class PygBatches:
    """A source of batches for the training loop, from iterables of PyG ``Data``.

    While a loader runs, the global random generators (torch on the CPU, numpy, Python) have separate states, seeded by
    (seed, epoch). So loader and model do not influence each other's random numbers, and a resumed run gets the same
    batches. A compiled sampler with its own generators is seeded from these or not at all. Weights that a sampler
    attaches to nodes and edges (GraphSAINT's ``node_norm``, ``edge_norm``) are not applied. With several ranks, each
    rank makes all batches and uses its own, because a loader cannot skip batches. These batches must not be
    `Prefetched`, because the generators are global; use ``num_workers`` of PyG's loaders.

    Args:
        train: the training batches, iterated once per epoch; or a function from the epoch (from 1) to them.
        evaluate: batches that cover every row of every split once, such as ``[data]``, with masks; or split name ->
            batches whose rows (the seed nodes if there are any, otherwise all) belong to that split. Rows may occur
            several times if each batch has ``n_id``: their logits are averaged.
        seed: seed of the loaders, 0 or above.
        steps: training batches per epoch; ``None``: ``len(train)``.
    Raises: ValueError: ``steps`` is not given and ``train`` has no length; or a loader has persistent workers.

    Cost: one sort of the edges of each batch.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from torch_geometric.data import Data
        >>> graph = Data(x=torch.randn(4, 3), edge_index=torch.tensor([[0, 1], [1, 2]]), y=torch.tensor([0, 1, 0, 1]))
        >>> graph.train_mask = torch.tensor([True, True, False, False])
        >>> len(revgnn.PygBatches([graph], evaluate=[graph]))
        1
    """

    def __init__(
        self,
        train: Iterable[Data] | Callable[[int], Iterable[Data]],
        evaluate: Iterable[Data] | Mapping[str, Iterable[Data]],
        *,
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        for source in (train, *(evaluate.values() if isinstance(evaluate, Mapping) else [evaluate])):
            if getattr(source, "persistent_workers", False):
                raise ValueError(
                    "persistent_workers=True keeps random states from one epoch to the next, and a run that resumes "
                    "would see other batches; leave it out, or pass a function from the epoch to a loader"
                )
        sized: object = train
        if steps is None:
            if not isinstance(sized, Sized):
                raise ValueError(
                    f"the steps of an epoch must be known, and {type(train).__name__} has no length; pass steps"
                )
            steps = len(sized)
        self._train, self._evaluate, self._seed = train, evaluate, seed
        self._steps = steps
        self._memo: Memo[tuple[Batch, list[Tensor]]] = Memo()

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._steps

    def train(self, epoch: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch; batches without training rows are skipped."""
        # Check in this order, because some of PyG's loaders are also callable.
        batches = self._train if isinstance(self._train, Iterable) else self._train(epoch)
        for data in _reproducibly(batches, (self._seed, epoch)):
            batch = self._taken(data)
            if "train" not in batch.rows:
                raise ValueError(
                    "a training batch must say which rows it is trained on: a train_mask, seed nodes first with "
                    f"batch_size, or whole graphs with batch; got {', '.join(sorted(data.keys()))}"
                )
            if batch.rows["train"].numel():
                yield batch

    def evaluate(self) -> Iterator[Batch]:
        """Yield the batches of an evaluation, the same in every evaluation."""
        if not isinstance(self._evaluate, Mapping):
            for data in _reproducibly(self._evaluate, (self._seed, 0)):
                yield self._taken(data)
            return
        for split, batches in self._evaluate.items():
            for data in _reproducibly(batches, (self._seed, 0)):
                yield from_pyg(data, split)

    def _taken(self, data: Data) -> Batch:
        # A list of one graph gives the same object every time, and its edges need sorting only once. Its tensors are
        # held with the batch, so that no other can have the number of one.
        tensors = [value for value in data.to_dict().values() if isinstance(value, Tensor)]
        mark = [(id(tensor), None if tensor.is_inference() else tensor._version) for tensor in tensors]
        edges = None if data.edge_index is None else fingerprint(plain(data.edge_index))
        return self._memo.get(data, (mark, edges), lambda: (from_pyg(data), tensors))[0]


def from_pyg(data: Data, split: str | None = None) -> Batch:
    """Make a batch of a PyG ``Data`` or ``Batch``.

    The rows of a split follow from its mask (``train_mask``, ``val_mask``, ``test_mask``), one entry per node. If
    ``batch_size`` is set, the first ``batch_size`` nodes are the seeds, only seeds are used, and without masks they are
    training rows. In a union of graphs without masks all rows are training rows.

    Args:
        data: with ``x``, ``edge_index`` and ``y``; optional ``edge_attr``, and ``n_id`` to identify nodes over batches.
            ``y`` is integer [n] or [n, 1], or floating point [n] or [n, T].
        split: the split of all rows (or seeds), regardless of masks; ``None``: use the masks.
    Returns: the batch; tensors that need no conversion are shared.
    Raises: ValueError: ``x``, ``y`` or ``edge_index`` is missing, ``x`` is not finite, a mask is not boolean, one per
        row, or a row of a split has a negative class.
    Cost: one sort of E keys.
    """
    for name in ("x", "y"):
        if not isinstance(getattr(data, name, None), Tensor):
            raise ValueError(f"data.{name} is missing: a batch needs features x and labels y")
    graph = Graph.from_data(data)
    edge_attr = getattr(data, "edge_attr", None)
    if edge_attr is not None:
        edge_attr = graph.sort_edges(edge_attr if edge_attr.dim() > 1 else edge_attr[:, None])
    y = _labels(data.y)
    rows = _rows(data, y.size(0), split)
    check_finite(data.x, "data.x")
    _check_labelled(y, rows)
    ids = getattr(data, "n_id", None)
    return Batch(x=data.x, graph=graph.in_own_order, edge_attr=edge_attr, y=y, rows=rows, ids=ids)


def _check_labelled(y: Tensor, rows: dict[str, Tensor]) -> None:
    for split, own in rows.items():
        unknown = own[:0] if y.is_floating_point() else own[y[own] < 0]
        if unknown.numel():
            raise ValueError(
                f"data.y must have a class of 0 or more in every row of a split: row {int(unknown[0])} of {split} has "
                f"{int(y[unknown[0]])} ({unknown.numel()} such rows); take rows of unknown label out of the mask"
            )


def split_rows(data: Data, count: int, column: int | None = None) -> dict[str, Tensor]:
    """Return the rows of each split that has a mask.

    Args:
        data: with masks, or without.
        count: rows of labels.
        column: of masks that have several; ``None``: they have one.
    Raises: ValueError: a mask is not boolean, one per row of ``count`` rows, or lacks the column.
    """
    rows = {}
    for split, names in _MASKS.items():
        for name in names:
            mask = getattr(data, name, None)
            if mask is None:
                continue
            if column is not None and mask.dim() == 2:
                if not 0 <= column < mask.size(1):
                    raise ValueError(f"data.{name} has the columns 0 to {mask.size(1) - 1}, got split={column}")
                mask = mask[:, column]
            if mask.dtype != torch.bool or mask.shape != (count,):
                raise ValueError(
                    f"data.{name} must be bool [{count}], one per row of y, got {mask.dtype} {list(mask.shape)}"
                )
            rows[split] = mask.nonzero()[:, 0]
    return rows


def _rows(data: Data, count: int, only: str | None) -> dict[str, Tensor]:
    graphs = getattr(data, "batch", None) is not None
    seeds = None if graphs else getattr(data, "batch_size", None)
    if only is not None:
        return {only: torch.arange(count if seeds is None else seeds)}
    rows = split_rows(data, count)
    if seeds is not None:
        rows = {split: ids[ids < seeds] for split, ids in rows.items()}
    if not rows and (graphs or seeds is not None):
        rows["train"] = torch.arange(count if seeds is None else seeds)
    return rows


def _labels(y: Tensor) -> Tensor:
    if y.is_floating_point():
        return y if y.dim() > 1 else y[:, None]
    return y[:, 0] if y.dim() == 2 and y.size(1) == 1 else y


def _reproducibly(source: Iterable[Data], seed: tuple[int, int]) -> Iterator[Data]:
    """Iterate a source with separate states of the global random generators."""
    words = np.random.SeedSequence(seed).generate_state(3)
    own = (
        torch.Generator().manual_seed(int(words[0])).get_state(),
        np.random.RandomState(words[1]).get_state(),
        random.Random(int(words[2])).getstate(),
    )
    state = _Generators(own)
    with state.used():
        iterator = iter(source)
    while True:
        with state.used():
            data = next(iterator, None)
        if data is None:
            return
        yield data


class _Generators:
    """States of the global generators that are swapped in for a while, and saved again afterwards."""

    def __init__(self, own: tuple[Tensor, Any, Any]) -> None:
        self._own = own

    @contextmanager
    def used(self) -> Iterator[None]:
        others = torch.get_rng_state(), np.random.get_state(), random.getstate()
        _put(self._own)
        try:
            yield
        finally:
            self._own = torch.get_rng_state(), np.random.get_state(), random.getstate()
            _put(others)


def _put(states: tuple[Tensor, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
