"""What has been measured, beside what the paper prints: rows of finished runs, and the paper's tables made of them."""

from __future__ import annotations

from .rows import ROWS_FILE, append_rows, find_results, read_rows, rows_of
from .table import TABLES, build_table, markdown_table, table_lines

__all__ = [
    "ROWS_FILE",
    "TABLES",
    "append_rows",
    "build_table",
    "find_results",
    "markdown_table",
    "read_rows",
    "rows_of",
    "table_lines",
]
