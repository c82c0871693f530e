"""Fits encodings to columns: statistics and categories of the training rows, gathered chunk by chunk.

A fitter receives the raw form of a column (see `encodings`) in any number of chunks, and gives the encoding. Chunks
arrive in the order of the rows, so that two runs give the same bits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..encodings import CategoryEncoding, NumberEncoding, Raw, TagEncoding, TimeEncoding
from ..hashing import hash_ids

Scale = Literal["none", "standard", "robust", "quantile"]
Fill = Literal["mean", "median", "zero", "category"]
Rows = NDArray[np.bool_]

SAMPLE = 1 << 15
"""Rows from which medians and quantiles are taken, chosen by a hash of the row number."""
QUANTILES = 101
MOST_VALUES = 1 << 20
"""Different texts of a column that are counted; a column with more has ids or prose."""
LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def ascending(values: list[str]) -> tuple[str, ...]:
    """Sort texts, numerically if all are integers."""
    are_integers = all(value.removeprefix("-").isdecimal() and str(int(value)) == value for value in values)
    return tuple(sorted(values, key=int) if are_integers else sorted(values))


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of every column, merged by Chan's formula.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    count: Raw
    mean: Raw
    squares: Raw

    @classmethod
    def of(cls, values: Raw) -> Moments:
        """Compute the moments of [n, size], without missing and infinite values."""
        good = np.isfinite(values)
        if good.all():
            mean = values.mean(axis=0)
            return cls(np.full(values.shape[1], float(len(values))), mean, ((values - mean) ** 2).sum(axis=0))
        count = good.sum(axis=0).astype(np.float64)
        mean = np.where(good, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, (np.where(good, values - mean, 0.0) ** 2).sum(axis=0))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.count * share
        return Moments(count, self.mean + apart * share, squares)

    @property
    def deviation(self) -> Raw:
        """Standard deviation; 1 where all values are equal up to rounding."""
        found = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.asarray(np.where(found > 1e-12 * np.abs(self.mean), np.maximum(found, _SMALLEST), 1.0))


class NumberFitter:
    """Fits a `NumberEncoding`.

    Args:
        size: numbers per row.
        scale, fill: the choices of the configuration.
    """

    def __init__(self, size: int, scale: Scale, fill: Fill | None) -> None:
        self.size, self._scale, self._fill = size, scale, fill
        self.moments = Moments(*(np.zeros(size) for _ in range(3)))
        self.largest = 0.0
        self.are_whole = True
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self._flags = np.ones(size, bool)
        self._missing = False
        self._needs_sample = scale in ("robust", "quantile") or fill == "median"
        self._sample = np.empty((0, size))
        self._keys = np.empty(0, np.uint64)
        self._seen = 0

    def update(self, raw: Raw, train: Rows) -> None:
        """Add rows: the statistics are those of the rows marked in ``train``, missing values are seen in all."""
        self._missing |= bool(np.isnan(raw).any())
        rows = raw[train]
        first, self._seen = self._seen, self._seen + len(rows)
        if not len(rows):
            return
        with np.errstate(invalid="ignore"):
            if not (rows.min() >= -LARGEST and rows.max() <= LARGEST):
                rows = np.where(np.abs(rows) <= LARGEST, rows, np.nan)
            self.low, self.high = np.fmin(self.low, np.fmin.reduce(rows)), np.fmax(self.high, np.fmax.reduce(rows))
            if self._flags.any():
                self._flags &= (np.isnan(rows) | (rows == 0) | (rows == 1)).all(axis=0)
            self.are_whole = self.are_whole and bool((np.isnan(rows) | (rows == np.rint(rows))).all())
        if self._scale == "none" and self._fill in (None, "zero", "category"):
            return
        self.moments = self.moments.merged(Moments.of(rows))
        if self._needs_sample:
            self._draw(rows, hash_ids(pa.array(np.arange(first, self._seen)), 0))

    def _draw(self, rows: Raw, keys: NDArray[np.uint64]) -> None:
        """Keep the rows with the smallest hashes, whatever the chunks are."""
        keys, rows = np.concatenate([self._keys, keys]), np.concatenate([self._sample, rows])
        kept = np.sort(np.argsort(keys, kind="stable")[:SAMPLE])
        self._keys, self._sample = keys[kept], rows[kept]

    def finish(self) -> NumberEncoding:
        """Return the encoding."""
        center, scale = np.zeros(self.size), np.ones(self.size)
        quantiles: tuple[tuple[float, ...], ...] = ()
        points = self._quantiles() if self._needs_sample else None
        if self._scale == "standard":
            center, scale = self.moments.mean, self.moments.deviation
        elif self._scale == "robust" and points is not None:
            center, width = points[50], points[75] - points[25]
            scale = np.where(width > 1e-12 * np.abs(center), width, self.moments.deviation)
        elif self._scale == "quantile" and points is not None:
            quantiles = tuple(
                () if flag else tuple(column.tolist()) for flag, column in zip(self._flags, points.T, strict=True)
            )
        # Flags, 0 or 1, keep their values: they are bounded, and a rare 1 must not become large.
        center, scale = np.where(self._flags, 0.0, center), np.where(self._flags, 1.0, scale)
        scaled = self._scale in ("standard", "robust")
        filled = self._fill is not None
        return NumberEncoding(
            size=self.size,
            center=tuple(center.tolist()) if scaled else (),
            scale=tuple(scale.tolist()) if scaled else (),
            quantiles=quantiles,
            fill=tuple(self._fills(center, points).tolist()) if filled else None,
            indicator=filled and self._missing,
        )

    def _fills(self, center: Raw, points: Raw | None) -> Raw:
        if self._fill == "mean":
            return self.moments.mean
        if self._fill == "median" and points is not None:
            return np.asarray(points[50])
        if self._fill == "zero":
            return np.zeros(self.size)
        # A category of its own is told by the indicator; the number is the middle, which adds nothing.
        return np.asarray(points[50]) if self._scale == "quantile" and points is not None else center

    def _quantiles(self) -> Raw:
        """[QUANTILES, size]; 0 where a column has no values."""
        out = np.zeros((QUANTILES, self.size))
        grid = np.linspace(0.0, 1.0, QUANTILES)
        for column in range(self.size):
            values = self._sample[:, column]
            values = values[~np.isnan(values)]
            if len(values):
                out[:, column] = np.quantile(values, grid)
        return out


class CategoryFitter:
    """Fits a `CategoryEncoding`.

    Args:
        one_hot: a column per category, or the index.
        most: the number of categories to keep, the most frequent ones; ``None``: all.
        fill: any fill makes a missing value a category of its own.
    """

    def __init__(self, one_hot: bool, most: int | None, fill: Fill | None) -> None:
        self._one_hot, self._most, self._fill = one_hot, most, fill
        self._missing = False
        self.counts: Counter[str] = Counter()

    def update(self, raw: pa.Array, train: Rows) -> None:
        """Add rows."""
        self._missing |= bool(raw.null_count)
        count_values(self.counts, raw.filter(pa.array(train)))

    def finish(self) -> CategoryEncoding:
        """Return the encoding."""
        kept = sorted(self.counts, key=lambda value: (-self.counts[value], value))[: self._most]
        missing = self._fill is not None and self._missing
        return CategoryEncoding(categories=ascending(kept), one_hot=self._one_hot, missing=missing)


class TimeFitter:
    """Fits a `TimeEncoding`."""

    def __init__(self, fill: Fill | None) -> None:
        self._fill, self._numbers = fill, NumberFitter(1, "standard", None)
        self._missing, self._of_day = False, False

    def update(self, raw: Raw, train: Rows) -> None:
        """Add rows."""
        self._missing |= bool(np.isnan(raw).any())
        known = raw[~np.isnan(raw)]
        self._of_day |= bool((known != np.floor(known)).any())
        self._numbers.update(raw, train)

    def finish(self) -> TimeEncoding:
        """Return the encoding."""
        newest = float(self._numbers.high[0]) if np.isfinite(self._numbers.high[0]) else 0.0
        moments = self._numbers.moments
        return TimeEncoding(
            newest=newest,
            center=newest - float(moments.mean[0]),
            scale=float(moments.deviation[0]),
            of_day=self._of_day,
            missing=self._fill is not None and self._missing,
        )


@dataclass
class TagFitter:
    """Fits a `TagEncoding`: a column per tag, or per bucket where there are more tags than that."""

    buckets: int
    fill: Fill | None
    counts: Counter[str] = field(default_factory=Counter)
    missing: bool = False

    def update(self, raw: pa.Array, train: Rows) -> None:
        """Add rows."""
        self.missing |= bool(raw.null_count)
        count_values(self.counts, pc.list_flatten(raw.filter(pa.array(train))))

    def finish(self) -> TagEncoding:
        """Return the encoding."""
        missing = self.fill is not None and self.missing
        if len(self.counts) > self.buckets:
            return TagEncoding(buckets=self.buckets, missing=missing)
        return TagEncoding(tags=ascending(list(self.counts)), missing=missing)


Fitter = NumberFitter | CategoryFitter | TimeFitter | TagFitter


def count_values(counts: Counter[str], values: pa.Array) -> None:
    """Count the texts of a column; beyond `MOST_VALUES` different ones, new texts are no longer counted."""
    found = pc.value_counts(values.drop_null())
    names, times = found.field("values").to_pylist(), found.field("counts").to_pylist()
    for name, number in zip(names, times, strict=True):
        if name in counts or len(counts) < MOST_VALUES:
            counts[name] += number
