"""A prepared graph on disk: opened without reading it, its parts mapped into memory when they are wanted.

``manifest.json`` beside ``parts/00000/`` and so on. Nodes are numbered so that those of a part stand together: node
number = first number of the part + row. Nothing that the folder says is believed before it is checked: sizes when it is
opened, types when an array is mapped, hashes when a part is first read, and edges when a batch is put together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...files import sync
from ...graph import Graph
from ..batch import SPLITS, Batch
from ..dataset import Dataset
from ..info import GraphInfo
from .manifest import MANIFEST, Manifest, StoreError, read_manifest
from .part import check_hash, check_size, file_names, map_array, part_folder, read_ids

_INT32_MAX = 2**31 - 1


@contextmanager
def new_store(out: Path) -> Iterator[Path]:
    """Give a folder to write a graph into; it becomes ``out`` when all is well, and vanishes when not.

    Write parts into it with `part.write_part`, then the manifest with `manifest.write_manifest`.

    Args:
        out: does not exist yet, or is an empty folder.
    Raises:
        FileExistsError: something stands there.
        StoreError: what was written is no whole graph.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise FileExistsError(f"{out} exists already; remove it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".writing-{out.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        Store.open(temporary)
        for folder in (*(temporary / "parts").iterdir(), temporary / "parts", temporary):
            sync(folder)
        os.replace(temporary, out)
        sync(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def is_store(folder: Path) -> bool:
    """Whether a folder says of itself that it is a prepared graph."""
    return (folder / MANIFEST).is_file()


class Store:
    """A prepared graph of P parts; it has the `info` of a `Dataset`, and holds none of its arrays.

    Args:
        folder: holds the manifest and the parts.
        manifest: of the folder, checked.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._checked: set[int] = set()

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Read the manifest, and look at the size of every file.

        Raises:
            FileNotFoundError: the folder is no prepared graph.
            StoreError: the manifest is not valid, or a file is missing or of another size.
        Cost: one question to the file system for each file.
        """
        store = cls(folder, read_manifest(folder))
        names = file_names(store.manifest)
        for number, part in enumerate(store.manifest.parts):
            if set(part.files) != names:
                raise StoreError(
                    f"{folder / MANIFEST}: parts[{number}] must have the files {', '.join(sorted(names))}, got "
                    f"{', '.join(map(repr, sorted(part.files)))[:200]}"
                )
            for name, facts in part.files.items():
                check_size(part_folder(folder, number) / name, facts)
        return store

    # ------------------------------------------------------------------ what it is
    @property
    def info(self) -> GraphInfo:
        """What is known of it without its arrays."""
        return self.manifest.info

    def judged_by(self, metric: str) -> Store:
        """Give the same graph with another metric."""
        return Store(self.folder, replace(self.manifest, info=replace(self.info, metric=metric)))

    @property
    def name(self) -> str:
        """How reports call it."""
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
        """Map an array of a part; the first time that a part is asked for, its bytes are compared with their hashes.

        Args:
            number: of the part.
            name: a key of `part.ARRAYS` that the graph has.
        Raises: StoreError: the file is not what the manifest says.
        """
        self._check(number)
        return map_array(self.folder, self.manifest, number, name)

    def ids(self, number: int) -> Any:
        """Read the user's own ids of a part as one Arrow array, in the order of its rows."""
        self._check(number)
        return read_ids(self.folder, self.manifest, number)

    def batch(self, parts: Sequence[int], *, with_ids: bool = True) -> Batch:
        """Put parts together: their nodes, and every edge between two of them.

        Args:
            parts: numbers, ascending, each once; nodes come in this order.
            with_ids: whether the batch says which node each row is.
        Returns: the induced subgraph with features, labels and splits.
        Raises: StoreError: a file is damaged.
        Cost: reads the nodes of the parts and the blocks of edges between them, and nothing else; a stable sort of each
            part's edges, which come in ordered runs.
        """
        split = _together([self._splits(number) for number in parts])
        y = _together([self._labels(number) for number in parts])
        x = _together([self._features(number, "x.npy") for number in parts])
        graph, edge_attr = self._graph(parts)
        ids = [np.arange(self.starts[number], self.starts[number + 1]) for number in parts]
        return Batch(
            x=x,
            graph=graph,
            edge_attr=edge_attr,
            y=y,
            rows={name: (split == code).nonzero()[:, 0] for code, name in enumerate(SPLITS)},
            ids=_together(ids) if with_ids else None,
        )

    def has_split(self, parts: Sequence[int], split: str) -> bool:
        """Whether some node of these parts is in a split."""
        return any(bool((self._splits(number) == SPLITS.index(split)).any()) for number in parts)

    def load(self) -> Dataset:
        """Read all of it into memory.

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

    def _splits(self, number: int) -> NDArray[np.int8]:
        split = self.array(number, "split.npy")
        if split.size and not (split.min() >= -1 and split.max() < len(SPLITS)):
            raise self._fault(number, "split.npy", f"must hold -1..{len(SPLITS) - 1}")
        return split

    def _labels(self, number: int) -> NDArray[Any]:
        y = self.array(number, "y.npy")
        if self.info.task_spec.has_classes:
            known = y[self._splits(number) >= 0]
            outside = y.size and (y.min() < -1 or y.max() >= self.info.num_outputs)
            if outside or (known.size and known.min() < 0):
                raise self._fault(
                    number, "y.npy", f"must hold 0..{self.info.num_outputs - 1}, and -1 where a node is in no split"
                )
        elif np.isinf(y).any():
            raise self._fault(number, "y.npy", "must be finite, or NaN where a label is missing")
        return y

    def _features(self, number: int, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.float32]:
        values = self.array(number, name)[rows]
        if not np.isfinite(values).all():
            raise self._fault(number, name, "must be finite")
        return values

    def _graph(self, parts: Sequence[int]) -> tuple[Graph, Tensor | None]:
        """Merge the blocks between parts; edges come by (destination, source), features following."""
        counts = np.array([self.manifest.parts[number].nodes for number in parts], np.int64)
        offsets = np.cumsum([0, *counts])
        merged = [self._incoming(number, parts, counts, offsets) for number in parts]
        degree = _together([degree for degree, _, _ in merged])
        indices = _together([indices for _, indices, _ in merged])
        attributes = [edge_attr for _, _, edge_attr in merged if edge_attr is not None]
        dtype = torch.int32 if max(degree.numel(), indices.numel()) < _INT32_MAX else torch.int64
        indptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        graph = Graph(num_nodes=degree.numel(), indptr=indptr.to(dtype), indices=indices.to(dtype))
        return graph, _together(attributes) if attributes else None

    def _incoming(
        self, number: int, parts: Sequence[int], counts: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float32] | None]:
        """Give the edges into one part from some: degree of each row, sources in the batch, features of edges."""
        nodes = self.manifest.parts[number].nodes
        starts, lengths = self._blocks(number, parts)
        block = np.repeat(np.arange(len(parts)), lengths)
        rows = np.arange(len(block)) + (starts - (np.cumsum(lengths) - lengths))[block]
        src, dst = self._ends(number, rows, block, counts, nodes)
        # Edges of a block stand by (destination, source), and blocks by source: the stable order by destination (a
        # radix sort, where 16 bits hold the rows of a part) is that of all of them.
        order = np.argsort(dst.astype(np.min_scalar_type(nodes)), kind="stable")
        # int32 holds the rows of any batch that fits in memory; a larger one has int64.
        indices = (src + offsets[block])[order].astype(np.int32 if offsets[-1] < _INT32_MAX else np.int64)
        degree: NDArray[np.int64] = np.bincount(dst, minlength=nodes)
        edge_attr = None if self.info.edge_channels is None else self._features(number, "edge_attr.npy", rows[order])
        return degree, indices, edge_attr

    def _blocks(self, number: int, parts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the edges from each of some parts begin, and how many they are."""
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
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Read the two ends of edges, of which each belongs to a block, and check them."""
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


def _together(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Copy arrays one below the other into memory that torch allocates, and so counts."""
    first = arrays[0]
    rows = sum(len(array) for array in arrays)
    out = torch.empty((rows, *first.shape[1:]), dtype=torch.from_numpy(np.empty(0, first.dtype)).dtype)
    np.concatenate(arrays, out=out.numpy())
    return out
