"""Read an engine's output one part at a time, count faulty rows, and sort nodes and edges.

Rows arrive in any order and leave sorted: nodes by id, edges by the indices of their ends, repeats by file and row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..ondisk.part import edge_keys
from ..readers.parquet import Faults, is_null
from ..task import SPLITS
from .columns import Checks
from .engine import Engine

TWICE = "with an id that an earlier row has; give every node one row, or --drop-duplicate-nodes"
ELSEWHERE = "with an id that another part has too; give every node one part"
UNKNOWN = "with an id that the nodes do not have; add the node, or --drop-bad-edges"


@dataclass
class RowCounts:
    """Counts the rows that fail each check: (file, check) -> number of rows, the first row, its value."""

    checks: Checks
    found: dict[tuple[int, int], tuple[int, int, object]] = field(default_factory=dict)

    def add(
        self, check: int, files: NDArray[np.integer], rows: NDArray[np.integer], values: pa.Array | None = None
    ) -> None:
        """Count rows that fail a check.

        Args:
            check: number of the check.
            files: [n] index of each row's file.
            rows: [n] row numbers in the files.
            values: [n] Arrow array of values, of which the first is reported.
        """
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            first = here[rows[here].argmin()]
            value = None if values is None else values[int(first)].as_py()
            count, row, quoted = self.found.get((int(file), check), (0, 2**63, None))
            if rows[first] < row:
                row, quoted = int(rows[first]), value
            self.found[int(file), check] = count + len(here), row, quoted

    def add_bad(self, table: pa.Table) -> None:
        """Count the failed checks in the column ``bad``."""
        bad = table.column("bad").combine_chunks()
        owner = pc.list_parent_indices(bad).to_numpy(zero_copy_only=False)
        checks = pc.list_flatten(bad).to_numpy(zero_copy_only=False)
        files, rows = (np.asarray(table.column(name))[owner] for name in ("file", "row"))
        for check in np.unique(checks):
            self.add(int(check), files[checks == check], rows[checks == check])

    def report(self, names: Sequence[str], faults: Faults, *, without: frozenset[str]) -> None:
        """Report all faults, except the checks with texts in ``without``, whose rows are dropped."""
        for (file, check), (count, row, value) in sorted(self.found.items()):
            column, text = self.checks.known[check]
            if text not in without:
                faults.add_count(names[file], column or None, count, row, text, value=value)


@dataclass
class NodeParts:
    """Reads the nodes that an engine wrote, part by part, sorted and without dropped rows."""

    engine: Engine
    folder: Path
    num_parts: int
    key: str
    """Name of the column of ids, for messages."""
    row_faults: RowCounts
    drop_faulty: bool
    dropped: Counter[str]
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    num_nodes: int = 0
    kept: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    """Part -> positions of its nodes among the rows that the engine returns, in the order of the ids."""

    def add_faulty(self, table: pa.Table) -> None:
        """Count nodes that are in no part."""
        self.row_faults.add_bad(table)
        if self.drop_faulty:
            self.dropped["bad_nodes"] += len(table)

    def place(self, out: Path) -> None:
        """Check every node, and write (id, part, index in the part) to a file per part.

        Faulty nodes are included unless they are dropped, so that their edges are not reported too.
        """
        out.mkdir()
        for part in range(self.num_parts):
            table = self.engine.read_part(self.folder, part, ["id", "file", "row", "split", "bad"])
            if table is None:
                continue
            self.row_faults.add_bad(table)
            self.kept[part] = kept = self._kept(table)
            split = np.asarray(table.column("split"))[kept]
            for code, name in enumerate(SPLITS):
                self.splits[name] += int((split == code).sum())
            self.num_nodes += len(kept)
            if len(kept):
                placed = table.select(["id", "file", "row"]).combine_chunks().take(pa.array(kept))
                placed = placed.append_column("part", pa.array(np.full(len(kept), part, np.int32)))
                placed = placed.append_column("place", pa.array(np.arange(len(kept), dtype=np.int32)))
                pq.write_table(placed, out / f"{part:05d}.parquet", use_dictionary=False, compression="none")

    def read(self, part: int) -> pa.Table | None:
        """Return the nodes of a part in order: id, x, y, split; ``None``: the part is empty."""
        table = self.engine.read_part(self.folder, part, ["id", "x", "y", "split"])
        return None if table is None else table.combine_chunks().take(pa.array(self.kept[part]))

    def _kept(self, table: pa.Table) -> NDArray[np.int32]:
        """Return the positions of the rows that become nodes, by id, the first row of each; count the others."""
        files, rows = (np.asarray(table.column(name)) for name in ("file", "row"))
        order = np.lexsort((rows, files))
        if self.drop_faulty:
            good = np.asarray(pc.list_value_length(table.column("bad"))) == 0
            self.dropped["bad_nodes"] += int((~good).sum())
            order = order[good[order]]
        ids = table.column("id").combine_chunks()
        # Arrow's sort is stable: rows of the same id stay in the order of files and rows.
        order = order[np.asarray(pc.array_sort_indices(ids.take(pa.array(order))))]
        ids = ids.take(pa.array(order))
        again = np.zeros(len(ids), bool)
        if len(ids):
            again[1:] = np.asarray(pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False), dtype=bool)
        if again.any():
            check = self.row_faults.checks.number(self.key, TWICE)
            self.row_faults.add(check, files[order[again]], rows[order[again]], ids.filter(pa.array(again)))
            self.dropped["duplicate_nodes"] += int(again.sum())
        kept: NDArray[np.int32] = order[~again].astype(np.int32)
        return kept


@dataclass(frozen=True)
class Edges:
    """The edges into one part, in any order."""

    src_part: NDArray[np.int32]
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    edge_attr: NDArray[np.float32] | None

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Edges:
        """Return the edges at some positions."""
        attr = None if self.edge_attr is None else self.edge_attr[rows]
        return Edges(self.src_part[rows], self.src[rows], self.dst[rows], attr)


def read_edges(engine: Engine, folders: Sequence[Path], part: int, width: int) -> Edges:
    """Read the edges into one part; those with features in the order of folders, files and rows.

    Args:
        engine: the engine that wrote the folders.
        folders: the output of `Engine.split_edges`, and that of `Engine.reverse_edges` for an undirected graph.
        part: number of the part.
        width: K; 0: no edge features. Edges that are equal in all columns need no order.
    """
    names = ["src_part", "src_place", "dst_place", *(["edge_attr", "file", "row"] if width else [])]
    found = []
    for folder in folders:
        table = engine.read_part(folder, part, names)
        if table is None:
            continue
        src_part, src, dst = (np.asarray(table.column(name)) for name in names[:3])
        edges = Edges(src_part, src, dst, matrix(table.column("edge_attr"), width) if width else None)
        if width:
            edges = edges.take(np.lexsort([np.asarray(table.column(name)) for name in ("row", "file")]))
        found.append(edges)
    return _joined(found, width)


def without_repeats(edges: Edges) -> Edges:
    """Return the first of all edges with the same ends, in any order."""
    return edges.take(np.unique(edge_keys(edges.src_part, edges.src, edges.dst)[0], return_index=True)[1])


def with_self_loops(edges: Edges, part: int, nodes: int) -> tuple[Edges, int]:
    """Replace the self loops of a part by exactly one per node.

    Args:
        edges: edges without features.
        part: number of the part.
        nodes: number of its nodes.
    Returns: the edges, and the number of self loops that were replaced.
    """
    others = np.flatnonzero((edges.src_part != part) | (edges.src != edges.dst))
    own = np.arange(nodes, dtype=np.int32)
    loops = Edges(np.full(nodes, part, np.int32), own, own, None)
    return _joined([edges.take(others), loops], 0), len(edges.src) - len(others)


@dataclass
class FaultyEdges:
    """Counts faulty edges, and the checks that they fail."""

    row_faults: RowCounts
    ends: tuple[str, str]
    """Names of the columns of sources and destinations."""
    count: int = 0

    def add(self, table: pa.Table) -> None:
        """Count faulty edges of `Engine.split_edges`."""
        self.count += len(table)
        self.row_faults.add_bad(table)
        files, rows = (np.asarray(table.column(name)) for name in ("file", "row"))
        for end, column in zip(("src", "dst"), self.ends, strict=True):
            ids = table.column(end).combine_chunks()
            unknown = is_null(table.column(f"{end}_part").combine_chunks()) & ~is_null(ids)
            if unknown.any():
                check = self.row_faults.checks.number(column, UNKNOWN)
                self.row_faults.add(check, files[unknown], rows[unknown], ids.filter(pa.array(unknown)))


def matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """Convert a column of lists of fixed size to [rows, width]."""
    lists = column.combine_chunks()
    return np.asarray(lists.flatten()).reshape(len(lists), width).astype(np.float32, copy=False)


def _joined(edges: Sequence[Edges], width: int) -> Edges:
    none = np.empty(0, np.int32)
    every = [Edges(none, none, none, np.empty((0, width), np.float32) if width else None), *edges]
    attr = [one.edge_attr for one in every if one.edge_attr is not None]
    return Edges(
        np.concatenate([one.src_part for one in every]),
        np.concatenate([one.src for one in every]),
        np.concatenate([one.dst for one in every]),
        np.concatenate(attr) if attr else None,
    )
