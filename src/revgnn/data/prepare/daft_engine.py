"""Prepare on a Ray cluster with Daft: joins edges with node indices and writes rows by part, in parallel.

No other module names Daft.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .engine import Engine, OnFaulty, Scan, read_rows
from .inputs import Chunk

ROW_GROUP_BYTES = 1 << 22
"""Bytes of a row group of an intermediate file, which a writer buffers for each part."""


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
            "--ray needs Daft, which is not installed: pip install 'revgnn[prepare,ray]'"
        ) from missing
    return daft


class DaftEngine(Engine):
    """Computes with Daft, on a Ray cluster or, with ``address=None``, in this process.

    Folders have one folder of Parquet files for each part, ``part=-1`` for faulty rows. A join holds its smaller side
    in memory: the ids of all nodes, or the edges.
    """

    packages = ("daft", *Engine.packages)

    def __init__(self, address: str | None) -> None:
        """Select the runner of this process; ``local`` starts a cluster on this machine.

        Raises: ModuleNotFoundError: Daft or Ray is not installed. ValueError: this process has selected another runner
            already.
        """
        _choose_runner(address)

    def split_nodes(self, scan: Scan, out: Path, assigned: Path | None, on_faulty: OnFaulty) -> None:
        """Write nodes by part."""
        daft = load_daft()
        frame = _frame(scan)
        if assigned is not None:
            given = daft.read_parquet(str(assigned))
            frame = frame.exclude("part").join(given, on="id", how="left")
            frame = frame.with_column("part", daft.col("part").fill_null(-1))
        with _settings():
            frame.write_parquet(str(out), partition_cols=["part"])
        _read_faulty(out, on_faulty)

    def split_edges(self, scan: Scan, places: Path, out: Path, on_faulty: OnFaulty) -> None:
        """Join edges with the parts and indices of their end nodes, and write them by destination part."""
        daft = load_daft()
        col, when = daft.col, daft.functions.when
        ids = daft.read_parquet(str(places / "*.parquet"))
        frame = _frame(scan)
        for end in ("src", "dst"):
            there = ids.select(
                col("id").alias(end), col("part").alias(f"{end}_part"), col("place").alias(f"{end}_place")
            )
            frame = frame.join(there, on=end, how="left")
        faulty = col("src_part").is_null() | col("dst_part").is_null() | (col("bad").list_count() > 0)
        part = when(faulty, daft.lit(-1).cast(daft.DataType.int32())).otherwise(col("dst_part"))
        frame = frame.with_column("part", part)
        for end in ("src", "dst"):
            nothing = daft.lit(None).cast(frame.schema()[end].dtype)
            frame = frame.with_column(end, when(faulty, col(end)).otherwise(nothing))
        with _settings():
            frame.write_parquet(str(out), partition_cols=["part"])
        _read_faulty(out, on_faulty)

    def reverse_edges(self, edges: Path, out: Path) -> None:
        """Write the reverse of every edge by its destination part."""
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

    def repeated_ids(self, places: Path) -> pa.Table:
        """Return (id, file, row) of every id that occurs in several parts."""
        daft = load_daft()
        col = daft.col
        frame = daft.read_parquet(str(places / "*.parquet"))
        counted = frame.groupby("id").agg(col("row").count().alias("times"), col("file").max(), col("row").max())
        with _settings():
            table: pa.Table = counted.where(col("times") > 1).select("id", "file", "row").to_arrow()
        return table

    def read_part(self, folder: Path, part: int, columns: Sequence[str]) -> pa.Table | None:
        """Read the rows of one part, in the order of the files that the cluster wrote."""
        paths = sorted(folder.glob(f"part={part}/*.parquet"))
        tables = [pq.read_table(path, columns=list(columns), partitioning=None) for path in paths]
        return pa.concat_tables(tables) if tables else None


def _read_faulty(folder: Path, on_faulty: OnFaulty) -> None:
    for path in sorted(folder.glob("part=-1/*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                on_faulty(pa.Table.from_batches([batch]))


def _choose_runner(ray: str | None) -> None:
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
            raise ModuleNotFoundError(
                "--ray needs Ray, which is not installed: pip install 'revgnn[prepare,ray]'"
            ) from missing
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
    """Read one chunk in a task of Daft."""
    record_batch = load_daft().recordbatch.RecordBatch
    for table in read_rows(scan, chunk):
        yield record_batch.from_arrow_table(table)._recordbatch
