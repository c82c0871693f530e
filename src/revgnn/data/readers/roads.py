"""Reads road networks; a node's label is its tenth of eccentricity, by road length within 16 hops.

The file is a list of roads with lengths; the labels follow from it by the rule of City-Networks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..dataset import Dataset
from ..info import GraphInfo
from ..prepare.columns import as_text
from ..prepare.csv_format import PLAIN, as_numbers
from ..prepare.inference import DESTINATIONS, SOURCES, WEIGHTS, named
from ..prepare.inputs import FORMATS, open_table, read_chunk
from .npz import read_npz
from .parquet import Faults

HOPS, CLASSES = 16, 10
LENGTHS = ("length", "distance", *WEIGHTS)
_EDGES = ("src", "dst", "length")

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def read_roads(path: Path) -> Dataset:
    """Read a road network and label it.

    A road leads both ways: the reverse of a road is added where it is missing, of parallel roads the shortest is kept,
    and a road from a node to itself is left out.

    Args:
        path: a table, one row a road: Parquet, Arrow or CSV with the two ends, named as those of edges are (``src`` and
            ``dst``, ``u`` and ``v``, ...), and ``length`` (or ``distance``, ``weight``; above 0). The ends are integers
            or texts. Or an ``.npz`` with the arrays ``src``, ``dst`` and ``length``; and, to spare their computation,
            ``ecc`` (N numbers, what `eccentricities` gives) and ``x`` (N x F, what `road_features` gives, or other
            features), in which case the ends number their rows.
    Returns: the network; nodes in the order of their ids, features standardised, a tenth of the nodes to train, a tenth
        to select, the others to test.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, lacks an array or a column, or has invalid roads.
    Cost: without ``ecc`` a shortest-path search per node, a minute or less for 100,000.
    Source: Liang et al. 2025 (arXiv:2503.09008).
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; name the folder below which it lies with --data-root")
    arrays = read_npz(path, _EDGES, ("x", "ecc")) if path.suffix == ".npz" else _read_table(path)
    given = next((len(arrays[name]) for name in ("x", "ecc") if name in arrays), None)
    roads = _both_ways(_numbered(path, arrays, given))
    nodes, src, dst, length = roads.num_nodes, roads.src, roads.dst, roads.length
    if nodes < CLASSES:
        raise ValueError(
            f"{path}: tenths of the nodes are predicted, so that {CLASSES} nodes are the fewest; got {nodes}"
        )
    ecc = arrays["ecc"] if "ecc" in arrays else eccentricities(src, dst, length, nodes)
    x = (arrays["x"] if "x" in arrays else road_features(src, length, nodes)).astype(np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    order = torch.from_numpy(np.random.RandomState(0).permutation(nodes))
    tenth = nodes // 10
    return Dataset(
        info=GraphInfo(name=path.name.partition(".")[0], num_outputs=CLASSES),
        x=torch.from_numpy(x.astype(np.float32)),
        edge_index=torch.from_numpy(np.stack([src, dst])),
        y=torch.from_numpy(equal_chunks(ecc, CLASSES)),
        splits={
            "train": order[:tenth].sort().values,
            "valid": order[tenth : 2 * tenth].sort().values,
            "test": order[2 * tenth :].sort().values,
        },
        node_ids=roads.ids,
    )


@dataclass(frozen=True)
class Roads:
    """Directed roads between numbered nodes."""

    num_nodes: int
    src: Integers
    dst: Integers
    length: Floats
    ids: pa.Array | None
    """[N] ids of the file; ``None``: they are the numbers."""


def _read_table(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the columns of a table as the arrays of an ``.npz``; ends are integers if all are, otherwise texts."""
    if not path.name.lower().endswith(tuple(FORMATS)):
        raise ValueError(f"{path} must be a table ({', '.join(FORMATS)}) or an .npz file")
    faults = Faults()
    table = open_table([path.name], path.parent, faults)
    faults.raise_if_any(path.parent)
    assert table is not None, "a table that cannot be read is a fault"
    src = named(table, SOURCES)
    dst = named(table, tuple(name for name in DESTINATIONS if name != src))
    length = named(table, LENGTHS)
    if src is None or dst is None or length is None:
        raise ValueError(
            f"{path} must have columns of a road's two ends, such as src and dst, and of its length; got "
            f"{', '.join(table.schema.names)}"
        )
    form, ends, lengths = table.csv or PLAIN, [], []
    try:
        for chunk in table.chunks:
            for _, batch in read_chunk(chunk, [src, dst, length]):
                ends.append(
                    np.stack([as_text(batch.column(name)).to_numpy(zero_copy_only=False) for name in (src, dst)])
                )
                lengths.append(as_numbers(as_text(batch.column(length)), form)[0])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}; fetch or write it again") from error
    both = np.concatenate(ends, axis=1) if ends else np.empty((2, 0), object)
    if any(end is None for end in both.flat):
        raise ValueError(f"{path}: every road must have two ends; some of {src} and {dst} are missing")
    return {"src": both[0], "dst": both[1], "length": np.concatenate(lengths) if lengths else np.empty(0)}


def _numbered(path: Path, arrays: dict[str, NDArray[np.generic]], num_nodes: int | None) -> Roads:
    """Check the roads, and number their ends from 0 in the order of their ids, if they are not rows of other arrays.

    Raises: ValueError: the arrays do not belong together, an end is no id, or a length is not above 0.
    """
    src, dst, length = (arrays[name] for name in _EDGES)
    if not src.shape == dst.shape == length.shape == (src.size,) or not src.size:
        raise ValueError(f"{path}: src, dst and length must be one for each of at least one road")
    try:
        lengths = length.astype(np.float32)
    except ValueError as error:
        raise ValueError(f"{path}: length must be numbers: {error}") from error
    if not (good := (lengths > 0) & np.isfinite(lengths)).all():
        raise ValueError(f"{path}: length must be a number above 0; that of road {int(np.argmin(good))} is not")
    ends = _as_ids(path, np.stack([src, dst]))
    if num_nodes is None:
        ids, numbers = np.unique(ends, return_inverse=True)
        one, other = numbers.reshape(2, -1).astype(np.int64)
        return Roads(len(ids), one, other, lengths, pa.array(ids.tolist()))
    if ends.dtype != np.int64 or ends.min() < 0 or ends.max() >= num_nodes:
        raise ValueError(f"{path}: src and dst must number the {num_nodes} rows of x and ecc, from 0")
    return Roads(num_nodes, ends[0], ends[1], lengths, None)


def _as_ids(path: Path, ends: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return ids as int64 where all are integers, and as texts otherwise."""
    if ends.dtype == object or ends.dtype.kind in "US":
        texts = ends.astype(str)
        try:
            numbers = texts.astype(np.int64)
        except (ValueError, OverflowError):
            return texts
        # 007 and 7 are two ids.
        return numbers if (numbers.astype(str) == texts).all() else texts
    numbers = ends.astype(np.int64)
    if ends.dtype.kind not in "iuf" or not (numbers == ends).all():
        raise ValueError(f"{path}: src and dst must be integers, got {ends.dtype}")
    return numbers


def _both_ways(roads: Roads) -> Roads:
    """Keep the shortest of the roads between two nodes, in both directions; roads that are so already stay in order."""
    src, dst, length = roads.src, roads.dst, roads.length
    there, back = src * roads.num_nodes + dst, dst * roads.num_nodes + src
    order, mirrored = np.argsort(there), np.argsort(back)
    is_so = (there[order] == back[mirrored]).all() and (length[order] == length[mirrored]).all()
    if is_so and (np.diff(there[order]) > 0).all() and (src != dst).all():
        return roads
    low, high = np.minimum(src, dst), np.maximum(src, dst)
    order = np.lexsort((length, high, low))
    low, high, length = low[order], high[order], length[order]
    kept = (low != high) & np.append(True, (np.diff(low) != 0) | (np.diff(high) != 0))
    low, high, length = low[kept], high[kept], length[kept]
    ends = np.concatenate([low, high]), np.concatenate([high, low])
    return Roads(roads.num_nodes, *ends, np.tile(length, 2), roads.ids)


def eccentricities(src: Integers, dst: Integers, length: Floats, num_nodes: int, hops: int = HOPS) -> Floats:
    """Find how far the farthest of the nodes within some hops is, by the roads between those nodes.

    ``e_i = max_j d_S(i, j)`` over S, the nodes that i reaches in at most ``hops`` steps, with d_S the length of the
    shortest path inside S.

    Args:
        src, dst, length: E directed edges, each with its reverse.
        num_nodes: N.
        hops: the radius of S.
    Returns: [N], in the unit of ``length``; 0 for a node without roads.
    """
    near: list[list[tuple[int, float]]] = [[] for _ in range(num_nodes)]
    for one, other, weight in zip(src.tolist(), dst.tolist(), length.tolist(), strict=True):
        near[one].append((other, weight))
    return np.array([_farthest(near, node, hops) for node in range(num_nodes)], np.float32)


def _farthest(near: list[list[tuple[int, float]]], start: int, hops: int) -> float:
    inside, front = {start}, {start}
    for _ in range(hops):
        front = {other for node in front for other, _ in near[node]} - inside
        inside |= front
    reached: set[int] = set()
    queue, distance = [(0.0, start)], 0.0
    while queue:
        so_far, node = heapq.heappop(queue)
        if node in reached:
            continue
        reached.add(node)
        distance = so_far
        for other, weight in near[node]:
            if other in inside and other not in reached:
                heapq.heappush(queue, (so_far + weight, other))
    return distance


def road_features(src: Integers, length: Floats, num_nodes: int) -> Floats:
    """Describe every node by its own roads: their number, mean and largest length; [N, 3]."""
    degree = np.bincount(src, minlength=num_nodes)
    total = np.bincount(src, weights=length, minlength=num_nodes)
    largest = np.zeros(num_nodes)
    np.maximum.at(largest, src, length)
    return np.stack([degree, total / np.maximum(degree, 1), largest], axis=1).astype(np.float32)


def equal_chunks(values: NDArray[np.generic], chunks: int) -> Integers:
    """Give each value the number of its chunk in ascending order, chunks of N // chunks + 1 values and a smaller last.

    Source: as City-Networks cuts its labels.
    """
    labels = np.empty(len(values), np.int64)
    labels[np.argsort(values, kind="stable")] = np.arange(len(values)) // (len(values) // chunks + 1)
    return labels
