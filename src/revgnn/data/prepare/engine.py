"""Run the joins of the preparation with Daft: read rows, join edges with node indices, write them by part.

It runs in this process, or on a Ray cluster with the same folders. Both give the same result, because indices depend on
the rows themselves and never on the order in which the engine returns them. No other module names Daft.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from .inputs import Chunk, read_chunk

_logger = logging.getLogger(__name__)

ROW_GROUP_BYTES = 1 << 22
"""Bytes of a row group of an intermediate file, which a writer buffers for each part."""
DAMAGED = "cannot be read from about this row on: it is damaged; write it again"


class RowReader(Protocol):
    """Converts a batch of a table to rows."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result of `read`."""
        ...

    def read(self, batch: Any, file: int, row: int) -> pa.Table:
        """Convert one batch, whose first row is ``row`` of ``file``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The rows and columns of a table to read, and their reader."""

    rows: RowReader
    chunks: tuple[Chunk, ...]
    columns: tuple[str, ...]
    num_bytes: int
    """Estimated size of all rows in memory: a join holds its smaller side there."""
    damaged: int = 0
    """The check of files that prove damaged while they are read."""


def load_daft() -> Any:
    """Import Daft with its telemetry off.

    Raises: ModuleNotFoundError: Daft is not installed.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "1" if sys.stderr.isatty() else "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import daft
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "revgnn prepare needs Daft, which is not installed: pip install 'revgnn[prepare]'"
        ) from missing
    return daft


def choose_runner(ray: str | None) -> None:
    """Select where the engine computes: in this process, or on a Ray cluster.

    Args:
        ray: the address of a cluster; ``local`` starts one on this machine; ``None``: in this process.
    Raises: ModuleNotFoundError: Ray is not installed. ValueError: this process has selected another runner already.
    """
    daft = load_daft()
    if ray is not None:
        try:
            import ray as _  # noqa: F401
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError("--ray needs Ray, which is not installed: pip install 'revgnn[ray]'") from missing
    wanted = "native" if ray is None else "ray"
    try:
        if ray is None:
            daft.set_runner_native()
        else:
            daft.set_runner_ray(address=None if ray == "local" else ray, noop_if_initialized=True)
    except Exception as refused:
        # Daft raises no narrower type if a runner is selected already; selecting the same one again is fine.
        if "Cannot set runner more than once" not in str(refused):
            raise
    running = daft.get_or_create_runner().name
    if running != wanted:
        raise ValueError(
            f"this process computes on the {running} runner already, and cannot change; prepare in another process"
        )


def split_nodes(scan: Scan, out: Path, assigned: Path | None) -> None:
    """Write nodes to a folder per part, ``part=-1`` for nodes without an id.

    Args:
        scan: a scan of `NodeRows`.
        out: receives ``part=P/*.parquet``.
        assigned: a Parquet file of (id, part) that overrides the part of the rows; ``None``: none.
    """
    daft = load_daft()
    frame = _frame(scan)
    if assigned is not None:
        given = daft.read_parquet(str(assigned))
        frame = frame.exclude("part").join(given, on="id", how="left")
        frame = frame.with_column("part", daft.col("part").fill_null(-1))
    with _settings():
        frame.write_parquet(str(out), partition_cols=["part"])


def split_edges(scan: Scan, places: Path, out: Path) -> None:
    """Join edges with the parts and indices of their end nodes, and write them to a folder per destination part.

    Args:
        scan: a scan of `EdgeRows`.
        places: Parquet files of (id, part, place): a node's part, and its index in the part.
        out: receives ``part=P/*.parquet``; ``part=-1`` has the faulty edges with their ids.
    """
    daft = load_daft()
    col, when = daft.col, daft.functions.when
    ids = daft.read_parquet(str(places / "*.parquet"))
    frame = _frame(scan)
    for end in ("src", "dst"):
        there = ids.select(col("id").alias(end), col("part").alias(f"{end}_part"), col("place").alias(f"{end}_place"))
        frame = frame.join(there, on=end, how="left")
    faulty = col("src_part").is_null() | col("dst_part").is_null() | (col("bad").list_count() > 0)
    frame = frame.with_column("part", when(faulty, daft.lit(-1).cast(daft.DataType.int32())).otherwise(col("dst_part")))
    for end in ("src", "dst"):
        nothing = daft.lit(None).cast(frame.schema()[end].dtype)
        frame = frame.with_column(end, when(faulty, col(end)).otherwise(nothing))
    with _settings():
        frame.write_parquet(str(out), partition_cols=["part"])


def reverse_edges(edges: Path, out: Path) -> None:
    """Write the reverse of every valid edge of `split_edges` to a folder per destination part."""
    daft = load_daft()
    if not any(edges.glob("part=[0-9]*/*.parquet")):
        return
    frame = daft.read_parquet(str(edges / "part=[0-9]*" / "*.parquet"))
    swapped = {"src_part": "dst_part", "src_place": "dst_place", "dst_part": "src_part", "dst_place": "src_place"}
    kept = [name for name in frame.column_names if name in ("file", "row", "edge_attr")]
    columns = [daft.col(old).alias(new) for new, old in swapped.items()]
    frame = frame.select(*columns, daft.col("src_part").alias("part"), *kept)
    with _settings():
        frame.write_parquet(str(out), partition_cols=["part"])


def repeated_ids(places: Path) -> pa.Table:
    """Return (id, file, row) of every id that occurs in several parts, with its last row."""
    daft = load_daft()
    col = daft.col
    frame = daft.read_parquet(str(places / "*.parquet"))
    counted = frame.groupby("id").agg(col("row").count().alias("times"), col("file").max(), col("row").max())
    with _settings():
        table: pa.Table = counted.where(col("times") > 1).select("id", "file", "row").to_arrow()
    return table


def _settings() -> AbstractContextManager[None]:
    settings: AbstractContextManager[None] = load_daft().context.execution_config_ctx(
        parquet_target_row_group_size=ROW_GROUP_BYTES, scantask_max_parallel=4
    )
    return settings


def _frame(scan: Scan) -> Any:
    """Make a Daft data frame of a scan, with its size: the optimizer would otherwise broadcast it as empty."""
    daft = load_daft()
    schema = daft.Schema.from_pyarrow_schema(scan.rows.schema)
    num_rows = [chunk.num_rows for chunk in scan.chunks]
    share = scan.num_bytes // max(1, len(scan.chunks))

    class _Tables(daft.io.scan.ScanOperator):  # type: ignore[misc, name-defined]
        def name(self) -> str:
            return "tables"

        def display_name(self) -> str:
            return "tables"

        def schema(self) -> Any:
            return schema

        def partitioning_keys(self) -> list[Any]:
            return []

        def can_absorb_filter(self) -> bool:
            return False

        def can_absorb_limit(self) -> bool:
            return False

        def can_absorb_select(self) -> bool:
            return False

        def multiline_display(self) -> list[str]:
            return ["tables"]

        def to_scan_tasks(self, pushdowns: Any) -> Iterator[Any]:
            for chunk, rows in zip(scan.chunks, num_rows, strict=True):
                yield daft.daft.ScanTask.python_factory_func_scan_task(
                    module=read.__module__,
                    func_name=read.__name__,
                    func_args=(scan, chunk),
                    schema=schema._schema,
                    num_rows=rows,
                    size_bytes=share,
                    pushdowns=pushdowns,
                    stats=None,
                    source_name="tables",
                )

    handle = daft.daft.ScanOperatorHandle.from_python_scan_operator(_Tables())
    builder = daft.logical.builder.LogicalPlanBuilder.from_tabular_scan(scan_operator=handle)
    return daft.DataFrame(builder)


def read(scan: Scan, chunk: Chunk) -> Iterator[Any]:
    """Read one chunk in a task of the engine: batches of rows, then a marked row if the file is damaged."""
    record_batch = load_daft().recordbatch.RecordBatch
    row, last = chunk.first_row, chunk.first_row
    try:
        for row, batch in read_chunk(chunk, scan.columns):
            last = row + batch.num_rows
            yield record_batch.from_arrow_table(scan.rows.read(batch, chunk.file, row))._recordbatch
        _logger.info("read rows %s to %s of %s", f"{chunk.first_row:,}", f"{last:,}", Path(chunk.path).name)
    except (pa.ArrowException, OSError):
        yield record_batch.from_arrow_table(_damaged_row(scan, chunk.file, row))._recordbatch


def _damaged_row(scan: Scan, file: int, row: int) -> pa.Table:
    values: Mapping[str, Any] = {"file": file, "row": row, "part": -1, "bad": [scan.damaged]}
    arrays = [pa.array([values.get(field.name)], field.type) for field in scan.rows.schema]
    return pa.Table.from_arrays(arrays, schema=scan.rows.schema)


def columns_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return each name once, in order."""
    return tuple(dict.fromkeys(names))
