"""Reads headerless, gzipped CSV files of numbers, as OGB writes them, into arrays.

A file is parsed block by block directly into the result, so that reading 40 million edges takes only the memory of the
result. Errors name the file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray
from pyarrow import csv

_BLOCK_BYTES = 1 << 23


def read_csv_gz(path: Path, dtype: DTypeLike, *, rows: int | None = None, columns: int | None = None) -> NDArray[Any]:
    """Read a file of numbers.

    Args:
        path: gzipped, separated by commas, without a header.
        dtype: dtype of the result; an empty cell, or ``nan``, is NaN in a float and an error in an integer.
        rows: required number of rows; ``None``: any number, at twice the memory.
        columns: required number of columns; ``None``: any number.
    Returns: [rows, columns].
    Raises: ValueError: if the file is damaged, holds something else, or has another size.
    """
    try:
        if rows is None:
            blocks = list(_blocks(path, np.dtype(dtype), columns))
            return np.concatenate(blocks) if blocks else np.empty((0, columns or 0), dtype)
        return _fill(path, np.dtype(dtype), rows, columns)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read as numbers: {error}; replace it by a fresh copy") from error


def _fill(path: Path, dtype: np.dtype[Any], rows: int, columns: int | None) -> NDArray[Any]:
    result: NDArray[Any] | None = None
    filled = 0
    for block in _blocks(path, dtype, columns):
        if result is None:
            result = np.empty((rows, block.shape[1]), dtype)
        end = filled + len(block)
        if end <= rows:
            result[filled:end] = block
        filled = end
    if filled != rows:
        raise ValueError(f"{path} must have {rows} rows, as the counts beside it say; got {filled}")
    return np.empty((0, columns or 0), dtype) if result is None else result


def _blocks(path: Path, dtype: np.dtype[Any], columns: int | None) -> Iterator[NDArray[Any]]:
    with gzip.open(path, "rt", encoding="ascii", errors="replace") as file:
        head = file.readline()
    if not head:
        return
    width = head.count(",") + 1
    if columns is not None and width != columns:
        raise ValueError(f"{path} must have {columns} columns, got {width}")
    arrow_type = pa.from_numpy_dtype(dtype)
    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(autogenerate_column_names=True, block_size=_BLOCK_BYTES),
        # A row of one empty cell is an empty line: a label that is missing.
        parse_options=csv.ParseOptions(ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(column_types={f"f{i}": arrow_type for i in range(width)}),
    )
    start = 0
    for batch in reader:
        block = np.empty((batch.num_rows, width), dtype)
        for column in range(width):
            values = batch.column(column)
            if values.null_count and dtype.kind != "f":
                row = start + int(values.is_null().to_numpy(zero_copy_only=False).argmax())
                raise ValueError(f"{path} must hold whole numbers: row {row}, column {column} is empty")
            block[:, column] = values.to_numpy(zero_copy_only=False)
        start += batch.num_rows
        yield block
