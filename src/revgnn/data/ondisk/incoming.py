"""Samples neighbourhoods of a prepared graph on disk, through memory-mapped arrays of every node's incoming edges.

The parts of a graph group the edges into a node by the parts of their sources. For sampling, all edges into a node are
written together, once per graph, into the folder ``incoming`` beside the parts.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...files import DAMAGED_ARRAY, sha256_of, write_whole
from ..batch import Batch
from ..buffers import take_rows
from ..induced import Subgraph
from ..task import SPLITS
from .manifest import MANIFEST, StoreError
from .store import Store, together

_log = logging.getLogger(__name__)
_FOLDER, _FACTS = "incoming", "incoming.json"
_ARRAYS = ("indptr", "indices", "rows")
"""Files: where the edges into each node begin [N+1]; the source of each edge [E]; with edge features, the row of each
edge in the files of its destination's part [E]."""


class StoredNeighbors:
    """A prepared graph to sample neighbourhoods from; nodes and edges that are not drawn are not read.

    Args:
        store: the graph.
    Raises:
        StoreError: a file is damaged, or belongs to another graph.
        OSError: the arrays are missing, and the folder of the graph cannot be written.
    Cost: the first time for a graph, one pass over its parts that writes 8 N + 4 E bytes (12 or 16 E with edge features
        or 2^31 nodes), and later a read of these for their hashes. In memory: the training nodes, and of each part the
        hashes that `Store` verifies once.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._checked = store, set[int]()
        folder = store.folder / _FOLDER
        if not folder.exists():
            _write(store, folder)
        arrays = _opened(store, folder)
        self.incoming = arrays["indptr"], arrays["indices"]
        self._rows = arrays.get("rows")
        train = SPLITS.index("train")
        numbers = [
            np.flatnonzero(store.splits(number) == train) + store.starts[number] for number in range(store.num_parts)
        ]
        self.train_nodes = torch.from_numpy(np.concatenate(numbers))

    def __reduce__(self) -> tuple[type[StoredNeighbors], tuple[Store]]:
        # A copy maps the files again, instead of holding what is in them.
        return StoredNeighbors, (self._store,)

    def batch(self, subgraph: Subgraph, rows: dict[str, Tensor] | None = None) -> Batch:
        """Make a batch of a subgraph, reading the features and labels of its nodes and edges.

        Args:
            subgraph: from `incoming`.
            rows: split name -> positions in the subgraph; ``None``: every node that is in a split.
        """
        store, nodes, edges = self._store, subgraph.nodes.numpy(), subgraph.edges.numpy()
        x = self._gathered(nodes, store.starts, lambda part, local: store.features(part, "x.npy", local))
        y = self._gathered(nodes, store.starts, self._labels)
        if rows is None:
            split = self._gathered(nodes, store.starts, lambda part, local: store.splits(part)[local])
            rows = {name: (split == code).nonzero()[:, 0] for code, name in enumerate(SPLITS)}
        edge_attr = None
        if self._rows is not None:
            at, ends = self._rows, self.incoming[0][store.starts].astype(np.int64)
            edge_attr = self._gathered(
                edges, ends, lambda part, local: store.features(part, "edge_attr.npy", at[local + ends[part]])
            )
        return Batch(x=x, graph=subgraph.graph, edge_attr=edge_attr, y=y, rows=rows, ids=subgraph.nodes)

    def _labels(self, part: int, local: NDArray[np.int64]) -> NDArray[np.generic]:
        if part not in self._checked:
            self._store.labels(part)
            self._checked.add(part)
        labels: NDArray[np.generic] = self._store.array(part, "y.npy")[local]
        return labels

    def _gathered(
        self,
        numbers: NDArray[np.int64],
        starts: NDArray[np.int64],
        read: Callable[[int, NDArray[np.int64]], NDArray[np.generic]],
    ) -> Tensor:
        """Read rows by number, part by part in ascending order; part p has the numbers from ``starts[p]``."""
        if (numbers[1:] < numbers[:-1]).any():
            order = np.argsort(numbers, kind="stable")
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            return take_rows(self._gathered(numbers[order], starts, read), torch.from_numpy(place))
        bounds = np.searchsorted(numbers, starts)
        parts = [part for part in range(self._store.num_parts) if bounds[part] < bounds[part + 1]] or [0]
        return together([read(part, numbers[bounds[part] : bounds[part + 1]] - starts[part]) for part in parts])


def _write(store: Store, folder: Path) -> None:
    """Write the arrays, part by part, and rename their folder when it is complete."""
    temporary = folder.with_name(f".writing-{_FOLDER}-{os.getpid()}")
    _log.info("%s: writing the incoming edges of %d nodes, once, to %s", store.name, store.num_nodes, folder)
    try:
        temporary.mkdir()
        _write_arrays(store, temporary)
        facts = {name: sha256_of(temporary / name) for name in sorted(os.listdir(temporary))}
        write_whole(temporary / _FACTS, json.dumps({"graph": sha256_of(store.folder / MANIFEST), "files": facts}))
        if not folder.exists():  # another rank may have written the same
            os.replace(temporary, folder)
    except OSError as error:
        if folder.exists():
            return
        raise OSError(
            f"sampling from {store.folder} needs its incoming edges in {folder}, which cannot be written: {error}; "
            "make the folder writable once, or choose loader.kind=ondisk without loader.fanouts"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_arrays(store: Store, folder: Path) -> None:
    wide = np.int32 if store.num_nodes < 2**31 else np.int64
    counts, parts = np.diff(store.starts), range(store.num_parts)
    shapes = {"indptr": (store.num_nodes + 1, np.int64), "indices": (store.num_edges, wide)}
    if store.info.edge_channels is not None:
        shapes["rows"] = store.num_edges, np.int64
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(length,))
        for name, (length, dtype) in shapes.items()
    }
    first = 0
    files["indptr"][0] = 0
    for part in parts:
        degree, indices, rows = store.incoming(part, parts, counts, store.starts)
        last = first + len(indices)
        files["indptr"][store.starts[part] + 1 : store.starts[part + 1] + 1] = first + np.cumsum(degree)
        files["indices"][first:last] = indices
        if "rows" in files:
            files["rows"][first:last] = rows
        first = last
    for file in files.values():
        file.flush()


def _opened(store: Store, folder: Path) -> dict[str, NDArray[np.integer]]:
    """Check the arrays, and map them.

    Raises: StoreError: they are damaged or belong to another graph.
    """
    names = [name for name in _ARRAYS if name != "rows" or store.info.edge_channels is not None]
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        wanted = {f"{name}.npy": sha256_of(folder / f"{name}.npy") for name in names}
        if facts != {"graph": sha256_of(store.folder / MANIFEST), "files": wanted}:
            raise ValueError("its contents are not those of this graph")
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    except DAMAGED_ARRAY as error:
        raise StoreError(f"{folder} cannot be used: {error}; remove the folder, it is written again") from error
