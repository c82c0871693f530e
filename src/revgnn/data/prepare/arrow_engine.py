"""Prepare in this process with Arrow and NumPy: ids are looked up in one hash table, rows are sorted by part on disk.

Rows are collected up to `RUN_BYTES`, sorted by part, and written as one file with a record batch for each part. A part
is read from all these files. Memory holds the ids of all nodes and a few of these collections, never a whole table.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ipc

from .engine import Engine, OnFaulty, Scan, read_rows
from .inputs import BATCH_ROWS

RUN_BYTES = 1 << 24
"""Bytes of rows that are sorted in memory at once, in three copies."""
_READ_AHEAD = 16
"""Tables that are read and looked up before they are asked for."""


class ArrowEngine(Engine):
    """Computes in this process.

    Cost: one pass over a table for each call; a lookup for each end of an edge. In memory: the ids of all nodes, twice.
    """

    def __init__(self) -> None:
        self._runs: dict[Path, list[tuple[Path, NDArray[np.int32]]]] = {}

    def split_nodes(self, scan: Scan, out: Path, assigned: Path | None, on_faulty: OnFaulty) -> None:
        """Write nodes by part."""
        runs, tables = self._new_runs(out), _tables(scan)
        given = None if assigned is None else pq.read_table(assigned)
        if given is not None:
            of_row = np.append(np.asarray(given.column("part")), -1)
            tables = (
                table.set_column(table.schema.get_field_index("part"), "part", pa.array(of_row[rows[0]], pa.int32()))
                for table, rows in _positions(tables, ("id",), given.column("id"))
            )
        for table in tables:
            parts = np.asarray(table.column("part"))
            if (parts < 0).any():
                on_faulty(table.filter(pa.array(parts < 0)))
                table, parts = table.filter(pa.array(parts >= 0)), parts[parts >= 0]
            runs.add(table, parts)
        runs.write()

    def split_edges(self, scan: Scan, places: Path, out: Path, on_faulty: OnFaulty) -> None:
        """Look up the ends of every edge, and write the edges by destination part."""
        runs, nodes = self._new_runs(out), pq.read_table(places, columns=["id", "part", "place"])
        part_of, place_of = (np.asarray(nodes.column(name)) for name in ("part", "place"))
        kept = ["edge_attr", "file", "row"] if "edge_attr" in scan.rows.schema.names else []
        for table, rows in _positions(_tables(scan), ("src", "dst"), nodes.column("id")):
            faulty = (rows < 0).any(axis=0) | (np.asarray(pc.list_value_length(table.column("bad"))) > 0)
            if faulty.any():
                where = pa.array(faulty)
                unknown = {
                    f"{end}_part": pa.array(part_of[rows[k, faulty]], mask=rows[k, faulty] < 0)
                    for k, end in enumerate(("src", "dst"))
                }
                on_faulty(_with_columns(table.filter(where), unknown))
                table, rows = table.filter(pc.invert(where)), rows[:, ~faulty]
            src, dst = rows
            columns = {"src_part": part_of.take(src), "src_place": place_of.take(src), "dst_place": place_of.take(dst)}
            runs.add(_with_columns(table.select(kept), columns), part_of.take(dst))
        runs.write()

    def reverse_edges(self, edges: Path, out: Path) -> None:
        """Write the reverse of every edge by its destination part."""
        runs = self._new_runs(out)
        for path, parts in self._runs[edges]:
            for number, part in enumerate(parts):
                table = _batch(path, number)
                columns = {
                    "src_part": np.full(len(table), part, np.int32),
                    "src_place": table.column("dst_place"),
                    "dst_place": table.column("src_place"),
                }
                others = [name for name in table.column_names if name in ("edge_attr", "file", "row")]
                runs.add(_with_columns(table.select(others), columns), np.asarray(table.column("src_part")))
        runs.write()

    def repeated_ids(self, places: Path) -> pa.Table:
        """Return (id, file, row) of every id that occurs in several parts."""
        table = pq.read_table(places, columns=["id", "file", "row"])
        counted = table.group_by("id").aggregate([("row", "count"), ("file", "max"), ("row", "max")])
        counted = counted.filter(pc.field("row_count") > 1)
        return counted.select(["id", "file_max", "row_max"]).rename_columns(["id", "file", "row"])

    def read_part(self, folder: Path, part: int, columns: Sequence[str]) -> pa.Table | None:
        """Read the rows of one part, in the order of the files' rows."""
        tables = []
        for path, parts in self._runs.get(folder, ()):
            number = int(np.searchsorted(parts, part))
            if number < len(parts) and parts[number] == part:
                tables.append(_batch(path, number).select(list(columns)))
        return pa.concat_tables(tables) if tables else None

    def _new_runs(self, folder: Path) -> _Runs:
        folder.mkdir()
        self._runs[folder] = []
        return _Runs(folder, self._runs[folder])


class _Runs:
    """Collects rows and writes them to files, each sorted by part."""

    def __init__(self, folder: Path, written: list[tuple[Path, NDArray[np.int32]]]) -> None:
        """Write into ``folder``, and append to ``written`` each file with the parts of its record batches."""
        self._folder, self._written = folder, written
        self._tables: list[pa.Table] = []
        self._parts: list[NDArray[np.int32]] = []
        self._num_bytes = 0

    def add(self, table: pa.Table, parts: NDArray[np.int32]) -> None:
        """Add rows with the part of each."""
        if len(table):
            self._tables.append(table)
            self._parts.append(parts)
            self._num_bytes += table.nbytes
        if self._num_bytes >= RUN_BYTES:
            self.write()

    def write(self) -> None:
        """Write the collected rows, stable within a part."""
        if not self._tables:
            return
        parts = np.concatenate(self._parts)
        # NumPy sorts 16-bit integers by radix.
        order = np.argsort(parts.astype(np.uint16) if parts.max() < 2**16 else parts, kind="stable")
        table = pa.concat_tables(self._tables).combine_chunks().take(pa.array(order))
        parts = parts.take(order)
        first = np.flatnonzero(np.diff(parts, prepend=-1))
        path = self._folder / f"{len(self._written):05d}.arrow"
        with ipc.new_file(str(path), table.schema) as file:
            for start, end in zip(first, [*first[1:], len(table)], strict=True):
                file.write_batch(table.slice(start, end - start).combine_chunks().to_batches()[0])
        self._written.append((path, parts[first]))
        self._tables, self._parts, self._num_bytes = [], [], 0


def _tables(scan: Scan) -> Iterator[pa.Table]:
    for chunk in scan.chunks:
        yield from read_rows(scan, chunk)


def _positions(
    tables: Iterator[pa.Table], columns: tuple[str, ...], ids: pa.ChunkedArray
) -> Iterator[tuple[pa.Table, NDArray[np.int32]]]:
    """Look up columns of ids, in threads of Arrow.

    Yields: each table, and [columns, rows] the positions in ``ids``, -1 if missing or null.
    Cost: one hash table of all ids. Arrow keeps the table of an expression for all batches of a scan, but builds a new
        one in every call of ``pc.index_in``.
    """
    waiting: deque[pa.Table] = deque()
    # Arrow's scanner reads ahead up to a gigabyte of its own output, and does not count what waits here.
    room, ended = threading.Semaphore(_READ_AHEAD), threading.Event()

    def batches() -> Iterator[pa.RecordBatch]:
        for table in tables:
            room.acquire()
            if ended.is_set():
                return
            waiting.append(table)
            chunks = [chunk for name in columns for chunk in table.column(name).chunks]
            yield pa.record_batch([pa.concat_arrays(chunks)], names=["id"])

    scanner = ds.Scanner.from_batches(
        pa.RecordBatchReader.from_batches(pa.schema([("id", ids.type)]), batches()),
        columns={"at": pc.index_in(pc.field("id"), value_set=ids, skip_nulls=True)},
        batch_size=len(columns) * BATCH_ROWS,
        batch_readahead=_READ_AHEAD // 4,
    )
    try:
        # A scan gives its batches back in their order, and an empty one if it has none.
        for batch in scanner.to_batches():
            if batch.num_rows:
                table = waiting.popleft()
                room.release()
                yield table, np.asarray(pc.fill_null(batch.column("at"), -1)).reshape(len(columns), len(table))
    finally:
        ended.set()
        room.release()


def _batch(path: Path, number: int) -> pa.Table:
    with pa.memory_map(str(path)) as source, ipc.open_file(source) as file:
        return pa.Table.from_batches([file.get_batch(number)])


def _with_columns(table: pa.Table, columns: Mapping[str, pa.ChunkedArray | NDArray[np.generic]]) -> pa.Table:
    for name, values in columns.items():
        table = table.append_column(name, values if isinstance(values, pa.ChunkedArray) else pa.array(values))
    return table
