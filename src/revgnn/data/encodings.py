"""Encodings of a user's columns as features: fitted once, stored as JSON, and applied to any table chunk by chunk.

A column has a raw form: numbers are [n, size] float64 with NaN for a missing value, times are days since 1970 in the
same form, categories are an Arrow array of large strings, and tags one of lists of them. An encoding converts the raw
form to [n, width] float32, which is finite wherever the raw form is, or has a fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .hashing import hash_ids

Floats = NDArray[np.float32]
Raw = NDArray[np.float64]

LIMIT = 1e6
"""A scaled number is limited to this many scales from the centre, so that one outlier cannot overflow a model."""
_YEAR, _WEEK = 365.2425, 7.0
_UNIFORM = 12**0.5
"""Makes a uniform distribution one of standard deviation 1."""


@dataclass(frozen=True, kw_only=True)
class NumberEncoding:
    """Scale numbers: ``(v - center) / scale`` per column, or the rank among quantiles."""

    size: int
    """Numbers per row."""
    center: tuple[float, ...] = ()
    """[size]; empty: numbers stay as they are."""
    scale: tuple[float, ...] = ()
    """[size], above 0."""
    quantiles: tuple[tuple[float, ...], ...] = ()
    """[size] ascending quantiles of equal probability; empty: ``center`` and ``scale`` apply. An empty row keeps its
    column, which holds 0 and 1 only."""
    fill: tuple[float, ...] | None = None
    """[size] numbers in place of missing ones; ``None``: none may be missing."""
    indicator: bool = False
    """Whether a last column is 1 where a number was missing."""

    @property
    def width(self) -> int:
        """Columns of the result."""
        return self.size + self.indicator

    def apply(self, raw: Raw) -> Floats:
        """Encode [n, size] float64; NaN stays NaN without a fill."""
        missing = np.isnan(raw)
        values = raw if self.fill is None else np.where(missing, np.asarray(self.fill), raw)
        if self.quantiles:
            values = np.stack([_ranked(values[:, at], points) for at, points in enumerate(self.quantiles)], axis=1)
        elif self.center:
            with np.errstate(over="ignore"):
                values = np.clip((values - np.asarray(self.center)) / np.asarray(self.scale), -LIMIT, LIMIT)
        with np.errstate(over="ignore"):
            out = values.astype(np.float32)
        return _with_indicator(out, np.asarray(missing.any(axis=1))) if self.indicator else out


def _ranked(values: Raw, points: tuple[float, ...]) -> Raw:
    """Place values among ascending quantiles: mean 0 and standard deviation 1 for the fitted rows."""
    if not points:
        return values
    grid, at = np.linspace(0.0, 1.0, len(points)), np.asarray(points)
    # The mean of both directions puts a repeated value in the middle of its ranks.
    rank = 0.5 * (np.interp(values, at, grid) - np.interp(-values, -at[::-1], -grid[::-1]))
    ranked: Raw = (np.where(np.isnan(values), np.nan, rank) - 0.5) * _UNIFORM
    return ranked


@dataclass(frozen=True, kw_only=True)
class CategoryEncoding:
    """Encode texts as 0/1 columns, or as the index of the category."""

    categories: tuple[str, ...]
    """In order."""
    one_hot: bool
    """True: a 0/1 column per category, all 0 for another text; False: the index, ``len(categories)`` for another."""
    missing: bool = False
    """Whether a missing value is a category of its own: a last column that is 1 there."""

    @property
    def width(self) -> int:
        """Columns of the result."""
        return (len(self.categories) if self.one_hot else 1) + self.missing

    def apply(self, raw: pa.Array) -> Floats:
        """Encode [n] large strings; a null without `missing` is NaN."""
        absent = _nulls(raw)
        found = pc.index_in(raw, value_set=pa.array(self.categories, pa.large_string()), skip_nulls=True)
        codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        if self.one_hot:
            out = np.zeros((len(codes), len(self.categories)), np.float32)
            known = np.flatnonzero(codes >= 0)
            out[known, codes[known]] = 1
        else:
            out = np.where(codes < 0, len(self.categories), codes).astype(np.float32).reshape(-1, 1)
        if self.missing:
            out[absent] = 0
            return _with_indicator(out, absent)
        out[absent] = np.nan
        return out


@dataclass(frozen=True, kw_only=True)
class TimeEncoding:
    """Encode times as the age in days, scaled, and the time of year, of the week and of the day as sine and cosine."""

    newest: float
    """Days since 1970 at which the age is 0: the latest fitted time."""
    center: float
    """Age that becomes 0."""
    scale: float
    """Days that become 1."""
    of_day: bool
    """Whether the time of the day is encoded too."""
    missing: bool = False
    """Whether a last column is 1 where the time is missing, and the others 0."""

    @property
    def width(self) -> int:
        """Columns of the result."""
        return 5 + 2 * self.of_day + self.missing

    def apply(self, raw: Raw) -> Floats:
        """Encode [n, 1] days since 1970."""
        days = raw[:, 0]
        absent = np.isnan(days)
        age = np.clip((self.newest - days - self.center) / self.scale, -LIMIT, LIMIT)
        columns = [age]
        for period in (_YEAR, _WEEK, 1.0)[: 3 if self.of_day else 2]:
            turn = 2 * np.pi * np.mod(days, period) / period
            columns += [np.sin(turn), np.cos(turn)]
        out = np.stack(columns, axis=1).astype(np.float32)
        if self.missing:
            out[absent] = 0
            return _with_indicator(out, absent)
        return out


@dataclass(frozen=True, kw_only=True)
class TagEncoding:
    """Encode lists of texts as 0/1 columns: one per known tag, or per bucket of a hash."""

    tags: tuple[str, ...] = ()
    """The known tags in order; others are left out."""
    buckets: int = 0
    """Number of buckets, of which a tag's hash names one; 0: the known tags have columns."""
    missing: bool = False
    """Whether a last column is 1 where the list is missing, and the others 0."""

    @property
    def width(self) -> int:
        """Columns of the result."""
        return (self.buckets or len(self.tags)) + self.missing

    def apply(self, raw: pa.Array) -> Floats:
        """Encode [n] lists of large strings; a null list without `missing` is NaN."""
        absent = _nulls(raw)
        rows = pc.list_parent_indices(raw).to_numpy(zero_copy_only=False)
        flat = pc.list_flatten(raw)
        present = ~_nulls(flat)
        if self.buckets:
            codes = (hash_ids(pc.fill_null(flat, ""), 0) % np.uint64(self.buckets)).astype(np.int64)
        else:
            found = pc.index_in(flat, value_set=pa.array(self.tags, pa.large_string()), skip_nulls=True)
            codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        kept = present & (codes >= 0)
        out = np.zeros((len(raw), self.buckets or len(self.tags)), np.float32)
        out[rows[kept], codes[kept]] = 1
        if self.missing:
            return _with_indicator(out, absent)
        out[absent] = np.nan
        return out


Encoding = NumberEncoding | CategoryEncoding | TimeEncoding | TagEncoding
"""What a column of features becomes; `plain_config.from_json` restores it from the JSON of `asdict`."""


def _with_indicator(out: Floats, missing: NDArray[np.bool_]) -> Floats:
    return np.concatenate([out, missing.astype(np.float32).reshape(-1, 1)], axis=1)


def _nulls(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=bool)
