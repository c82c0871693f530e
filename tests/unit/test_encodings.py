"""Encodings of columns: chunks give what the whole gives, nothing that is not finite leaves, JSON restores them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from revgnn.data.encodings import LIMIT, CategoryEncoding, Encoding, NumberEncoding, TagEncoding
from revgnn.data.prepare.csv_format import PLAIN, CsvFormat, as_integers, as_numbers
from revgnn.data.prepare.fitting import CategoryFitter, Fitter, NumberFitter, TagFitter, TimeFitter
from revgnn.plain_config import from_json

FILLS = st.sampled_from([None, "mean", "median", "zero", "category"])
SCALES = st.sampled_from(["none", "standard", "robust", "quantile"])
NUMBER = st.one_of(
    st.just(float("nan")),
    st.floats(-3.4e38, 3.4e38),
    st.sampled_from([0.0, 1.0, -1e-300, 5e-324, 16_777_217.0, 1.7e9]),
)
WORD = st.sampled_from(["", "a", "b", "NA", "é", "a b"])


@dataclass
class Drawn:
    """A column in its raw form, which rows are of training, and how it is fitted."""

    raw: Any
    train: NDArray[np.bool_]
    make: Callable[[], Any]
    is_filled: bool

    def fitted(self, cuts: list[int]) -> Encoding:
        """Fit in chunks that begin at some rows."""
        fitter: Fitter = self.make()
        ends = sorted({0, *cuts, len(self.train)})
        for low, high in zip(ends, ends[1:], strict=False):
            fitter.update(self.raw[low:high], self.train[low:high])
        return fitter.finish()


@st.composite
def columns(draw: Any) -> Drawn:
    rows, fill = draw(st.integers(1, 12)), draw(FILLS)
    train = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    kind = draw(st.sampled_from(["numbers", "categories", "times", "tags"]))
    if kind in ("numbers", "times"):
        size, scale = (draw(st.integers(1, 3)), draw(SCALES)) if kind == "numbers" else (1, "standard")
        values = draw(st.lists(NUMBER, min_size=rows * size, max_size=rows * size))
        raw = np.array(values).reshape(rows, size)
        if kind == "numbers":
            return Drawn(raw, train, lambda: NumberFitter(size, scale, fill), fill is not None)
        return Drawn(raw % 1e6, train, lambda: TimeFitter(fill), fill is not None)
    if kind == "categories":
        words = draw(st.lists(st.one_of(st.none(), WORD), min_size=rows, max_size=rows))
        one_hot, most = draw(st.booleans()), draw(st.sampled_from([None, 2]))
        raw = pa.array(words, pa.large_string())
        return Drawn(raw, train, lambda: CategoryFitter(one_hot, most, fill), fill is not None)
    tags = draw(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), WORD))), min_size=rows, max_size=rows))
    buckets = draw(st.sampled_from([1, 3, 128]))
    raw = pa.array(tags, pa.large_list(pa.large_string()))
    return Drawn(raw, train, lambda: TagFitter(buckets, fill), fill is not None)


@settings(max_examples=300, deadline=None)
@given(columns(), st.lists(st.integers(0, 12), max_size=3))
def test_chunks_give_what_the_whole_gives_and_nothing_infinite_leaves(drawn: Drawn, cuts: list[int]) -> None:
    cuts = [cut for cut in cuts if cut < len(drawn.train)]
    whole, encoding = drawn.fitted([]), drawn.fitted(cuts)
    assert (type(whole), whole.width) == (type(encoding), encoding.width)
    out = whole.apply(drawn.raw)
    assert out.shape == (len(drawn.train), whole.width) and out.dtype == np.float32
    ends = sorted({0, *cuts, len(drawn.train)})
    pieces = [whole.apply(drawn.raw[low:high]) for low, high in zip(ends, ends[1:], strict=False)]
    assert np.array_equal(np.concatenate(pieces), out, equal_nan=True)
    if isinstance(whole, CategoryEncoding | TagEncoding):
        assert whole == encoding
    elif isinstance(whole, NumberEncoding):
        assert np.allclose(whole.center, encoding.center, rtol=1e-6) and np.allclose(
            whole.scale, encoding.scale, rtol=1e-4
        )
    assert not np.isinf(out).any()
    if drawn.is_filled or (isinstance(drawn.raw, np.ndarray) and not np.isnan(drawn.raw).any()):
        assert np.isfinite(out).all(), whole
    restored = from_json(_Holder, json.loads(json.dumps({"encoding": asdict(whole)}, allow_nan=False))).encoding
    assert restored == whole


@dataclass(frozen=True)
class _Holder:
    encoding: Encoding


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBER, min_size=1, max_size=8), SCALES)
def test_other_rows_than_the_fitted_ones_stay_finite(values: list[float], scale: Any) -> None:
    fitter = NumberFitter(1, scale, "mean")
    raw = np.array(values).reshape(-1, 1)
    fitter.update(raw, np.ones(len(raw), bool))
    out = fitter.finish().apply(np.array([[3.4e38], [-3.4e38], [0.0], [np.nan]]))
    assert np.isfinite(out).all()
    if scale in ("standard", "robust"):
        assert np.abs(out[:, 0]).max() <= LIMIT


def test_an_unseen_category_is_no_category_and_an_unseen_tag_none() -> None:
    fitter = CategoryFitter(True, None, None)
    fitter.update(pa.array(["b", "a", "test only"], pa.large_string()), np.array([True, True, False]))
    others = pa.array(["c", "a", "test only"], pa.large_string())
    assert fitter.finish().apply(others).tolist() == [[0, 0], [1, 0], [0, 0]]
    ordinal = CategoryFitter(False, None, "category")
    ordinal.update(pa.array(["b", "a", None], pa.large_string()), np.ones(3, bool))
    assert ordinal.finish().apply(pa.array(["z", "b", None], pa.large_string())).tolist() == [[2, 0], [1, 0], [0, 1]]
    tags = TagEncoding(tags=("a", "b"))
    kind = pa.large_list(pa.large_string())
    assert tags.apply(pa.array([["b", "z"], [], ["a", None, "b"]], kind)).tolist() == [[0, 1], [0, 0], [1, 1]]


def test_integers_and_seconds_keep_their_digits() -> None:
    raw = (1_700_000_000 + np.arange(24, dtype=np.float64)).reshape(-1, 1)
    fitter = NumberFitter(1, "standard", None)
    fitter.update(raw, np.ones(24, bool))
    assert len(np.unique(fitter.finish().apply(raw))) == 24
    assert len(np.unique(raw.astype(np.float32))) == 1, "unscaled, float32 cannot tell them apart"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e300, 1e300)), max_size=6))
def test_texts_of_numbers_are_read_as_they_were_written(values: list[Any]) -> None:
    text = pa.array([None if value is None else repr(value) for value in values], pa.large_string())
    numbers, bad = as_numbers(text, PLAIN)
    assert not bad.any()
    assert [None if np.isnan(one) else one for one in numbers] == [one if one is None else float(one) for one in values]
    for found, value in zip(as_integers(text).to_pylist(), values, strict=True):
        if isinstance(value, int):
            assert found == value
        else:
            assert found is None or found == value, "a fraction is no integer, and 1.0 is one"


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.234,5", 1234.5), ("-0,25", -0.25), ("NA", None), ("true", 1.0), ("No", 0.0), ("12 apples", "bad"), ("", None)],
)
def test_numbers_of_the_continent(text: str, number: Any) -> None:
    form = CsvFormat(decimal=",", thousands=".")
    values, bad = as_numbers(pa.array([text or None, "1"], pa.large_string()), form)
    assert bad[0] == (number == "bad")
    assert np.isnan(values[0]) if number in (None, "bad") else values[0] == number
