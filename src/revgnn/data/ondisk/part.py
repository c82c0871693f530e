"""Writes and memory-maps the files of one part of a prepared graph.

A part contains some nodes and every edge into them. Its edges are grouped into blocks by the part of their source, so
that any parts can be combined by reading only the blocks between them. All arrays are plain ``.npy`` files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...files import DAMAGED_ARRAY, sha256_of
from .manifest import FileFacts, Manifest, PartFacts, StoreError

IDS = "ids.parquet"
_PARTS = "parts"


@dataclass(frozen=True)
class ArrayFile:
    """Expected dtype and shape of an array file of a part."""

    name: str
    dtype: Callable[[Manifest], np.dtype[np.generic]]
    shape: Callable[[Manifest, PartFacts], tuple[int, ...]]
    present: Callable[[Manifest], bool] = lambda manifest: True


ARRAYS = {
    array.name: array
    for array in (
        ArrayFile("x.npy", lambda m: np.dtype("<f4"), lambda m, p: (p.nodes, m.info.in_channels)),
        ArrayFile(
            "y.npy",
            lambda m: np.dtype("<i8" if m.info.task_spec.has_classes else "<f4"),
            lambda m, p: m.info.task_spec.label_shape(p.nodes, m.info.num_outputs),
        ),
        ArrayFile("split.npy", lambda m: np.dtype("i1"), lambda m, p: (p.nodes,)),
        ArrayFile("block_ptr.npy", lambda m: np.dtype("<i8"), lambda m, p: (m.num_parts + 1,)),
        ArrayFile("src.npy", lambda m: np.dtype("<i4"), lambda m, p: (p.edges,)),
        ArrayFile("dst.npy", lambda m: np.dtype("<i4"), lambda m, p: (p.edges,)),
        ArrayFile(
            "edge_attr.npy",
            lambda m: np.dtype("<f4"),
            lambda m, p: (p.edges, m.info.edge_channels or 0),
            lambda m: bool(m.info.edge_features),
        ),
    )
}
"""File name -> expected contents."""


def file_names(manifest: Manifest) -> set[str]:
    """Return the file names of every part of a graph."""
    return {IDS} | {array.name for array in ARRAYS.values() if array.present(manifest)}


def part_folder(folder: Path, number: int) -> Path:
    """Return the folder of a part, which depends on its number only."""
    return folder / _PARTS / f"{number:05d}"


@dataclass(frozen=True, kw_only=True, eq=False)
class PartArrays:
    """The rows of a part, and the edges into them in any order."""

    ids: pa.Array
    """[n] the user's own ids, integers or strings, in the order of the rows."""
    x: NDArray[np.float32]
    """[n, F] finite."""
    y: NDArray[np.int64] | NDArray[np.float32]
    """[n] int64, -1 where unknown; or [n, T] float32, NaN where missing."""
    split: NDArray[np.int8]
    """[n]: 0 train, 1 valid, 2 test, -1 none."""
    src_part: NDArray[np.integer]
    """[e] the part of each edge's source."""
    src: NDArray[np.integer]
    """[e] the row of the source in its part."""
    dst: NDArray[np.integer]
    """[e] the row of the destination in this part."""
    edge_attr: NDArray[np.float32] | None = None
    """[e, K] finite; ``None``: edges have no features."""


def write_part(folder: Path, number: int, part: PartArrays, *, num_parts: int) -> PartFacts:
    """Write one part.

    Args:
        folder: the graph's folder, from `new_store`.
        number: the part's number, in ``0..num_parts-1``.
        part: its arrays.
        num_parts: P.
    Returns: the facts for the manifest.
    Raises: ValueError: an array has another shape or type, or numbers are out of range.
    Cost: one stable sort of e keys, and a read of the written files for their hashes. Parts are independent, so several
        processes may write them.
    """
    x, y, src, dst, edge_attr = part.x, part.y, part.src, part.dst, part.edge_attr
    nodes, edges = len(x), len(dst)
    _check_rows(number, nodes, ids=part.ids, y=y, split=part.split)
    _check_rows(
        number, edges, "edge", src_part=part.src_part, src=src, edge_attr=dst if edge_attr is None else edge_attr
    )
    if edges:
        for name, values, end in (("src_part", part.src_part, num_parts), ("dst", dst, nodes), ("src", src, 2**31)):
            if values.min() < 0 or values.max() >= end:
                raise ValueError(f"part {number}: {name} must lie in 0..{end - 1}, got {values.min()}..{values.max()}")
    if not np.isfinite(x).all() or not (edge_attr is None or np.isfinite(edge_attr).all()):
        raise ValueError(f"part {number}: features must be finite; fill or drop what is not")
    src, dst, edge_attr = _sorted_edges(part.src_part, src, dst, edge_attr)
    block_ptr = np.zeros(num_parts + 1, np.int64)
    np.cumsum(np.bincount(part.src_part, minlength=num_parts), out=block_ptr[1:])
    arrays = {
        "x.npy": x.astype("<f4", copy=False),
        "y.npy": y,
        "split.npy": part.split.astype("i1", copy=False),
        "block_ptr.npy": block_ptr,
        "src.npy": src.astype("<i4", copy=False),
        "dst.npy": dst.astype("<i4", copy=False),
    }
    if edge_attr is not None:
        arrays["edge_attr.npy"] = edge_attr.astype("<f4", copy=False)
    place = part_folder(folder, number)
    place.mkdir(parents=True)
    files = {name: _write_array(place / name, array) for name, array in arrays.items()}
    pq.write_table(pa.table({"id": part.ids}), place / IDS)
    files[IDS] = _facts(place / IDS)
    return PartFacts(nodes=nodes, edges=edges, files=files)


def map_array(folder: Path, manifest: Manifest, number: int, name: str) -> NDArray[Any]:
    """Memory-map an array of a part, read-only.

    Raises: StoreError: the file does not match the manifest; checked before any allocation.
    """
    facts, array = manifest.parts[number], ARRAYS[name]
    path = part_folder(folder, number) / name
    dtype, shape = array.dtype(manifest), array.shape(manifest, facts)
    check_size(path, facts.files[name])
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise StoreError(f"{path} is .npy of version {version}; prepared graphs have version (1, 0)")
            got_shape, by_columns, got_dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
    except StoreError:
        raise
    except DAMAGED_ARRAY as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if got_dtype != dtype or got_shape != shape or (by_columns and len(shape) > 1):
        raise StoreError(f"{path} must hold {dtype} {list(shape)} row by row, got {got_dtype} {list(got_shape)}")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if facts.files[name].bytes != start + size:
        raise StoreError(f"{path} has {facts.files[name].bytes} bytes, where its array asks for {start + size}")
    if not size:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=start, shape=shape)


def read_ids(folder: Path, manifest: Manifest, number: int) -> pa.Array:
    """Read the user's ids of a part as one Arrow array.

    Raises: StoreError: the file does not match the manifest.
    """
    path, facts = part_folder(folder, number) / IDS, manifest.parts[number]
    check_size(path, facts.files[IDS])
    try:
        rows = pq.read_metadata(path).num_rows
        if rows != facts.nodes or pq.read_schema(path).names != ["id"]:
            raise StoreError(f"{path} must hold one column id of {facts.nodes} rows, got {rows} rows")
        column = pq.read_table(path, columns=["id"]).column("id").combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise StoreError(f"{path} must hold integers or strings, got {kind}")
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1 else column


def check_size(path: Path, facts: FileFacts) -> None:
    """Check that a file exists, is not a link, and has the size in the manifest."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        raise StoreError(f"{path} must be a plain file; it is missing, a link or a folder")
    size = path.stat().st_size
    if size != facts.bytes:
        raise StoreError(f"{path} has {size} bytes where the manifest says {facts.bytes}; prepare the graph again")


def check_hash(path: Path, facts: FileFacts) -> None:
    """Check the hash of a file."""
    check_size(path, facts)
    if sha256_of(path) != facts.sha256:
        raise StoreError(f"{path} does not match its checksum; prepare the graph again")


def _check_rows(number: int, rows: int, what: str = "node", **columns: Sized) -> None:
    for name, values in columns.items():
        if len(values) != rows:
            raise ValueError(f"part {number}: {name} must have one row per {what}, {rows}, got {len(values)}")


def edge_keys(
    src_part: NDArray[np.integer], src: NDArray[np.integer], dst: NDArray[np.integer]
) -> tuple[NDArray[np.int64], int, int]:
    """Number edges: ascending by (part of the source, destination, source), equal for equal edges only.

    Args: [e] non-negative integers, as in `write_part`.
    Returns: [e] int64 numbers; how many of their lowest bits are ``src``; how many of the next bits are ``dst``. Both
        are 0 where 63 bits are too few, and the numbers are ranks.
    """
    part_bits, dst_bits, src_bits = (int(one.max(initial=0)).bit_length() for one in (src_part, dst, src))
    if part_bits + dst_bits + src_bits > 63:
        ranks: NDArray[np.int64] = np.unique(np.stack([src_part, dst, src]), axis=1, return_inverse=True)[1].reshape(-1)
        return ranks, 0, 0
    keys: NDArray[np.int64] = (src_part.astype(np.int64) << dst_bits | dst) << src_bits | src
    return keys, src_bits, dst_bits


def _sorted_edges(
    src_part: NDArray[np.integer],
    src: NDArray[np.integer],
    dst: NDArray[np.integer],
    edge_attr: NDArray[np.float32] | None,
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float32] | None]:
    """Sort edges by (part of the source, destination, source); repeats keep their order."""
    keys, src_bits, dst_bits = edge_keys(src_part, src, dst)
    if edge_attr is None and src_bits:
        # Repeats are alike, so the numbers alone are sorted, which is faster than finding their order.
        keys.sort()
        return keys & (1 << src_bits) - 1, keys >> src_bits & (1 << dst_bits) - 1, None
    order = np.argsort(keys, kind="stable")
    return src[order], dst[order], None if edge_attr is None else edge_attr[order]


def _write_array(path: Path, array: NDArray[np.generic]) -> FileFacts:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return _facts(path)


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileFacts(bytes=path.stat().st_size, sha256=sha256_of(path))
