"""Reads the columns of a user's Parquet file and collects all faults instead of raising the first one.

Arrow's types are converted: a column is returned as keys (int64 or text), as numbers (float32) or as text. A fault
names the file, the column, the first bad row and the number of bad rows; `Faults.raise_if_any` reports all faults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray


class Faults:
    """Faults of a set of tables, collected while the tables are read."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, file: str, column: str | None, text: str) -> None:
        """Record a fault of a whole file or column."""
        self._lines.append(f"{file}: {text}" if column is None else f"{file}, column {column}: {text}")

    def add_rows(self, file: str, column: str, bad: NDArray[np.bool_], text: str, *, values: Any = None) -> bool:
        """Record a fault of the rows marked in ``bad``, if there are any.

        Args:
            file: which file.
            column: which column.
            bad: [rows] where it is wrong.
            text: what is wrong with them and what to do; follows the number of rows.
            values: [rows] to quote the first bad one from; ``None`` quotes none.
        Returns: whether there were any.
        """
        if not bad.any():
            return False
        row = int(bad.argmax())
        self.add_count(file, column, int(bad.sum()), row, text, value=None if values is None else values[row])
        return True

    def add_count(self, file: str, column: str | None, count: int, first: int, text: str, *, value: Any = None) -> None:
        """Note a fault of ``count`` rows, of which ``first`` is the first and has ``value``; ``None`` quotes none."""
        quoted = "" if value is None else f" ({value})"
        rows = "1 row" if count == 1 else f"{count} rows"
        self.add(file, column, f"{rows}, first row {first}{quoted}, {text}")

    def raise_if_any(self, folder: Path) -> None:
        """Raise one ValueError that lists every fault."""
        if self._lines:
            count = "1 fault" if len(self._lines) == 1 else f"{len(self._lines)} faults"
            raise ValueError(f"the tables in {folder} have {count}:\n" + "\n".join(f"  {line}" for line in self._lines))


class ParquetTable:
    """A Parquet file: reads the schema first, then the requested columns into memory."""

    def __init__(self, path: Path, faults: Faults) -> None:
        """Read the schema; a file that is not Parquet is a fault and is treated as empty."""
        self.file = path.name
        self.schema: pa.Schema | None = None
        self.table: pa.Table | None = None
        self._path, self._faults = path, faults
        try:
            self.schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            self._unreadable(error)

    def load(self, names: list[str]) -> None:
        """Read these columns; missing and duplicate columns are faults."""
        if self.schema is None:
            return
        once = [name for name in dict.fromkeys(names) if self._stands_once(self.schema.names, name)]
        try:
            self.table = pq.read_table(self._path, columns=once)
        except (pa.ArrowException, OSError) as error:
            self._unreadable(error)

    def _unreadable(self, error: Exception) -> None:
        self._faults.add(self.file, None, f"cannot be read as Parquet: {error}; write it anew")

    def _stands_once(self, names: list[str], name: str) -> bool:
        times = names.count(name)
        if times > 1:
            self._faults.add(self.file, name, f"stands there {times} times; keep one")
        elif not times:
            self._faults.add(self.file, name, f"is missing; the columns are {', '.join(names) or 'none'}")
        return times == 1

    @property
    def num_rows(self) -> int:
        """How many rows it has, 0 where it could not be read."""
        return 0 if self.table is None else int(self.table.num_rows)

    def column(self, name: str) -> Any:
        """Return a column as one Arrow array without dictionary; ``None`` where it could not be read."""
        if self.table is None or name not in self.table.column_names:
            return None
        chunks = self.table.column(name)
        if pa.types.is_dictionary(chunks.type):
            chunks = chunks.cast(chunks.type.value_type)
        return chunks.combine_chunks() if chunks.num_chunks != 1 else chunks.chunk(0)

    def keys(self, name: str) -> Any:
        """Return a column of ids as int64 or large_string, without nulls; ``None`` where that is a fault."""
        column = self.column(name)
        if column is None:
            return None
        if is_text(column.type):
            column = column.cast(pa.large_string())
        elif pa.types.is_integer(column.type):
            if pa.types.is_uint64(column.type) and len(column) and (pc.max(column).as_py() or 0) >= 2**63:
                self._faults.add(self.file, name, "holds ids of 2^63 and above; write them as strings")
                return None
            column = column.cast(pa.int64())
        elif pa.types.is_null(column.type) and not len(column):
            column = column.cast(pa.int64())
        else:
            self._faults.add(self.file, name, f"holds {column.type}; ids are integers or strings")
            return None
        null = is_null(column)
        return None if self._faults.add_rows(self.file, name, null, "without an id; give each one") else column

    def numbers(self, name: str) -> NDArray[np.float32] | None:
        """Return a column of numbers, or of lists of them, as [rows, width] float32; ``None`` where that is a fault."""
        column = self.column(name)
        if column is None:
            return None
        if not is_numeric(column.type):
            self._faults.add(self.file, name, f"holds {column.type}; features are numbers or lists of numbers")
            return None
        if self._faults.add_rows(self.file, name, is_null(column), "without a value; fill or drop them"):
            return None
        width = 1
        if is_list(column.type):
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            width = int(lengths[0]) if len(lengths) else max(getattr(column.type, "list_size", 1), 1)
            text = f"of another length than the {width} of row 0; make them equal"
            if self._faults.add_rows(self.file, name, lengths != width, text, values=lengths):
                return None
            column = column.flatten()
        # float64 values beyond float32 become infinite, which the next check reports.
        with np.errstate(over="ignore"):
            values = np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.float32).reshape(-1, width)
        bad = np.logical_not(np.isfinite(values).all(axis=1))
        if self._faults.add_rows(self.file, name, bad, "with NaN, null or infinity; fill or drop them"):
            return None
        return values


def is_null(column: Any) -> NDArray[np.bool_]:
    """Mark the null rows of an Arrow array."""
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type is numbers, truth values, or lists of them."""
    if is_list(kind):
        return is_numeric(kind.value_type) and not is_list(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
