"""Reads one column of a batch in its raw form (see `encodings`), and marks the rows that fail a check.

Each value knows its column's name and the numbers of its checks. Columns of a CSV file arrive as texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..encodings import CategoryEncoding, Encoding, Raw
from ..readers.parquet import is_fractional, is_list, is_null, is_text
from .csv_format import PLAIN, CsvFormat, as_integers, as_numbers, as_times, without_words
from .fitting import LARGEST

Mask = NDArray[np.bool_]
_DAY_US = 86_400e6


@dataclass
class Checks:
    """The numbered checks of rows."""

    known: list[tuple[str, str]] = field(default_factory=list)
    """(column, fault and remedy) of every check."""

    def number(self, column: str, text: str) -> int:
        """Return the number of a check; register it if it is new."""
        if (column, text) not in self.known:
            self.known.append((column, text))
        return self.known.index((column, text))


class Marks:
    """Collects the checks that the rows of one batch fail."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: list[NDArray[np.int64]] = []
        self._checks: list[NDArray[np.int32]] = []

    def add(self, check: int, bad: Mask) -> None:
        """Mark the rows of a mask as failing a check."""
        rows = np.flatnonzero(bad)
        if rows.size:
            self._rows.append(rows)
            self._checks.append(np.full(rows.size, check, np.int32))

    def rows(self) -> Mask:
        """Return the mask of rows that fail any check."""
        failed = np.zeros(self._num_rows, bool)
        failed[np.concatenate([np.empty(0, np.int64), *self._rows])] = True
        return failed

    def extend(self, other: Marks) -> None:
        """Add the marks of the same rows."""
        self._rows += other._rows
        self._checks += other._checks

    def column(self) -> pa.Array:
        """Return [rows] lists of int32, the failed checks of every row."""
        rows = np.concatenate(self._rows) if self._rows else np.empty(0, np.int64)
        checks = np.concatenate(self._checks) if self._checks else np.empty(0, np.int32)
        offsets = np.zeros(self._num_rows + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=self._num_rows), out=offsets[1:])
        order = np.argsort(rows, kind="stable")
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(checks[order]))


@dataclass(frozen=True)
class Key:
    """A column of ids."""

    column: str
    kind: pa.DataType
    """int64 or large_string, to which the column's own type is cast without loss."""
    null: int
    """The check of rows without an id."""
    large: int
    """The check of integers of 2^63 and above."""
    other: int
    """The check of texts and fractions where ids are integers."""

    def read(self, batch: pa.RecordBatch, marks: Marks) -> pa.Array:
        """Return the ids, null for a missing or unusable one."""
        values = decoded(batch.column(self.column))
        if is_fractional(values.type):
            values = as_text(values)
        marks.add(self.null, is_null(values))
        if pa.types.is_uint64(values.type):
            large = pc.fill_null(pc.greater_equal(values, pa.scalar(2**63, pa.uint64())), False)
            marks.add(self.large, np.asarray(large.to_numpy(zero_copy_only=False), dtype=bool))
            values = pc.if_else(large, pa.scalar(None, pa.uint64()), values)
        if pa.types.is_integer(values.type) or not pa.types.is_integer(self.kind):
            return values.cast(self.kind)
        text = values.cast(pa.large_string())
        ids = as_integers(text)
        marks.add(self.other, is_null(ids) & ~is_null(text))
        return ids


@dataclass(frozen=True)
class Numbers:
    """A column of numbers, truth values or lists of numbers."""

    column: str
    size: int
    """Numbers per row."""
    length: int
    """The check of lists of another length than ``size``."""
    finite: int
    """The check of values that are infinite, or beyond float32."""
    text: int
    """The check of texts that are no numbers."""
    csv: CsvFormat = PLAIN
    negative: int | None = None
    """The check of numbers below 0; ``None``: they are allowed."""

    def raw(self, batch: pa.RecordBatch, marks: Marks) -> Raw:
        """Return [rows, size] float64; NaN: missing, or marked."""
        values = decoded(batch.column(self.column))
        if is_text(values.type):
            numbers, other = as_numbers(values.cast(pa.large_string()), self.csv)
            marks.add(self.text, other)
            return self._checked(numbers.reshape(-1, 1), marks)
        if not is_list(values.type):
            return self._checked(_doubles(values).reshape(-1, 1), marks)
        lengths = pc.fill_null(pc.list_value_length(values), -1).to_numpy(zero_copy_only=False)
        right = lengths == self.size
        if right.all():
            return self._checked(_doubles(values.flatten()).reshape(-1, self.size), marks)
        marks.add(self.length, ~right & ~is_null(values))
        out = np.full((len(values), self.size), np.nan)
        out[right] = _doubles(values.filter(pa.array(right)).flatten()).reshape(-1, self.size)
        return self._checked(out, marks)

    def _checked(self, out: Raw, marks: Marks) -> Raw:
        with np.errstate(invalid="ignore"):
            is_large = out.size > 0 and not (out.min() >= -LARGEST and out.max() <= LARGEST)
        if is_large:
            large = np.abs(out) > LARGEST
            marks.add(self.finite, np.asarray(large.any(axis=1)))
            out = np.where(large, np.nan, out)
        if self.negative is not None:
            marks.add(self.negative, np.asarray((out < 0).any(axis=1)))
        return out


@dataclass(frozen=True)
class Texts:
    """A column whose values are categories, read as text."""

    column: str
    csv: CsvFormat = PLAIN
    are_numbers: bool = False
    """Whether the texts of a CSV file are numbers with a point, of which 1.0 is the category 1."""

    def raw(self, batch: pa.RecordBatch, marks: Marks) -> pa.Array:
        """Return [rows] large strings; null: missing."""
        values = without_words(as_text(batch.column(self.column)), self.csv.null_words or ())
        if not self.are_numbers:
            return values
        numbers, other = as_numbers(values, self.csv)
        return pc.if_else(pa.array(other), values, as_text(pa.array(numbers)))


@dataclass(frozen=True)
class Times:
    """A column of times: timestamps, dates, texts of ISO 8601, or numbers of seconds since 1970."""

    column: str
    text: int
    """The check of texts that are no times."""
    csv: CsvFormat = PLAIN

    def raw(self, batch: pa.RecordBatch, marks: Marks) -> Raw:
        """Return [rows, 1] float64 days since 1970; NaN: missing, or marked."""
        values = decoded(batch.column(self.column))
        if is_text(values.type):
            values, other = as_times(values.cast(pa.large_string()), self.csv)
            marks.add(self.text, other)
        if pa.types.is_integer(values.type) or is_fractional(values.type):
            days = _doubles(values) / 86_400.0
        else:
            micros = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
            days = _doubles(micros) / _DAY_US
        return np.where(np.isfinite(days), days, np.nan).reshape(-1, 1)


@dataclass(frozen=True)
class TextLists:
    """A column of lists of texts."""

    column: str

    def raw(self, batch: pa.RecordBatch, marks: Marks) -> pa.Array:
        """Return [rows] large lists of large strings; null: missing."""
        return batch.column(self.column).cast(pa.large_list(pa.large_string()))


Source = Numbers | Texts | Times | TextLists


@dataclass(frozen=True)
class FeatureColumn:
    """A column of features: how it is read, and what it becomes."""

    source: Source
    encoding: Encoding
    null: int
    """The check of rows without a value that the encoding does not fill."""
    nan: int
    """The check of rows with NaN, or a null in a list, that the encoding does not fill."""
    unknown: int | None = None
    """The check of texts that are none of the listed categories; ``None``: they are no fault."""

    @property
    def column(self) -> str:
        """Its name."""
        return self.source.column

    @property
    def width(self) -> int:
        """Its columns in the features."""
        return self.encoding.width

    def read(self, batch: pa.RecordBatch, marks: Marks) -> NDArray[np.float32]:
        """Return [rows, width]; NaN in rows that are marked."""
        own = Marks(batch.num_rows)
        raw = self.source.raw(batch, own)
        if self.unknown is not None and isinstance(self.encoding, CategoryEncoding):
            known = pc.is_in(raw, value_set=pa.array(self.encoding.categories, pa.large_string()))
            own.add(self.unknown, ~np.asarray(known.to_numpy(zero_copy_only=False), bool) & ~is_null(raw))
        failed = own.rows()
        out: NDArray[np.float32] = self.encoding.apply(raw)
        left, absent = np.isnan(out).any(axis=1) & ~failed, is_null(batch.column(self.column))
        own.add(self.null, left & absent)
        own.add(self.nan, left & ~absent)
        marks.extend(own)
        return out


def concatenated(columns: tuple[FeatureColumn, ...], batch: pa.RecordBatch, marks: Marks) -> NDArray[np.float32]:
    """Read columns and concatenate them to [rows, F]."""
    return np.concatenate([column.read(batch, marks) for column in columns], axis=1)


def decoded(column: pa.Array) -> pa.Array:
    """Return a column without dictionary encoding."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def as_text(column: pa.Array) -> pa.Array:
    """Convert values to text: integral floats and decimals like integers, NaN to null."""
    values = decoded(column)
    if pa.types.is_decimal(values.type):
        return pc.replace_substring_regex(values.cast(pa.large_string()), r"\.0+$", "")
    if pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64())
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        is_integral = pc.and_(pc.equal(numbers, pc.round(numbers)), pc.less(pc.abs(numbers), 2.0**53))
        integers = pc.if_else(is_integral, numbers, pa.scalar(None, pa.float64())).cast(pa.int64())
        return pc.coalesce(integers.cast(pa.large_string()), numbers.cast(pa.large_string()))
    return values.cast(pa.large_string())


def _doubles(values: pa.Array) -> NDArray[np.float64]:
    """Convert to float64; null becomes NaN."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False))
