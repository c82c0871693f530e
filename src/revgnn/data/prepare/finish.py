"""Read the engine's output one part at a time, count faulty rows, and sort nodes and edges.

Rows arrive in any order and leave sorted: nodes by id, edges by the indices of their ends, repeats by file and row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..batch import SPLITS
from ..readers.parquet import Faults, is_null
from .columns import Checks

TWICE = "with an id that an earlier row has; give every node one row, or --drop-duplicate-nodes"
ELSEWHERE = "with an id that another part has too; give every node one part"
UNKNOWN = "with an id that the nodes do not have; add the node, or --drop-bad-edges"


@dataclass
class RowCounts:
    """Counts the rows that fail each check: (file, check) -> number of rows, the first row, its value."""

    checks: Checks
    found: dict[tuple[int, int], tuple[int, int, Any]] = field(default_factory=dict)

    def add(self, check: int, files: NDArray[Any], rows: NDArray[Any], values: Any = None) -> None:
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


def read_part(folder: Path, part: int, columns: Sequence[str]) -> pa.Table | None:
    """Read the rows of one part; ``None``: the part is empty."""
    paths = sorted(folder.glob(f"part={part}/*.parquet"))
    tables = [pq.read_table(path, columns=list(columns), partitioning=None) for path in paths]
    return pa.concat_tables(tables) if tables else None


def read_faulty(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read the faulty rows, ``part=-1``, batch by batch."""
    for path in sorted(folder.glob("part=-1/*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(columns)):
                yield pa.Table.from_batches([batch])


@dataclass
class NodeParts:
    """Reads the nodes that the engine wrote, part by part, sorted and without dropped rows."""

    folder: Path
    num_parts: int
    key: str
    """Name of the column of ids, for messages."""
    row_faults: RowCounts
    drop_faulty: bool
    dropped: Counter[str]
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    num_nodes: int = 0

    def place(self, out: Path) -> None:
        """Check every node, and write (id, part, index in the part) to a file per part.

        Faulty nodes are included unless they are dropped, so that their edges are not reported too.
        """
        out.mkdir()
        for part in range(self.num_parts):
            table = read_part(self.folder, part, ["id", "file", "row", "split", "bad"])
            if table is None:
                continue
            self.row_faults.add_bad(table)
            kept = self._kept(table, count=True)
            ids, split = kept.column("id"), np.asarray(kept.column("split"))
            for code, name in enumerate(SPLITS):
                self.splits[name] += int((split == code).sum())
            self.num_nodes += len(ids)
            place = pa.array(np.arange(len(ids), dtype=np.int32))
            columns = {"id": ids, "part": pa.array(np.full(len(ids), part, np.int32)), "place": place}
            if len(ids):
                pq.write_table(
                    pa.table({**columns, "file": kept.column("file"), "row": kept.column("row")}),
                    out / f"{part:05d}.parquet",
                )
        for table in read_faulty(self.folder, ["file", "row", "bad"]):
            self.row_faults.add_bad(table)
            if self.drop_faulty:
                self.dropped["bad_nodes"] += len(table)

    def read(self, part: int) -> pa.Table | None:
        """Return the nodes of a part in order: id, x, y, split; ``None``: the part is empty."""
        table = read_part(self.folder, part, ["id", "file", "row", "split", "bad", "x", "y"])
        return None if table is None else self._kept(table, count=False)

    def _kept(self, table: pa.Table, *, count: bool) -> pa.Table:
        if self.drop_faulty:
            good = pc.equal(pc.list_value_length(table.column("bad")), 0)
            if count:
                self.dropped["bad_nodes"] += len(table) - (pc.sum(good).as_py() or 0)
            table = table.filter(good)
        keys = [(name, "ascending") for name in ("id", "file", "row")]
        order = pc.sort_indices(table.select(["id", "file", "row"]), sort_keys=keys)
        table = table.take(order)
        ids = table.column("id").combine_chunks()
        again = np.zeros(len(ids), bool)
        if len(ids):
            again[1:] = np.asarray(pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False), dtype=bool)
        if not again.any():
            return table
        if count:
            check = self.row_faults.checks.number(self.key, TWICE)
            files, rows = (np.asarray(table.column(name))[again] for name in ("file", "row"))
            self.row_faults.add(check, files, rows, ids.filter(pa.array(again)))
            self.dropped["duplicate_nodes"] += int(again.sum())
        return table.filter(pa.array(~again))


@dataclass(frozen=True)
class Edges:
    """The edges into one part, in any order."""

    src_part: NDArray[np.int32]
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    edge_attr: NDArray[np.float32] | None

    def take(self, rows: NDArray[Any]) -> Edges:
        """Return the edges at some positions."""
        attr = None if self.edge_attr is None else self.edge_attr[rows]
        return Edges(self.src_part[rows], self.src[rows], self.dst[rows], attr)


def read_edges(
    forward: Path,
    backward: Path,
    part: int,
    nodes: int,
    width: int,
    *,
    undirected: bool,
    self_loops: bool,
    dropped: Counter[str],
) -> Edges:
    """Read the edges into one part.

    A directed graph keeps repeated edges. In an undirected graph each direction has the features of its first edge, or
    those of the reverse edge if only that exists.

    Args:
        forward: the output of `split_edges`.
        backward: the output of `reverse_edges`.
        part: number of the part.
        nodes: number of its nodes.
        width: K; 0: no edge features.
        undirected: whether to drop repeats.
        self_loops: whether to replace self loops by exactly one per node.
        dropped: receives the numbers of dropped edges.
    Cost: several copies of the part's edges.
    """
    names = ["src_part", "src_place", "dst_place", "file", "row", *(["edge_attr"] if width else [])]
    tables = [read_part(folder, part, names) for folder in (forward, backward)]
    kept = [(table, reverse) for reverse, table in enumerate(tables) if table is not None]
    numbers = {
        name: np.concatenate([np.asarray(table.column(name)) for table, _ in kept] or [np.empty(0, np.int32)])
        for name in names[:5]
    }
    attr = (
        np.concatenate(
            [matrix(table.column("edge_attr"), width) for table, _ in kept] or [np.empty((0, width), np.float32)]
        )
        if width
        else None
    )
    edges = Edges(numbers["src_part"], numbers["src_place"], numbers["dst_place"], attr)
    reverse = np.concatenate([np.full(len(table), flag, np.int8) for table, flag in kept] or [np.empty(0, np.int8)])
    if undirected or width:
        order = np.lexsort((numbers["row"], numbers["file"], reverse))
        edges = edges.take(order)
    if undirected:
        first = _first_of_repeats(edges)
        dropped["repeated_edges"] += len(edges.src) - len(first)
        edges = edges.take(first)
    if self_loops:
        others = np.flatnonzero((edges.src_part != part) | (edges.src != edges.dst))
        dropped["replaced_self_loops"] += len(edges.src) - len(others)
        own = np.arange(nodes, dtype=np.int32)
        edges = edges.take(others)
        edges = Edges(
            np.concatenate([edges.src_part, np.full(nodes, part, np.int32)]),
            np.concatenate([edges.src, own]),
            np.concatenate([edges.dst, own]),
            None,
        )
    return edges


def count_faulty_edges(folder: Path, row_faults: RowCounts, ends: tuple[str, str]) -> int:
    """Count the checks that faulty edges fail; return the number of faulty edges.

    Args:
        folder: the output of `split_edges`.
        row_faults: receives the counts.
        ends: names of the columns of sources and destinations.
    """
    count = 0
    for table in read_faulty(folder, ["src", "dst", "src_part", "dst_part", "file", "row", "bad"]):
        count += len(table)
        row_faults.add_bad(table)
        files, rows = (np.asarray(table.column(name)) for name in ("file", "row"))
        for end, column in zip(("src", "dst"), ends, strict=True):
            ids = table.column(end).combine_chunks()
            unknown = is_null(table.column(f"{end}_part").combine_chunks()) & ~is_null(ids)
            if unknown.any():
                check = row_faults.checks.number(column, UNKNOWN)
                row_faults.add(check, files[unknown], rows[unknown], ids.filter(pa.array(unknown)))
    return count


def matrix(column: Any, width: int) -> NDArray[np.float32]:
    """Convert a column of lists of fixed size to [rows, width]."""
    lists = column.combine_chunks()
    return np.asarray(lists.flatten()).reshape(len(lists), width).astype(np.float32, copy=False)


def _first_of_repeats(edges: Edges) -> NDArray[np.int64]:
    if not len(edges.src):
        return np.empty(0, np.int64)
    order = np.lexsort((edges.src, edges.dst, edges.src_part))
    same = np.ones(len(order), bool)
    same[0] = False
    for values in (edges.src, edges.dst, edges.src_part):
        ordered = values[order]
        same[1:] &= ordered[1:] == ordered[:-1]
    return np.sort(order[~same])
