"""Reads a user's graph from two tables, nodes.parquet and edges.parquet, into memory.

Ids (integers or strings) are mapped to row numbers. All faults of both files are reported together, each with file,
column, first bad row and number of bad rows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ..batch import SPLITS
from ..dataset import Dataset
from ..info import Feature, GraphInfo
from .parquet import Faults, ParquetTable, is_null, is_numeric

_logger = logging.getLogger(__name__)

NODES, EDGES = "nodes.parquet", "edges.parquet"
_Labels = tuple[NDArray[np.int64], tuple[str, ...] | None, int]
"""The class of every node (-1: null), the names of the classes, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of the two tables."""

    id: str = "id"
    """Of nodes: an integer or a string, each once."""
    label: str | None = "label"
    """Of nodes: the class, an integer or a string; null is allowed where ``split`` is null. ``None``: nothing is known
    of the nodes, which can be predicted and not learned from; then ``split`` is ``None`` too."""
    split: str | None = "split"
    """Of nodes: ``train``, ``valid`` or ``test``; null: in none of them."""
    features: tuple[str, ...] | None = None
    """Of nodes: columns of numbers, or of lists of numbers, side by side in this order; ``None``: ``x`` where there is
    such a column, else every numeric column that has no other use."""
    src: str = "src"
    """Of edges: the id that messages come from."""
    dst: str = "dst"
    """Of edges: the id that they go to."""
    edge_features: tuple[str, ...] | None = None
    """Of edges: likewise columns of numbers; ``None``: ``edge_attr`` where there is such a column, else none."""

    def __post_init__(self) -> None:
        if (self.label is None) != (self.split is None):
            raise ValueError("columns.label and columns.split go together: name both, or neither")


def readable_columns(folder: Path, columns: Columns) -> Columns:
    """Give the columns without label and split where the nodes in a folder lack one of them, or have nothing in it."""
    path = folder / NODES
    wanted = [name for name in (columns.label, columns.split) if name is not None]
    try:
        there = path.is_file() and set(wanted) <= set(pq.read_schema(path).names)
        if there and all(column.null_count < len(column) for column in pq.read_table(path, columns=wanted).columns):
            return columns
    except (pa.ArrowException, OSError):
        # `read_tables` reports unreadable files with all other faults.
        return columns
    return replace(columns, label=None, split=None)


def read_tables(folder: Path, columns: Columns) -> Dataset:
    """Read nodes.parquet and edges.parquet into a node classification data set.

    Edges stay as they are: directed, with their repeats. Labels that are not already 0..T-1 are numbered in ascending
    order, and their names kept.

    Args:
        folder: holds the two files.
        columns: what their columns are called.
    Returns: the data set, nodes in the order of the file.
    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: listing every fault of both files.
    Cost: one pass over each file, which must fit in memory; one hash table of the ids.
    """
    missing = [name for name in (NODES, EDGES) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{' and '.join(missing)} not found in {folder}; a graph of your own is a folder with {NODES} and {EDGES}, "
            "named by dataset.path (absolute, or below --data-root)"
        )
    faults = Faults()
    nodes, edges = ParquetTable(folder / NODES, faults), ParquetTable(folder / EDGES, faults)
    features, edge_features = _node_features(nodes, columns, faults), _edge_features(edges, columns)
    nodes.load([columns.id, *filter(None, (columns.label, columns.split)), *features])
    edges.load([columns.src, columns.dst, *edge_features])
    ids = _ids(nodes, columns.id, faults)
    splits = np.full(nodes.num_rows, -1, np.int64)
    labels: _Labels | None = splits, None, 0
    if columns.label is not None and columns.split is not None:
        splits = _splits(nodes, columns.split, faults)
        labels = _labels(nodes, columns.label, splits, faults)
    (x, widths), (edge_attr, edge_widths) = _side_by_side(nodes, features), _side_by_side(edges, edge_features)
    src, dst = (_positions(edges, name, ids, faults) for name in (columns.src, columns.dst))
    faults.raise_if_any(folder)
    if x is None or labels is None or src is None or dst is None:
        raise AssertionError("what could not be read is a fault, and faults were raised")
    _logger.info("%s: node features from %s, edge features from %s", folder, features, edge_features or "none")
    y, class_names, num_classes = labels
    return Dataset(
        info=GraphInfo(
            name=folder.name,
            num_outputs=num_classes,
            class_names=class_names,
            features=_named(features, widths),
            edge_features=_named(edge_features, edge_widths),
        ),
        x=torch.from_numpy(x),
        edge_index=torch.from_numpy(np.stack([src, dst])),
        edge_attr=None if edge_attr is None else torch.from_numpy(edge_attr),
        y=torch.from_numpy(y),
        splits={name: torch.from_numpy(np.flatnonzero(splits == number)) for number, name in enumerate(SPLITS)},
        node_ids=ids,
    )


def _named(names: list[str], widths: tuple[int, ...]) -> tuple[Feature, ...]:
    return tuple(Feature(name=name, width=width) for name, width in zip(names, widths, strict=True))


def _node_features(nodes: ParquetTable, columns: Columns, faults: Faults) -> list[str]:
    if columns.features is not None:
        chosen = list(columns.features)
    elif nodes.schema is None:
        return []
    elif "x" in nodes.schema.names:
        chosen = ["x"]
    else:
        # Where nothing is known of the nodes, columns by these names may still be there, full of nulls.
        used = {columns.id, columns.label or Columns.label, columns.split or Columns.split}
        chosen = [field.name for field in nodes.schema if field.name not in used and is_numeric(field.type)]
    if not chosen:
        faults.add(
            nodes.file, None, "has no column of features; add numbers called x, or name them in columns.features"
        )
    return chosen


def _edge_features(edges: ParquetTable, columns: Columns) -> list[str]:
    if columns.edge_features is not None:
        return list(columns.edge_features)
    return ["edge_attr"] if edges.schema is not None and "edge_attr" in edges.schema.names else []


def _ids(nodes: ParquetTable, name: str, faults: Faults) -> Any:
    ids = nodes.keys(name)
    if ids is None:
        return None
    first = pc.index_in(ids, value_set=ids).to_numpy(zero_copy_only=False)
    repeated = first != np.arange(len(ids))
    faults.add_rows(
        nodes.file, name, repeated, "with an id that an earlier row has; give every node one row", values=ids
    )
    return ids


def _positions(edges: ParquetTable, name: str, ids: Any, faults: Faults) -> NDArray[np.int64] | None:
    ends = edges.keys(name)
    if ends is None or ids is None:
        return None
    if ends.type != ids.type and len(ends):
        faults.add(edges.file, name, f"holds {ends.type}, but the ids of {NODES} are {ids.type}; make them the same")
        return None
    if not len(ends):
        return np.empty(0, np.int64)
    found = pc.index_in(ends, value_set=ids)
    text = f"with an id that {NODES} has not; add the node or drop the edge"
    if faults.add_rows(edges.file, name, is_null(found), text, values=ends):
        return None
    return np.array(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def _side_by_side(table: ParquetTable, names: list[str]) -> tuple[NDArray[np.float32] | None, tuple[int, ...]]:
    """Give columns as one matrix, and the width of each."""
    parts = [part for part in (table.numbers(name) for name in names) if part is not None]
    widths = tuple(part.shape[1] for part in parts)
    # A copy: Arrow's memory is read-only, which torch does not accept.
    return (np.concatenate(parts, axis=1) if parts and len(parts) == len(names) else None), widths


def _splits(nodes: ParquetTable, name: str, faults: Faults) -> NDArray[np.int64]:
    """Number the split of every node as in `SPLITS`; -1: in none."""
    nowhere = np.full(nodes.num_rows, -1, np.int64)
    column = nodes.column(name)
    if column is None:
        return nowhere
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        faults.add(nodes.file, name, f"holds {column.type}; write train, valid or test, or null for none of them")
        return nowhere
    found = pc.index_in(column, value_set=pa.array(SPLITS, column.type))
    unknown = is_null(found) & ~is_null(column)
    if faults.add_rows(nodes.file, name, unknown, "outside train, valid, test; rename or null them", values=column):
        return nowhere
    splits = np.array(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    if not (splits == 0).any():
        faults.add(nodes.file, name, "no row says train; at least one labelled node must")
    return splits


def _labels(nodes: ParquetTable, name: str, splits: NDArray[np.int64], faults: Faults) -> _Labels | None:
    """Number the classes."""
    column = nodes.column(name)
    if column is None:
        return None
    if pa.types.is_floating(column.type):
        column = _whole(nodes, name, column, faults)
        if column is None:
            return None
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    ):
        faults.add(nodes.file, name, f"holds {kind}; classes are integers or strings")
        return None
    without = is_null(column) & (splits >= 0)
    faults.add_rows(nodes.file, name, without, "in a split but without a label; label them or null their split")
    classes = sorted(pc.unique(column.drop_null()).to_pylist())
    if len(classes) < 2:
        faults.add(nodes.file, name, f"has {len(classes)} classes; classification needs at least 2")
        return None
    found = pc.fill_null(pc.index_in(column, value_set=pa.array(classes, kind), skip_nulls=True), -1)
    y = np.array(found.to_numpy(zero_copy_only=False), dtype=np.int64)
    numbered = pa.types.is_integer(kind) and classes == list(range(len(classes)))
    return y, None if numbered else tuple(str(value) for value in classes), len(classes)


def _whole(nodes: ParquetTable, name: str, column: Any, faults: Faults) -> Any:
    """Take integers that were widened to floats because some are missing; NaN is missing."""
    values = column.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    broken = ~missing & ((values != np.round(values)) | (np.abs(values) >= 2.0**53))
    if faults.add_rows(nodes.file, name, broken, "that are not whole; classes are integers or strings", values=values):
        return None
    return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
