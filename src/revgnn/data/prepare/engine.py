"""The interface of an engine: it reads tables, looks up the ends of edges, and gives rows back by part.

`arrow_engine` computes in this process, `daft_engine` on a Ray cluster. Both give the same graph, because the indices
of nodes depend on the rows themselves and never on the order in which an engine returns them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from .inputs import Chunk, read_chunk

_logger = logging.getLogger(__name__)

DAMAGED = "cannot be read from about this row on: it is damaged; write it again"
OnFaulty = Callable[[pa.Table], None]
"""Receives faulty rows, table by table."""


class RowReader(Protocol):
    """Converts a batch of a table to rows."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result of `read`."""
        ...

    def read(self, batch: pa.RecordBatch, file: int, row: int) -> pa.Table:
        """Convert one batch, whose first row is ``row`` of ``file``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The rows and columns of a table to read, and their reader."""

    rows: RowReader
    chunks: tuple[Chunk, ...]
    columns: tuple[str, ...]
    num_bytes: int
    """Estimated size of all rows in memory: a join on a cluster holds its smaller side there."""
    damaged: int = 0
    """The check of files that prove damaged while they are read."""


class Engine(ABC):
    """The work that grows with the tables. Folders are the engine's own, in a format that only it reads."""

    packages: tuple[str, ...] = ("pyarrow", "numpy")
    """The packages that compute, whose versions the manifest records."""

    @abstractmethod
    def split_nodes(self, scan: Scan, out: Path, assigned: Path | None, on_faulty: OnFaulty) -> None:
        """Write nodes by part.

        Args:
            scan: a scan of `NodeRows`.
            out: the folder to write.
            assigned: a Parquet file of (id, part) that overrides the part of the rows; ``None``: none.
            on_faulty: receives the nodes that are in no part, because they have no id.
        """

    @abstractmethod
    def split_edges(self, scan: Scan, places: Path, out: Path, on_faulty: OnFaulty) -> None:
        """Look up the parts and indices of the end nodes of every edge, and write the edges by destination part.

        Args:
            scan: a scan of `EdgeRows`.
            places: Parquet files of (id, part, place): a node's part, and its index in the part.
            out: the folder to write: columns ``src_part``, ``src_place``, ``dst_place``, and, if the edges have
                features, ``edge_attr``, ``file`` and ``row``.
            on_faulty: receives the faulty edges with ids, ``file``, ``row``, ``bad``, ``src_part`` and ``dst_part``,
                which are null for unknown ids.
        """

    @abstractmethod
    def reverse_edges(self, edges: Path, out: Path) -> None:
        """Write the reverse of every edge of `split_edges` by its destination part."""

    @abstractmethod
    def repeated_ids(self, places: Path) -> pa.Table:
        """Return (id, file, row) of every id that occurs in several parts, with its last row."""

    @abstractmethod
    def read_part(self, folder: Path, part: int, columns: Sequence[str]) -> pa.Table | None:
        """Read the rows of one part that this engine wrote, every time in the same order; ``None``: it has none."""


def read_rows(scan: Scan, chunk: Chunk) -> Iterator[pa.Table]:
    """Read one chunk: tables of rows in order, then a marked row if the file is damaged."""
    row, last = chunk.first_row, chunk.first_row
    try:
        for row, batch in read_chunk(chunk, scan.columns):
            last = row + batch.num_rows
            yield scan.rows.read(batch, chunk.file, row)
        _logger.info("read rows %s to %s of %s", f"{chunk.first_row:,}", f"{last:,}", Path(chunk.path).name)
    except (pa.ArrowException, OSError):
        yield _damaged_row(scan, chunk.file, row)


def _damaged_row(scan: Scan, file: int, row: int) -> pa.Table:
    values: Mapping[str, object] = {"file": file, "row": row, "part": -1, "bad": [scan.damaged]}
    arrays = [pa.array([values.get(field.name)], field.type) for field in scan.rows.schema]
    return pa.Table.from_arrays(arrays, schema=scan.rows.schema)


def columns_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return each name once, in order."""
    return tuple(dict.fromkeys(names))
