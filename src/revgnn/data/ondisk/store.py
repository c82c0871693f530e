"""Opens a prepared graph on disk without reading it, and memory-maps its parts on demand.

The folder contains ``manifest.json``, ``parts/00000/`` and so on. The nodes of a part have consecutive numbers: node
number = first number of the part + row. All contents are checked before use: sizes on opening, types on mapping an
array, hashes on the first read of a part, and edges on building a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...graph import Graph
from ..batch import Batch
from ..buffers import empty
from ..dataset import Dataset
from ..info import GraphInfo
from ..task import SPLITS
from .folder import open_manifest
from .manifest import Manifest, StoreError
from .part import check_hash, map_array, part_folder, read_ids

_INT32_MAX = 2**31 - 1


class Store:
    """A prepared graph of P parts; it has the `info` of a `Dataset`, without the arrays in memory.

    Args:
        folder: contains the manifest and the parts.
        manifest: the folder's manifest, checked.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import Store
        >>> store = Store.open(Path("graph"))
        >>> store.num_nodes, store.num_parts
        (60, 4)
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._checked: set[int] = set()

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Read the manifest and check the size of every file.

        Raises:
            FileNotFoundError: the folder is not a prepared graph.
            StoreError: the manifest is invalid, or a file is missing or has another size.
        Cost: one ``stat`` call per file.
        """
        return cls(folder, open_manifest(folder))

    # ------------------------------------------------------------------ what it is
    @property
    def info(self) -> GraphInfo:
        """Metadata of the graph."""
        return self.manifest.info

    def judged_by(self, metric: str) -> Store:
        """Return the same graph with another metric."""
        return Store(self.folder, replace(self.manifest, info=replace(self.info, metric=metric)))

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.info.name

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.info.counts.nodes

    @property
    def num_edges(self) -> int:
        """E."""
        return self.info.counts.edges

    @property
    def num_parts(self) -> int:
        """P."""
        return self.manifest.num_parts

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[P+1] the number of the first node of each part, and N."""
        return np.cumsum([0, *(part.nodes for part in self.manifest.parts)])

    # ------------------------------------------------------------------ what it holds
    def array(self, number: int, name: str) -> NDArray[Any]:
        """Memory-map an array of a part; on the first access to a part, the hashes of its files are verified.

        Args:
            number: the part's number.
            name: a key of `part.ARRAYS` that the graph has.
        Raises: StoreError: the file does not match the manifest.
        """
        self._check(number)
        return map_array(self.folder, self.manifest, number, name)

    def ids(self, number: int) -> pa.Array:
        """Read the user's own ids of a part as one Arrow array, in the order of its rows."""
        self._check(number)
        return read_ids(self.folder, self.manifest, number)

    def batch(self, parts: Sequence[int], *, with_ids: bool = True) -> Batch:
        """Build the batch of some parts: their nodes, and every edge between two of these nodes.

        Args:
            parts: numbers, ascending, each once; nodes have this order.
            with_ids: whether to set the batch's ``ids``.
        Returns: the induced subgraph with features, labels and splits.
        Raises: StoreError: a file is damaged.
        Cost: reads only the nodes of the parts and the blocks of edges between them; a stable sort of each part's
            edges, which consist of sorted runs.
        """
        split = together([self.splits(number) for number in parts])
        y = together([self.labels(number) for number in parts])
        x = together([self.features(number, "x.npy") for number in parts])
        graph, edge_attr = self._graph(parts)
        ids = [np.arange(self.starts[number], self.starts[number + 1]) for number in parts]
        return Batch(
            x=x,
            graph=graph,
            edge_attr=edge_attr,
            y=y,
            rows={name: (split == code).nonzero()[:, 0] for code, name in enumerate(SPLITS)},
            ids=together(ids) if with_ids else None,
        )

    def has_split(self, parts: Sequence[int], split: str) -> bool:
        """Whether any node of these parts is in a split."""
        return any(bool((self.splits(number) == SPLITS.index(split)).any()) for number in parts)

    def load(self) -> Dataset:
        """Read the whole graph into memory.

        Cost: the whole graph, its edges as [2, E] int64.
        """
        everything = self.batch(range(self.num_parts), with_ids=False)
        ids = [self.ids(number) for number in range(self.num_parts)]
        return Dataset(
            info=self.info,
            x=everything.x,
            edge_index=everything.graph.edge_index,
            edge_attr=everything.edge_attr,
            y=everything.y,
            splits=everything.rows,
            node_ids=pa.concat_arrays(ids),
        )

    # ------------------------------------------------------------------ reading
    def _check(self, number: int) -> None:
        if number not in self._checked:
            for name, facts in self.manifest.parts[number].files.items():
                check_hash(part_folder(self.folder, number) / name, facts)
            self._checked.add(number)

    def splits(self, number: int) -> NDArray[np.int8]:
        """Map the split of each row of a part: the place in `SPLITS`, or -1."""
        split = self.array(number, "split.npy")
        if split.size and not (split.min() >= -1 and split.max() < len(SPLITS)):
            raise self._fault(number, "split.npy", f"must hold -1..{len(SPLITS) - 1}")
        return split

    def labels(self, number: int) -> NDArray[np.int64] | NDArray[np.float32]:
        """Map the labels of a part, all of which are checked."""
        y = self.array(number, "y.npy")
        if self.info.task_spec.has_classes:
            known = y[self.splits(number) >= 0]
            outside = y.size and (y.min() < -1 or y.max() >= self.info.num_outputs)
            if outside or (known.size and known.min() < 0):
                raise self._fault(
                    number, "y.npy", f"must hold 0..{self.info.num_outputs - 1}, and -1 where a node is in no split"
                )
        elif np.isinf(y).any():
            raise self._fault(number, "y.npy", "must be finite, or NaN where a label is missing")
        return y

    def features(self, number: int, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.float32]:
        """Read some rows of a file of features of a part, and check them."""
        values = self.array(number, name)[rows]
        if not np.isfinite(values).all():
            raise self._fault(number, name, "must be finite")
        return values

    def _graph(self, parts: Sequence[int]) -> tuple[Graph, Tensor | None]:
        """Merge the blocks between parts; edges and features are sorted by (destination, source)."""
        counts = np.array([self.manifest.parts[number].nodes for number in parts], np.int64)
        offsets = np.cumsum([0, *counts])
        merged = [self.incoming(number, parts, counts, offsets) for number in parts]
        degree = together([degree for degree, _, _ in merged])
        indices = together([indices for _, indices, _ in merged])
        attributes = []
        if self.info.edge_channels is not None:
            numbered = zip(parts, merged, strict=True)
            attributes = [self.features(number, "edge_attr.npy", rows) for number, (_, _, rows) in numbered]
        dtype = torch.int32 if max(degree.numel(), indices.numel()) < _INT32_MAX else torch.int64
        indptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        graph = Graph(num_nodes=degree.numel(), indptr=indptr.to(dtype), indices=indices.to(dtype))
        return graph, together(attributes) if attributes else None

    def incoming(
        self, number: int, parts: Sequence[int], counts: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.integer], NDArray[np.int64]]:
        """Read the edges into one part from some parts, sorted by (destination, source).

        Args:
            number: the part.
            parts: numbers of parts, ascending.
            counts, offsets: nodes of each of these parts, and the number of its first node in the result.
        Returns: degree of each row; source of each edge; row of each edge in the files of the part.
        """
        nodes = self.manifest.parts[number].nodes
        starts, lengths = self._blocks(number, parts)
        block = np.repeat(np.arange(len(parts)), lengths)
        rows = np.arange(len(block)) + (starts - (np.cumsum(lengths) - lengths))[block]
        src, dst = self._ends(number, rows, block, counts, nodes)
        # Edges of a block stand by (destination, source), and blocks by source: the stable order by destination (a
        # radix sort, where 16 bits hold the rows of a part) is that of all of them.
        order = np.argsort(dst.astype(np.min_scalar_type(nodes)), kind="stable")
        # int32 holds the rows of most batches; a larger batch uses int64.
        indices: NDArray[np.integer] = (src + offsets[block])[order].astype(
            np.int32 if offsets[-1] < _INT32_MAX else np.int64
        )
        degree: NDArray[np.int64] = np.bincount(dst, minlength=nodes)
        return degree, indices, rows[order]

    def _blocks(self, number: int, parts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the start and the number of the edges from each of some parts."""
        ptr = self.array(number, "block_ptr.npy")
        if ptr[0] != 0 or ptr[-1] != self.manifest.parts[number].edges or (np.diff(ptr) < 0).any():
            raise self._fault(number, "block_ptr.npy", f"must ascend from 0 to {self.manifest.parts[number].edges}")
        chosen = np.asarray(parts)
        return ptr[chosen], ptr[chosen + 1] - ptr[chosen]

    def _ends(
        self,
        number: int,
        rows: NDArray[np.int64],
        block: NDArray[np.int64],
        counts: NDArray[np.int64],
        nodes: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Read and check sources and destinations of the edges of some blocks."""
        src, dst = self.array(number, "src.npy")[rows], self.array(number, "dst.npy")[rows]
        for name, values, end in (("src.npy", src, counts[block]), ("dst.npy", dst, np.broadcast_to(nodes, dst.shape))):
            outside = (values < 0) | (values >= end)
            if outside.any():
                at = int(outside.argmax())
                raise self._fault(number, name, f"must lie in 0..{end[at] - 1} in row {rows[at]}, got {values[at]}")
        later, before = (block[1:], dst[1:], src[1:]), (block[:-1], dst[:-1], src[:-1])
        falls = (later[1] < before[1]) | ((later[1] == before[1]) & (later[2] < before[2]))
        if (falls & (later[0] == before[0])).any():
            raise self._fault(number, "dst.npy", "must ascend within a block, and src.npy within a destination")
        return src, dst

    def _fault(self, number: int, name: str, rule: str) -> StoreError:
        return StoreError(f"{part_folder(self.folder, number) / name} {rule}; prepare the graph again")


def together(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    """Concatenate arrays into memory that torch allocates, so that memory measurements include it."""
    first = arrays[0]
    rows = sum(len(array) for array in arrays)
    out = empty((rows, *first.shape[1:]), torch.from_numpy(np.empty(0, first.dtype)).dtype)
    np.concatenate(arrays, out=out.numpy())
    return out
