"""What DuckDB takes for the joins and sorts of a preparation: ``python -m benchmarks.prepare_duckdb FOLDER PARTS``.

Numbers the nodes by part and id, joins both ends of every edge with these numbers, and writes nodes with their columns
and edges as two sorted Parquet files in FOLDER/duckdb. It checks nothing: neither repeated and unknown ids, nor values,
nor hashes of files. Prints its seconds without the import, and its version, as JSON. ``benchmarks.prepare_scale`` calls
it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import duckdb


def join_and_sort(folder: Path, parts: int) -> None:
    """Write the sorted tables of ``folder`` with the numbers of the nodes."""
    out = folder / "duckdb"
    out.mkdir()
    with duckdb.connect(config={"temp_directory": str(folder / ".duckdb")}) as database:
        database.execute("SET preserve_insertion_order = false")
        database.execute(
            "CREATE TEMP TABLE places AS SELECT id, part, (row_number() OVER (PARTITION BY part ORDER BY id) - 1)::INT "
            f"AS place FROM (SELECT id, (hash(id) % {parts})::INT AS part FROM '{folder}/nodes.parquet')"
        )
        database.execute(
            f"COPY (SELECT nodes.*, part, place FROM '{folder}/nodes.parquet' AS nodes JOIN places USING (id) "
            f"ORDER BY part, place) TO '{out}/nodes.parquet'"
        )
        database.execute(
            "COPY (SELECT s.part AS src_part, s.place AS src, d.part AS dst_part, d.place AS dst "
            f"FROM '{folder}/edges.parquet' AS edges JOIN places AS s ON edges.src = s.id "
            "JOIN places AS d ON edges.dst = d.id ORDER BY dst_part, src_part, dst, src) "
            f"TO '{out}/edges.parquet'"
        )


if __name__ == "__main__":
    started = time.perf_counter()
    join_and_sort(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"seconds": time.perf_counter() - started, "version": duckdb.__version__}))
