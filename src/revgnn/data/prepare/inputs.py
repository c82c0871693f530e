"""Find the input files of a graph by pattern, inspect their schemas, and read them in chunks of rows.

Hides the three formats. A chunk is what one task of the engine reads; its batches have a bounded number of rows.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, ipc

from ...files import sha256_of
from ..readers.parquet import Faults, is_list, is_numeric, is_text

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
BATCH_ROWS = 1 << 16
CHUNK_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive rows of one file."""

    path: str
    file: int
    """Index of the file in its table."""
    first_row: int
    num_rows: int | None
    """Number of rows; ``None``: all rows of a CSV file, which states no number."""
    groups: tuple[int, ...] = ()
    """The row groups of Parquet, or the record batches of Arrow."""


@dataclass(frozen=True)
class Table:
    """The files of one table and their common schema."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    """Names of the files in messages."""
    schema: pa.Schema
    """Schema of the columns that every file has with the same type."""
    chunks: tuple[Chunk, ...]
    num_bytes: int


def open_table(patterns: Sequence[str], folder: Path, faults: Faults) -> Table | None:
    """Find the files of a table and inspect each.

    Args:
        patterns: paths or patterns, relative to ``folder``.
        folder: the folder of graph.yaml.
        faults: receives unreadable files, patterns without files and columns that differ between files.
    Returns: the table, or ``None`` if no file can be read.
    """
    paths: list[Path] = []
    for pattern in patterns:
        there = Path(folder, pattern)
        found = [there] if there.is_file() else [Path(one) for one in sorted(glob.glob(str(there), recursive=True))]
        paths += [path for path in found if path.is_file() and path not in paths]
        if not any(path.is_file() for path in found):
            faults.add(pattern, None, f"no such file in {folder.resolve()}; name a file or a pattern of files")
    good: list[Path] = []
    schemas, chunks = [], []
    for path in paths:
        name = _name(path, folder)
        try:
            schema, own = _inspect(path, len(good))
        except (pa.ArrowException, OSError, ValueError) as error:
            faults.add(name, None, f"cannot be read: {' '.join(str(error).split())}; write it again")
            continue
        twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
        for column in twice:
            faults.add(name, column, f"occurs {schema.names.count(column)} times; keep one")
        good.append(path)
        schemas.append((name, pa.schema([field for field in schema if field.name not in twice])))
        chunks += own
    if not good:
        return None
    size = sum(path.stat().st_size for path in good)
    return Table(tuple(good), tuple(name for name, _ in schemas), _common(schemas, faults), tuple(chunks), size)


def read_chunk(
    chunk: Chunk, columns: Sequence[str], text: Sequence[str], kinds: Mapping[str, pa.DataType]
) -> Iterator[Any]:
    """Yield (first row, record batch) with at most `BATCH_ROWS` rows each.

    Args:
        chunk: the rows to read.
        columns: the columns to read.
        text: columns that are read from a CSV file as text.
        kinds: types of other columns of a CSV file.
    Raises: pa.ArrowException, OSError: damaged data, or another number of rows than the file states.
    """
    row = chunk.first_row
    for batch in _batches(chunk, columns, {**dict.fromkeys(text, pa.string()), **kinds}):
        # Neither format guarantees valid UTF-8 or offsets within bounds, on which the engine relies.
        batch.validate(full=True)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            yield row, part
            row += part.num_rows
    if chunk.num_rows is not None and row - chunk.first_row != chunk.num_rows:
        raise pa.ArrowInvalid(f"{row - chunk.first_row} rows where the file states {chunk.num_rows}")


def describe(table: Table) -> list[dict[str, Any]]:
    """Return name, bytes and SHA-256 of every file."""
    return [
        {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in zip(table.names, table.paths, strict=True)
    ]


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _format(path: Path) -> str:
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"its suffix {path.suffix!r} is none of {', '.join(FORMATS)}")
    return kind


def _inspect(path: Path, number: int) -> tuple[pa.Schema, list[Chunk]]:
    """Return the schema of a file and its chunks."""
    kind, chunks = _format(path), []
    if kind == "csv":
        if not path.stat().st_size:
            raise ValueError("it is empty, without a line of column names")
        with csv.open_csv(path, **_csv_options(path, None, {})) as reader:
            return reader.schema, [Chunk(path=str(path), file=number, first_row=0, num_rows=None)]
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    else:
        with pa.memory_map(str(path)) as source, ipc.open_file(source) as file:
            schema, sizes = file.schema, [file.get_batch(k).num_rows for k in range(file.num_record_batches)]
    row, groups, rows = 0, [], 0
    for group, size in enumerate(sizes):
        groups.append(group)
        rows += size
        if rows >= CHUNK_ROWS or group == len(sizes) - 1:
            chunks.append(Chunk(path=str(path), file=number, first_row=row, num_rows=rows, groups=tuple(groups)))
            row, groups, rows = row + rows, [], 0
    return schema, chunks


def _batches(chunk: Chunk, columns: Sequence[str], kinds: Mapping[str, pa.DataType]) -> Iterator[Any]:
    path = Path(chunk.path)
    kind = _format(path)
    if kind == "csv":
        with csv.open_csv(path, **_csv_options(path, columns, kinds)) as reader:
            yield from reader
    elif kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS, row_groups=list(chunk.groups), columns=list(columns))
    else:
        with pa.memory_map(chunk.path) as source, ipc.open_file(source) as file:
            for group in chunk.groups:
                yield file.get_batch(group).select(list(columns))


def _csv_options(path: Path, columns: Sequence[str] | None, kinds: Mapping[str, pa.DataType]) -> dict[str, Any]:
    return {
        "parse_options": csv.ParseOptions(
            delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
        ),
        "convert_options": csv.ConvertOptions(
            include_columns=None if columns is None else list(columns),
            column_types=dict(kinds),
            strings_can_be_null=True,
            # Only an empty field is missing: the text NA may be an id.
            null_values=[""],
        ),
    }


def _common(schemas: list[tuple[str, pa.Schema]], faults: Faults) -> pa.Schema:
    """Return the columns that every file has with the same kind of type; report the others as faults."""
    (first_name, first), *others = schemas
    kept = []
    for field in first:
        missing = [name for name, schema in others if field.name not in schema.names]
        if missing:
            faults.add(missing[0], field.name, f"is missing, but {first_name} has it; give every file the same columns")
            continue
        # The types of CSV columns are decided later, from all files.
        tables = [(name, schema) for name, schema in schemas if FORMATS[Path(name).suffix.lower()] != "csv"]
        kinds = [(name, schema.field(field.name).type) for name, schema in tables]
        other = [(name, kind) for name, kind in kinds if not _alike(kinds[0][1], kind)]
        if other:
            (name, kind), (like, wanted) = other[0], kinds[0]
            faults.add(name, field.name, f"holds {kind}, but in {like} {wanted}; make them alike")
            continue
        kept.append(field)
    return pa.schema(kept)


def _alike(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether both types can be read as the same; null matches every type."""
    return _kind(one) == _kind(other) or pa.types.is_null(one) or pa.types.is_null(other)


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, without dictionary encoding."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _kind(kind: pa.DataType) -> str:
    kind = value_type(kind)
    if is_text(kind):
        return "text"
    if is_numeric(kind):
        return "numbers in lists" if is_list(kind) else "numbers"
    return "other"
