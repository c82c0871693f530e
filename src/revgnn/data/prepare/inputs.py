"""Find the input files of a graph by pattern, inspect their schemas, and read them in chunks of rows.

Hides the three formats. A chunk is what one task of the engine reads; its batches have a bounded number of rows.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from ...files import sha256_of
from ..readers.parquet import Faults, is_list, is_numeric, is_text
from .csv_format import SNIFFED, CsvFormat, read_csv, sniff

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".parquet.gzip": "parquet",
    **{f"{kind}{packed}": "csv" for kind in (".csv", ".tsv") for packed in ("", ".gz", ".bz2", ".zst")},
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
"""End of a file's name -> its format."""
CONFIG, NODES, EDGES = "graph.yaml", "nodes.parquet", "edges.parquet"
"""The files of a folder that is a graph: a description, or two tables, in Parquet for example."""
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
    csv: CsvFormat | None = None
    """The format of a CSV file."""
    folders: tuple[tuple[str, str | int], ...] = ()
    """(name, value) of Hive partitions in the file's path, such as ``split=train``, which are columns."""


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
    csv: CsvFormat | None = None
    """The format of the CSV files; ``None``: there are none."""


def open_table(patterns: Sequence[str], folder: Path, faults: Faults, form: CsvFormat = SNIFFED) -> Table | None:
    """Find the files of a table and inspect each.

    Args:
        patterns: paths or patterns, relative to ``folder``.
        folder: the folder of graph.yaml.
        faults: receives unreadable files, patterns without files and columns that differ between files.
        form: the format of CSV files; what it leaves out is sniffed from the first one.
    Returns: the table, or ``None`` if no file can be read.
    """
    paths: list[Path] = []
    for pattern in patterns:
        there = Path(folder, pattern)
        # Of a name that no file can have, pathlib raises an error.
        places = [str(there)] if os.path.isfile(there) else sorted(glob.glob(str(there), recursive=True))
        found = list(map(Path, places))
        if os.path.isdir(there):
            found = sorted(path for path in there.rglob("*") if format_of(path.name) is not None)
        paths += [path for path in found if path.is_file() and path not in paths]
        if not any(path.is_file() for path in found):
            faults.add(pattern, None, f"no such file in {folder.resolve()}; name a file or a pattern of files")
    good: list[Path] = []
    schemas, chunks = [], []
    csv: CsvFormat | None = None
    hive = _hive(paths, folder)
    for path in paths:
        name = _name(path, folder)
        try:
            if _format(path) == "csv":
                csv, schema = sniff(path, csv or form)
                own = [Chunk(path=str(path), file=len(good), first_row=0, num_rows=None, csv=csv)]
            else:
                schema, own = _inspect(path, len(good))
        except (pa.ArrowException, OSError, ValueError) as error:
            faults.add(name, None, f"cannot be read: {' '.join(str(error).split())}; write it again")
            continue
        twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
        for column in twice:
            faults.add(name, column, f"occurs {schema.names.count(column)} times; keep one")
        good.append(path)
        folders = tuple(one for one in hive[path] if one[0] not in schema.names)
        kept = [field for field in schema if field.name not in twice]
        schemas.append((name, pa.schema([*kept, *(pa.field(key, pa.scalar(value).type) for key, value in folders)])))
        chunks += [replace(one, folders=folders) for one in own]
    if not good:
        return None
    size = sum(path.stat().st_size for path in good)
    names = tuple(name for name, _ in schemas)
    return Table(tuple(good), names, _common(schemas, faults), tuple(chunks), size, csv)


def tables_in(folder: Path) -> tuple[str, str]:
    """Return the names of the files or folders of the nodes and of the edges in a folder.

    Raises: FileNotFoundError: one of them is missing.
    """
    found = tuple(_table(folder, what) for what in ("nodes", "edges"))
    nodes, edges = found
    if nodes is not None and edges is not None:
        return nodes, edges
    missing = [what for what, name in zip((NODES, EDGES), found, strict=True) if name is None]
    others = sorted(path.name for path in folder.glob("*") if path.stem.partition(".")[0] in ("nodes", "edges"))
    unread = ", ".join(name for name in others if format_of(name) is None)
    why = f" ({unread}: of no format that is read)" if unread else ""
    raise FileNotFoundError(
        f"{' and '.join(missing)} not found in {folder}{why}; a graph of your own is a folder with {NODES} and {EDGES} "
        f"(or .csv, .csv.gz, .tsv, .arrow, .feather), or with {CONFIG}, named by dataset.path (absolute, or below "
        "--data-root)"
    )


def _table(folder: Path, what: str) -> str | None:
    names = [f"{what}{suffix}" for suffix in FORMATS]
    return next((name for name in names if (folder / name).is_file()), what if (folder / what).is_dir() else None)


def read_chunk(chunk: Chunk, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (first row, record batch) with at most `BATCH_ROWS` rows each; columns of a CSV file are texts.

    Raises: pa.ArrowException, OSError: damaged data, or another number of rows than the file states.
    """
    row, folders = chunk.first_row, dict(chunk.folders)
    for batch in _batches(chunk, [name for name in columns if name not in folders]):
        # Neither format guarantees valid UTF-8 or offsets within bounds, on which the engine relies.
        batch.validate(full=True)
        for name in columns:
            if name in folders:
                batch = batch.append_column(name, pa.repeat(pa.scalar(folders[name]), batch.num_rows))
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            yield row, part
            row += part.num_rows
    if chunk.num_rows is not None and row - chunk.first_row != chunk.num_rows:
        raise pa.ArrowInvalid(f"{row - chunk.first_row} rows where the file states {chunk.num_rows}")


def batches(table: Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield all rows of some columns, each named once; damaged files end early, which reading in earnest reports."""
    for chunk in table.chunks:
        try:
            for _, batch in read_chunk(chunk, list(dict.fromkeys(columns))):
                yield batch
        except (pa.ArrowException, OSError):
            continue


def lacks_fixed_lists(table: Table, column: str, size: int) -> bool:
    """Whether Parquet files lack values of a list of fixed size, by their footers: Arrow cannot read such a column."""
    for chunk in table.chunks:
        if _format(Path(chunk.path)) != "parquet":
            continue
        with pq.ParquetFile(chunk.path) as file:
            for group in chunk.groups:
                facts = file.metadata.row_group(group)
                for place in range(facts.num_columns):
                    leaf = facts.column(place)
                    if leaf.path_in_schema.partition(".")[0] == column and leaf.num_values != size * facts.num_rows:
                        return True
    return False


def num_rows(table: Table) -> int:
    """Return the number of rows; those of CSV files are counted."""
    counted = sum(chunk.num_rows or 0 for chunk in table.chunks)
    files = replace(table, chunks=tuple(chunk for chunk in table.chunks if chunk.num_rows is None))
    return int(counted + sum(batch.num_rows for batch in batches(files, table.schema.names[:1])))


def describe(table: Table) -> list[dict[str, object]]:
    """Return name, bytes and SHA-256 of every file."""
    return [
        {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in zip(table.names, table.paths, strict=True)
    ]


def format_of(name: str) -> str | None:
    """Return the format of a file by its name; ``None``: none that is read."""
    return next((kind for end, kind in FORMATS.items() if name.lower().endswith(end)), None)


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _format(path: Path) -> str:
    kind = format_of(path.name)
    if kind is None:
        raise ValueError(f"its name does not end in {', '.join(FORMATS)}")
    return kind


def _hive(paths: Sequence[Path], folder: Path) -> dict[Path, list[tuple[str, str | int]]]:
    """Return (name, value) of the folders of each path, below the folder of graph.yaml, that are called ``name=value``.

    The values of a name are integers if all of them are written so.
    """
    found: dict[Path, list[tuple[str, str]]] = {}
    for path in paths:
        inside = path.relative_to(folder) if path.is_relative_to(folder) else path
        parts = [part.partition("=") for part in inside.parts[:-1]]
        found[path] = [(key, unquote(value)) for key, sign, value in parts if sign and key]
    values = [one for each in found.values() for one in each]
    texts = {key for key, value in values if not (value.isdecimal() and str(int(value)) == value)}
    return {path: [(key, value if key in texts else int(value)) for key, value in each] for path, each in found.items()}


def _inspect(path: Path, number: int) -> tuple[pa.Schema, list[Chunk]]:
    """Return the schema of a Parquet or Arrow file, and its chunks."""
    kind, chunks = _format(path), []
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    else:
        with path.open("rb") as start:
            if start.read(6) != b"ARROW1":
                raise ValueError("it is no Arrow file, perhaps a stream, or Feather of version 1")
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


def _batches(chunk: Chunk, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    path = Path(chunk.path)
    if chunk.csv is not None:
        yield from read_csv(path, chunk.csv, columns)
    elif _format(path) == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS, row_groups=list(chunk.groups), columns=list(columns))
    else:
        with pa.memory_map(chunk.path) as source, ipc.open_file(source) as file:
            for group in chunk.groups:
                yield file.get_batch(group).select(list(columns))


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
        tables = [(name, schema) for name, schema in schemas if format_of(name) != "csv"]
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
