"""Rows of a user's tables as rows of numbers: what a task of an engine makes of one batch.

Pure functions of a batch, so that every engine gives the same. What is wrong with a row stands in its list ``bad``, as
numbers of checks; nothing is dropped here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..batch import SPLITS
from ..readers.parquet import is_list, is_null
from .hashing import hash_ids, uniform

Mask = NDArray[np.bool_]
_SPLIT_STREAM = 0x5370_6C69_7400
"""Keeps the draw of splits apart from that of parts, whatever the two seeds are."""


@dataclass
class Checks:
    """What can be wrong with a row, each with a number."""

    known: list[tuple[str, str]] = field(default_factory=list)
    """(column, what is wrong and what to do)."""

    def number(self, column: str, text: str) -> int:
        """Give the number of a check, a new one where it is new."""
        if (column, text) not in self.known:
            self.known.append((column, text))
        return self.known.index((column, text))


class Marks:
    """The checks that the rows of one batch fail."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: list[NDArray[np.int64]] = []
        self._checks: list[NDArray[np.int32]] = []

    def add(self, check: int, bad: Mask) -> None:
        """Mark rows."""
        rows = np.flatnonzero(bad)
        if rows.size:
            self._rows.append(rows)
            self._checks.append(np.full(rows.size, check, np.int32))

    def column(self) -> Any:
        """Give [rows] lists of int32."""
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
    """int64 or large_string."""
    null: int
    """The check of rows without an id."""
    large: int
    """The check of integers of 2^63 and above."""

    def read(self, batch: Any, marks: Marks) -> Any:
        """Give the ids; null where a row has none that can be used."""
        values = plain(batch.column(self.column))
        marks.add(self.null, is_null(values))
        if pa.types.is_uint64(values.type):
            large = pc.fill_null(pc.greater_equal(values, pa.scalar(2**63, pa.uint64())), False)
            marks.add(self.large, np.asarray(large.to_numpy(zero_copy_only=False), dtype=bool))
            values = pc.if_else(large, pa.scalar(None, pa.uint64()), values)
        return values.cast(self.kind)


@dataclass(frozen=True)
class Numbers:
    """A column of numbers, or of lists of them, as it is."""

    column: str
    width: int
    null: int | None
    """The check of rows without a value; ``None``: they are NaN, and allowed."""
    length: int
    finite: int

    def read(self, batch: Any, marks: Marks) -> NDArray[np.float32]:
        """Give [rows, width]."""
        values = plain(batch.column(self.column))
        missing = is_null(values)
        if self.null is not None:
            marks.add(self.null, missing)
        if not is_list(values.type):
            return self._checked(_floats(values).reshape(-1, 1), missing, marks)
        lengths = pc.fill_null(pc.list_value_length(values), -1).to_numpy(zero_copy_only=False)
        right = lengths == self.width
        marks.add(self.length, ~right & ~missing)
        out = np.full((len(values), self.width), np.nan, np.float32)
        out[right] = _floats(values.filter(pa.array(right)).flatten()).reshape(-1, self.width)
        return self._checked(out, ~right, marks)

    def _checked(self, out: NDArray[np.float32], missing: Mask, marks: Marks) -> NDArray[np.float32]:
        bad = np.isinf(out) if self.null is None else ~np.isfinite(out)
        marks.add(self.finite, bad.any(axis=1) & ~missing)
        return out


@dataclass(frozen=True)
class Categories:
    """A column of categories: their numbers, or one column of zeros and ones each."""

    column: str
    values: tuple[str, ...]
    one_hot: bool
    null: int
    unknown: int

    @property
    def width(self) -> int:
        """Columns that it becomes."""
        return len(self.values) if self.one_hot else 1

    def read(self, batch: Any, marks: Marks) -> NDArray[np.float32]:
        """Give [rows, width]."""
        code = codes(as_text(batch.column(self.column)), self.values, self.null, self.unknown, marks)
        if not self.one_hot:
            return code.astype(np.float32).reshape(-1, 1)
        out = np.zeros((len(code), self.width), np.float32)
        known = np.flatnonzero(code >= 0)
        out[known, code[known]] = 1
        return out


Column = Numbers | Categories


def side_by_side(columns: tuple[Column, ...], batch: Any, marks: Marks) -> NDArray[np.float32]:
    """Read columns into [rows, F]."""
    return np.concatenate([column.read(batch, marks) for column in columns], axis=1)


def codes(values: Any, known: tuple[str, ...], null: int | None, unknown: int, marks: Marks) -> NDArray[np.int64]:
    """Number texts by their place among the known ones; -1: null, or none of them."""
    missing = is_null(values)
    found = pc.index_in(values, value_set=pa.array(known, pa.large_string()), skip_nulls=True)
    code: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    if null is not None:
        marks.add(null, missing)
    marks.add(unknown, (code < 0) & ~missing)
    return code


@dataclass(frozen=True, kw_only=True)
class NodeRows:
    """How a batch of nodes is read."""

    key: Key
    features: tuple[Column, ...]
    labels: tuple[Numbers, ...]
    """Of tasks whose labels are columns."""
    label: str | None
    """Of multiclass."""
    classes: tuple[str, ...]
    learned: bool
    """Whether anything is known of the nodes."""
    unknown_class: int
    binary: int | None
    """The check of yes-or-no labels: 0, 1 or null."""
    unlabelled: int
    """The check of rows in a split without a label."""
    split: str | None
    unknown_split: int
    fractions: tuple[float, ...]
    split_seed: int
    part: str | None
    """A column of parts; ``None``: by hash."""
    bad_part: int
    num_parts: int
    part_seed: int

    @property
    def width(self) -> int:
        """F."""
        return sum(column.width for column in self.features)

    @property
    def num_targets(self) -> int:
        """T where labels are columns, 0 for classes."""
        return sum(column.width for column in self.labels)

    @property
    def schema(self) -> pa.Schema:
        """Of what `read` gives."""
        y = pa.list_(pa.float32(), self.num_targets) if self.labels else pa.int64()
        return pa.schema(
            [
                ("id", self.key.kind),
                ("file", pa.int32()),
                ("row", pa.int64()),
                ("part", pa.int32()),
                ("split", pa.int8()),
                ("x", pa.list_(pa.float32(), self.width)),
                ("y", y),
                ("bad", pa.large_list(pa.int32())),
            ]
        )

    def read(self, batch: Any, file: int, row: int) -> pa.Table:
        """Give the rows of `schema`: part -1 where there is no id, split -1 where there is none."""
        marks = Marks(batch.num_rows)
        ids = self.key.read(batch, marks)
        x = side_by_side(self.features, batch, marks)
        y, labelled = self._labels(batch, marks)
        split = self._splits(batch, ids, labelled, marks)
        marks.add(self.unlabelled, (split >= 0) & ~labelled)
        columns = [
            ids,
            pa.array(np.full(batch.num_rows, file, np.int32)),
            pa.array(np.arange(row, row + batch.num_rows)),
            pa.array(self._parts(batch, ids, marks)),
            pa.array(split),
            _fixed(x),
            _fixed(y) if y.ndim == 2 else pa.array(y),
            marks.column(),
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _labels(self, batch: Any, marks: Marks) -> tuple[NDArray[Any], Mask]:
        if self.label is not None:
            y = codes(as_text(batch.column(self.label)), self.classes, None, self.unknown_class, marks)
            return y, y >= 0
        if not self.labels:
            # Where there should be labels, the column is a fault that is in the report already; other checks go on.
            return np.full(batch.num_rows, 0 if self.learned else -1), np.full(batch.num_rows, self.learned)
        targets = side_by_side(self.labels, batch, marks)
        if self.binary is not None:
            other = ~np.isin(targets, (0, 1)) & np.isfinite(targets)
            marks.add(self.binary, np.asarray(other.any(axis=1)))
        return targets, np.asarray(~np.isnan(targets).all(axis=1))

    def _splits(self, batch: Any, ids: Any, labelled: Mask, marks: Marks) -> NDArray[np.int8]:
        if self.split is not None:
            return codes(as_text(batch.column(self.split)), SPLITS, None, self.unknown_split, marks).astype(np.int8)
        drawn = uniform(hash_ids(_without_null(ids), self.split_seed ^ _SPLIT_STREAM))
        split = np.searchsorted(np.cumsum(self.fractions), drawn, side="right").astype(np.int8)
        return np.where(labelled & (split < len(SPLITS)), split, np.int8(-1)).astype(np.int8)

    def _parts(self, batch: Any, ids: Any, marks: Marks) -> NDArray[np.int32]:
        missing = is_null(ids)
        if self.part is None:
            part = (hash_ids(_without_null(ids), self.part_seed) % np.uint64(self.num_parts)).astype(np.int32)
        else:
            values = plain(batch.column(self.part))
            absent = is_null(values)
            given = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
            bad = absent | (given < 0) | (given >= self.num_parts)
            marks.add(self.bad_part, bad)
            part = np.where(bad, 0, given).astype(np.int32)
        return np.where(missing, np.int32(-1), part)


@dataclass(frozen=True, kw_only=True)
class EdgeRows:
    """How a batch of edges is read."""

    src: Key
    dst: Key
    features: tuple[Column, ...]

    @property
    def width(self) -> int:
        """K."""
        return sum(column.width for column in self.features)

    @property
    def schema(self) -> pa.Schema:
        """Of what `read` gives."""
        fields = [("src", self.src.kind), ("dst", self.dst.kind), ("file", pa.int32()), ("row", pa.int64())]
        attr = [("edge_attr", pa.list_(pa.float32(), self.width))] if self.features else []
        return pa.schema([*fields, *attr, ("bad", pa.large_list(pa.int32()))])

    def read(self, batch: Any, file: int, row: int) -> pa.Table:
        """Give the rows of `schema`."""
        marks = Marks(batch.num_rows)
        ends = [key.read(batch, marks) for key in (self.src, self.dst)]
        place = [
            pa.array(np.full(batch.num_rows, file, np.int32)),
            pa.array(np.arange(row, row + batch.num_rows)),
        ]
        attr = [_fixed(side_by_side(self.features, batch, marks))] if self.features else []
        return pa.Table.from_arrays([*ends, *place, *attr, marks.column()], schema=self.schema)


def plain(column: Any) -> Any:
    """Give a column without dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def as_text(column: Any) -> Any:
    """Write values as texts: whole floats as whole numbers, NaN as null."""
    values = plain(column)
    if pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64())
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        small = pc.and_(pc.equal(numbers, pc.round(numbers)), pc.less(pc.abs(numbers), 2.0**53))
        whole = pc.if_else(small, numbers, pa.scalar(None, pa.float64())).cast(pa.int64()).cast(pa.large_string())
        return pc.coalesce(whole, numbers.cast(pa.large_string()))
    return values.cast(pa.large_string())


def _floats(values: Any) -> NDArray[np.float32]:
    """Null becomes NaN; float64 beyond float32 becomes infinite, which a check reports."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    with np.errstate(over="ignore"):
        return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.float32)


def _without_null(ids: Any) -> Any:
    return pc.fill_null(ids, pa.scalar("" if pa.types.is_large_string(ids.type) else 0, ids.type))


def _fixed(values: NDArray[np.float32]) -> Any:
    """Pack [rows, width] into lists of fixed size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
