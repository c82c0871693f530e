"""Types of Arrow columns, and the faults of a user's tables, collected instead of raising the first one"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Faults:
    """Faults of a set of tables, collected while the tables are read."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, file: str, column: str | None, text: str) -> None:
        """Record a fault of a whole file or column."""
        self._lines.append(f"{file}: {text}" if column is None else f"{file}, column {column}: {text}")

    def add_rows(
        self, file: str, column: str, bad: NDArray[np.bool_], text: str, *, values: pa.Array | None = None
    ) -> bool:
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

    def add_count(
        self, file: str, column: str | None, count: int, first: int, text: str, *, value: object = None
    ) -> None:
        """Note a fault of ``count`` rows, of which ``first`` is the first and has ``value``; ``None`` quotes none."""
        is_padded = isinstance(value, str) and value != value.strip()
        quoted = "" if value is None else f" ({value!r})" if is_padded else f" ({value})"
        rows = "1 row" if count == 1 else f"{count} rows"
        self.add(file, column, f"{rows}, first row {first}{quoted}, {text}")

    def raise_if_any(self, folder: Path) -> None:
        """Raise one ValueError that lists every fault."""
        if self._lines:
            count = "1 fault" if len(self._lines) == 1 else f"{len(self._lines)} faults"
            raise ValueError(f"the tables in {folder} have {count}:\n" + "\n".join(f"  {line}" for line in self._lines))


def is_null(column: pa.Array) -> NDArray[np.bool_]:
    """Mark the null rows of an Arrow array."""
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type is numbers, truth values, or lists of them."""
    if is_list(kind):
        return is_numeric(kind.value_type) and not is_list(kind.value_type)
    return is_fractional(kind) or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def is_fractional(kind: pa.DataType) -> bool:
    """Whether numbers of this type may have a fraction: floating point, or decimal numbers as databases have."""
    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
