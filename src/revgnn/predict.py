"""Write the predictions of a finished run to a file, with the user's ids, batch by batch.

Columns: id, split, prediction, probabilities (not for regression), and optionally the last hidden state. The file is
Parquet, CSV or Arrow by its suffix, written under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .data import DatasetConfig, is_store, read_data
from .files import replacing, room_for
from .run_lock import claimed
from .train.device import Device
from .trained import Which, evaluation_loader, load


class _Writer(Protocol):
    """Writes tables of one schema to a file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def write_table(self, table: pa.Table) -> None:
        """Append rows."""
        ...


_WRITERS: dict[str, Callable[[str, pa.Schema], _Writer]] = {
    ".parquet": pq.ParquetWriter,
    ".csv": pyarrow.csv.CSVWriter,
    ".arrow": pa.ipc.new_file,
    ".feather": pa.ipc.new_file,
}
"""Suffix -> writer of (path, schema)."""
_FLAT = {".csv"}
"""Suffixes of files whose columns hold single values."""
_SINGULAR = {"probabilities": "probability"}


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """Options of a prediction."""

    split: Which = "all"
    """Write only the rows of this split."""
    embeddings: bool = False
    """Whether to write the last hidden state too."""
    columns: bool = False
    """Whether probabilities, several predictions and embeddings are columns of their own, ``probability_red``, instead
    of one column each of structures and lists; always so in a CSV file."""
    parts: int | None = None
    """Number of parts of the graph, one in memory at a time; ``None``: as in the run's final evaluation."""
    views: int | None = None
    """Number of partitions whose logits are averaged; ``None``: as in the run's final evaluation, or 1 with
    ``parts``."""


def predict_run(
    folder: Path,
    out: Path,
    options: Predicting,
    *,
    data_root: Path,
    data: Path | None = None,
    device: Device = "auto",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, object]:
    """Apply the selected weights of a finished run to its own graph, or to another one of the same features.

    Args:
        folder: the run folder.
        out: the file to write, ``.parquet``, ``.csv``, ``.arrow`` or ``.feather``; an existing one is replaced.
        options: see `Predicting`.
        data_root: the folder of data, as in training.
        data: a folder of tables or a prepared graph, with or without labels and splits; ``None``: the data of the run.
        device: "auto" uses an accelerator if there is one.
        progress: called with the rows that are done and the total.
    Returns: facts about the written file.
    Raises:
        FileNotFoundError, ValueError: no finished run, a graph that does not fit the model, or another suffix.
        OSError: the disk is full; the message states needed and free bytes, and no file is left.
        ClaimedError: another process writes to ``out``.
    """
    if out.suffix not in _WRITERS:
        raise ValueError(
            f"--out must end in {', '.join(_WRITERS)}, which names the format of the file, got {out.name!r}; rename it"
        )
    is_flat = options.columns or out.suffix in _FLAT
    with claimed(out, beside=True):
        model = load(folder, device=device)
        config = model.run.dataset if data is None else _other(model.run.dataset, data)
        on_disk = config.name == "prepared"
        loader = evaluation_loader(model.run.loader, on_disk=on_disk, parts=options.parts, views=options.views)
        graph = read_data(config, loader, data_root, like=model.info)
        source = model.source(graph, loader)
        rows = model.tables(
            source, loader.eval_views, embeddings=options.embeddings, split=options.split, progress=progress
        )
        # Always closed, because gradients are disabled in this process while the generator is open.
        with closing(rows):
            tables = (flat(piece.table) if is_flat else piece.table for piece in rows)
            written = _write(tables, source.num_rows, out)
    return {
        "out": str(out),
        "rows": written,
        "data": graph.name,
        "task": model.info.task,
        "split": options.split,
        "parts": loader.eval_parts,
        "views": loader.eval_views,
        "embeddings": options.embeddings,
    }


def _other(trained: DatasetConfig, data: Path) -> DatasetConfig:
    """Return the data configuration of another graph, with the run's settings."""
    path = str(data.resolve())
    if is_store(data):
        return DatasetConfig(name="prepared", path=path)
    if trained.name != "tables":
        trained = DatasetConfig(name="tables", path=path, undirected=trained.undirected, self_loops=trained.self_loops)
    return replace(trained, path=path)


def flat(table: pa.Table) -> pa.Table:
    """Return a table whose columns of structures and lists are columns of single values.

    ``probabilities`` becomes ``probability_red``, ``embedding`` becomes ``embedding_0``.
    """
    columns: dict[str, pa.Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values, prefix = column.combine_chunks(), _SINGULAR.get(name, name)
        if pa.types.is_struct(values.type):
            fields = (values.type.field(k).name for k in range(values.type.num_fields))
            columns |= {f"{prefix}_{field}": part for field, part in zip(fields, values.flatten(), strict=True)}
        elif pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            matrix = values.flatten().to_numpy().reshape(-1, width)
            columns |= {f"{prefix}_{k}": pa.array(matrix[:, k]) for k in range(width)}
        else:
            columns[name] = values
    return pa.table(columns)


def _write(tables: Iterator[pa.Table], total: int, out: Path) -> int:
    """Write tables one by one into one file, which appears when it is complete.

    Args:
        tables: the tables, of at most ``total`` rows.
        total: upper bound of the number of rows, for the message of a full disk.
        out: the file.
    Returns: the number of rows.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    first = next(tables, None)
    if first is None:
        raise ValueError("the graph has no rows to predict")
    # An upper bound: compression may save half of it or nothing.
    needed = total * first.nbytes // max(first.num_rows, 1)
    schema, rows = first.schema, 0
    room = room_for(f"{out.name} with {total} rows", needed, out.parent, then="predict again")
    with room, replacing(out) as temporary, _WRITERS[out.suffix](str(temporary), schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows
