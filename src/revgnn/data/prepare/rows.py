"""Convert a batch of a user's table to numeric rows: ids, features, labels, split and part.

The conversion is a pure function of the batch, so that every engine gives the same result. The column ``bad`` lists the
checks that a row fails; no row is dropped here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..hashing import hash_ids, uniform
from ..readers.parquet import is_null
from ..task import SPLITS
from .columns import FeatureColumn, Key, Marks, Mask, Numbers, Texts, concatenated
from .csv_format import without_words

SPLIT_WORDS = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}
"""Word of a split's column, in any case -> number in `SPLITS`."""
_SPLIT_STREAM = 0x5370_6C69_7400
"""Makes the hash of splits independent of that of parts, for any two seeds."""


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Gives each node its split: by a column, by masks, or by fractions."""

    column: Texts | None = None
    """The column of splits."""
    masks: tuple[tuple[int, Numbers], ...] = ()
    """(number of the split, its column of truth values)."""
    fractions: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Used where there is neither a column nor a mask."""
    seed: int = 0
    unknown: int = 0
    """The check of words that are no split."""
    twice: int = 0
    """The check of rows that two masks name."""
    flags: int = 0
    """The check of masks that are neither 0 nor 1."""

    def read(self, batch: pa.RecordBatch, ids: pa.Array, labelled: Mask, marks: Marks) -> NDArray[np.int8]:
        """Return [rows] numbers in `SPLITS`, -1: in no split. Fractions leave out nodes without a label."""
        if self.column is not None:
            words = pc.utf8_lower(pc.utf8_trim_whitespace(self.column.raw(batch, marks)))
            code = codes(words, tuple(SPLIT_WORDS), self.unknown, marks)
            return np.append(np.array([*SPLIT_WORDS.values()], np.int8), np.int8(-1))[code]
        if self.masks:
            split = np.full(batch.num_rows, -1, np.int8)
            for number, mask in self.masks:
                given = mask.raw(batch, marks)[:, 0]
                marks.add(self.flags, ~np.isin(given, (0, 1)) & ~np.isnan(given))
                marks.add(self.twice, (given == 1) & (split >= 0))
                split[given == 1] = number
            return split
        drawn = uniform(hash_ids(_without_null(ids), self.seed ^ _SPLIT_STREAM))
        split = np.searchsorted(np.cumsum(self.fractions), drawn, side="right").astype(np.int8)
        return np.where(labelled & (split < len(SPLITS)), split, np.int8(-1)).astype(np.int8)


def codes(values: pa.Array, known: tuple[str, ...], unknown: int | None, marks: Marks) -> NDArray[np.int64]:
    """Encode texts by their index among the known ones; -1: null or unknown, which is a fault of the check."""
    found = pc.index_in(values, value_set=pa.array(known, pa.large_string()), skip_nulls=True)
    code: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    if unknown is not None:
        marks.add(unknown, (code < 0) & ~is_null(values))
    return code


@dataclass(frozen=True, kw_only=True)
class NodeRows:
    """Converts batches of nodes."""

    key: Key
    features: tuple[FeatureColumn, ...]
    labels: tuple[Numbers, ...]
    """The label columns of tasks whose labels are columns."""
    label: Texts | None
    """The label column of classes, which are numbered; of two classes of a binary task, as 0 and 1."""
    is_flag: bool
    """Whether ``label`` has the two classes of a binary task."""
    classes: tuple[str, ...]
    has_labels: bool
    """Whether the configuration names a label."""
    unlabelled_words: tuple[str, ...]
    """Labels that mean an unknown one, such as -1."""
    unknown_class: int | None
    """The check of labels outside the classes; ``None``: they are unknown labels, as of a graph to be predicted."""
    binary: int | None
    """The check of yes-or-no labels: 0, 1 or null."""
    unlabelled: int
    """The check of rows in a split without a label, which are in no split where ``unknown_class`` is ``None``."""
    split: SplitRule
    part: Numbers | None
    """The column of parts; ``None``: by hash."""
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
        return 1 if self.is_flag else sum(column.size for column in self.labels)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result of `read`."""
        y = pa.list_(pa.float32(), self.num_targets) if self.num_targets else pa.int64()
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

    def read(self, batch: pa.RecordBatch, file: int, row: int) -> pa.Table:
        """Convert a batch to rows of `schema`: part -1 for a row without an id, split -1 for a row in no split."""
        marks = Marks(batch.num_rows)
        ids = self.key.read(batch, marks)
        x = concatenated(self.features, batch, marks)
        y, labelled = self._labels(batch, marks)
        split = self.split.read(batch, ids, labelled, marks)
        if self.unknown_class is None:
            split = np.where(labelled, split, np.int8(-1)).astype(np.int8)
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

    def _labels(self, batch: pa.RecordBatch, marks: Marks) -> tuple[NDArray[np.int64] | NDArray[np.float32], Mask]:
        if self.label is not None:
            words = without_words(self.label.raw(batch, marks), self.unlabelled_words)
            y = codes(words, self.classes, self.unknown_class, marks)
            return np.where(y < 0, np.nan, y).astype(np.float32).reshape(-1, 1) if self.is_flag else y, y >= 0
        if not self.labels:
            # With has_labels the label column is missing and already reported; the other checks continue.
            return np.full(batch.num_rows, 0 if self.has_labels else -1), np.full(batch.num_rows, self.has_labels)
        targets = np.concatenate([column.raw(batch, marks) for column in self.labels], axis=1).astype(np.float32)
        for word in self.unlabelled_words:
            targets[targets == np.float32(word)] = np.nan
        if self.binary is not None:
            other = ~np.isin(targets, (0, 1)) & np.isfinite(targets)
            marks.add(self.binary, np.asarray(other.any(axis=1)))
        return targets, np.asarray(~np.isnan(targets).all(axis=1))

    def _parts(self, batch: pa.RecordBatch, ids: pa.Array, marks: Marks) -> NDArray[np.int32]:
        missing = is_null(ids)
        if self.part is None:
            part = (hash_ids(_without_null(ids), self.part_seed) % np.uint64(self.num_parts)).astype(np.int32)
        else:
            given = np.nan_to_num(self.part.raw(batch, marks)[:, 0], nan=-1.0)
            bad = (given < 0) | (given >= self.num_parts) | (given != np.floor(given))
            marks.add(self.bad_part, bad)
            part = np.where(bad, 0, given).astype(np.int32)
        return np.where(missing, np.int32(-1), part)


@dataclass(frozen=True, kw_only=True)
class EdgeRows:
    """Converts batches of edges."""

    src: Key
    dst: Key
    features: tuple[FeatureColumn, ...]

    @property
    def width(self) -> int:
        """K."""
        return sum(column.width for column in self.features)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result of `read`."""
        fields = [("src", self.src.kind), ("dst", self.dst.kind), ("file", pa.int32()), ("row", pa.int64())]
        attr = [("edge_attr", pa.list_(pa.float32(), self.width))] if self.features else []
        return pa.schema([*fields, *attr, ("bad", pa.large_list(pa.int32()))])

    def read(self, batch: pa.RecordBatch, file: int, row: int) -> pa.Table:
        """Convert a batch to rows of `schema`."""
        marks = Marks(batch.num_rows)
        ends = [key.read(batch, marks) for key in (self.src, self.dst)]
        place = [
            pa.array(np.full(batch.num_rows, file, np.int32)),
            pa.array(np.arange(row, row + batch.num_rows)),
        ]
        attr = [_fixed(concatenated(self.features, batch, marks))] if self.features else []
        return pa.Table.from_arrays([*ends, *place, *attr, marks.column()], schema=self.schema)


def _without_null(ids: pa.Array) -> pa.Array:
    return pc.fill_null(ids, pa.scalar("" if pa.types.is_large_string(ids.type) else 0, ids.type))


def _fixed(values: NDArray[np.generic]) -> pa.Array:
    """Convert [rows, width] to a column of lists of fixed size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
