"""The format of a CSV file: sniffed from its first lines, or given; and its texts as numbers, truth values and times.

A CSV file is read as text, so that an id keeps its leading zeros and a text among numbers is a fault of one row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

NULL_WORDS = ("NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "none", "-", "?", ".")
"""Words that are a missing value among numbers; among texts, only where numbers of the file are missing by the word."""
TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_SAMPLE_BYTES, _SAMPLE_ROWS = 1 << 18, 2000
_DELIMITERS = (",", ";", "\t", "|")
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|Infinity)")
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}([. '\u00a0]\d{3})+)(,\d+)?([eE][+-]?\d+)?")
_UNIT = re.compile(r"[+-]?(?:([$€£¥])\s?[+-]?\d[\d.,' \u00a0]*|\d[\d.,' \u00a0]*([$€£¥%]))")
_INTEGER = r"^-?(0|[1-9][0-9]{0,18})$"
_RULES = {
    "delimiter": (r"[\t !#-&(-/:-@\[-`{|}~]", "one character of ASCII, such as ; or tab"),
    "decimal": (r"[.,]", "a point or a comma"),
    "thousands": (r"[^\w\s+-]|[ \u00a0\u202f]|", "one sign, such as a comma, a space or a quote, or empty"),
    "units": (r"[^\d\s.,+-]*", "signs such as $ and %, without digits, spaces and signs of numbers"),
}
"""What a field of a format may be."""
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?(inf|Infinity)$"


@dataclass(frozen=True, kw_only=True)
class CsvFormat:
    """How a CSV file is written; ``None``: sniffed from its first lines."""

    delimiter: str | None = None
    """Between the fields of a line."""
    decimal: str | None = None
    """The decimal sign, ``.`` or ``,``."""
    thousands: str | None = None
    """The sign between groups of three digits; empty: none."""
    units: str | None = None
    """Signs before or after a number that are dropped, such as $ and %; empty: none."""
    encoding: str | None = None
    """The encoding of the text, such as utf-8 or cp1252."""
    spaces: bool | None = None
    """Whether spaces around fields and names are dropped."""
    null_words: tuple[str, ...] | None = None
    """Words that are a missing value besides the empty field; ids are never missing by a word."""

    def __post_init__(self) -> None:
        for name, (good, rule) in _RULES.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(good, value):
                raise ValueError(f"csv {name} must be {rule}; got {value!r}")
        if self.encoding is not None:
            try:
                "a".encode(self.encoding)
            except LookupError:
                raise ValueError(
                    f"csv encoding must be one that Python knows, such as utf-8 or cp1252; got {self.encoding!r}"
                ) from None
        if self.decimal is not None and self.decimal in (self.delimiter, self.thousands):
            raise ValueError(f"csv decimal={self.decimal!r} must differ from delimiter and thousands")

    def __str__(self) -> str:
        words = ", ".join(self.null_words or ()) or "none but the empty field"
        groups = repr(self.thousands) if self.thousands else "none"
        units = f", units {self.units} dropped" if self.units else ""
        units += ", spaces around fields dropped" if self.spaces else ""
        signs = f"delimiter {self.delimiter!r}, decimal sign {self.decimal!r}, thousands {groups}{units}"
        return f"{signs}, encoding {self.encoding}, null words {words}"


SNIFFED = CsvFormat()
"""A format of which nothing is given."""
PLAIN = CsvFormat(delimiter=",", decimal=".", thousands="", units="", encoding="utf-8", spaces=False, null_words=())
"""Of texts that stand in no CSV file."""


def given_format(assignments: Sequence[str]) -> CsvFormat:
    """Read the words ``FIELD=VALUE`` of the command line.

    Raises: ValueError: there is no such field, or it cannot have the value.
    """
    found: dict[str, Any] = {}
    names = [each.name for each in fields(CsvFormat)]
    for text in assignments:
        name, sign, value = text.partition("=")
        if name not in names or not sign:
            raise ValueError(f"--csv {text}: write FIELD=VALUE, with a field of {', '.join(names)}")
        found[name] = {"tab": "\t", "\\t": "\t"}.get(value, value)
        if name == "null_words":
            found[name] = tuple(filter(None, value.split(",")))
        if name == "spaces":
            if value not in ("true", "false"):
                raise ValueError(f"--csv spaces must be true or false; got {value!r}")
            found[name] = value == "true"
    return CsvFormat(**found)


def sniff(path: Path, given: CsvFormat) -> tuple[CsvFormat, pa.Schema]:
    """Find the format of a CSV file and the types of its columns, from its first lines.

    Args:
        path: the file, which may be compressed; a ``.tsv`` file has tabs.
        given: fields that are not ``None`` are taken as they are.
    Raises: ValueError: it is empty, no text, or lacks a line of names. pa.ArrowException: its first lines are damaged.
    """
    data = _sample(path)
    if not data:
        raise ValueError("it is empty, without a line of column names")
    text, encoding = _text(data, given.encoding)
    tabs = "\t" if ".tsv" in path.name.lower() else None
    delimiter = given.delimiter or tabs or _delimiter(text)
    rows = _rows(text, delimiter)
    spaces = given.spaces
    if spaces is None:
        spaces = any(cell != cell.strip(" ") for row in rows for cell in row)
    rows = [[_bare(cell) for cell in row] for row in rows] if spaces else rows
    found = replace(given, encoding=encoding, delimiter=delimiter, spaces=spaces)
    names = rows[0]
    if all(_PLAIN.fullmatch(name) for name in names) and names != [str(k) for k in range(len(names))]:
        raise ValueError(f"its first line, {delimiter.join(names)[:60]}, has numbers in place of names")
    whole = [row for row in rows[1:] if len(row) == len(names)]
    columns = [[row[place] for row in whole] for place in range(len(names))]
    units = (
        "".join(sorted({sign for cells in columns for sign in _units(cells)})) if given.units is None else given.units
    )
    decimal, thousands = _signs([[cell.strip(f" {units}") for cell in cells] for cells in columns], delimiter)
    found = replace(
        found,
        units=units,
        decimal=decimal if given.decimal is None else given.decimal,
        thousands=thousands if given.thousands is None else given.thousands,
    )
    words = NULL_WORDS if given.null_words is None else (*NULL_WORDS, *given.null_words)
    kinds = [_kind(cells, found, words) for cells in columns]
    if given.null_words is None:
        typed = (cells for cells, kind in zip(columns, kinds, strict=True) if kind != pa.string())
        seen = {cell for cells in typed for cell in cells}
        found = replace(found, null_words=tuple(word for word in NULL_WORDS if word in seen))
    if len(data) < _SAMPLE_BYTES:
        # Small files are checked at once; damage in larger ones is a fault of the row where it is met.
        arrow_csv.read_csv(pa.py_buffer(data), **_options(found))
    return found, pa.schema(list(zip(names, kinds, strict=True)))


def read_csv(path: Path, form: CsvFormat, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read record batches of some columns of a CSV file as text; an empty field is null.

    Raises: pa.ArrowException: the file is damaged, or lacks a column.
    """
    written = list(columns)
    if form.spaces:
        header = _rows(_text(_sample(path), form.encoding)[0], form.delimiter or ",")[0]
        written = [next((one for one in header if _bare(one) == name), name) for name in columns]
    options = arrow_csv.ConvertOptions(
        include_columns=written,
        column_types=dict.fromkeys(written, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    with arrow_csv.open_csv(path, **_options(form), convert_options=options) as reader:
        for batch in reader:
            yield pa.record_batch(list(map(_without_spaces, batch.columns)), names=columns) if form.spaces else batch


def _bare(field: str) -> str:
    """Drop the spaces around a field, and the quotes that a space before them has made part of it."""
    field = field.strip(" ")
    return field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else field


def _without_spaces(values: pa.Array) -> pa.Array:
    values = pc.replace_substring_regex(pc.utf8_trim(values, " "), '^"(.*)"$', r"\1")
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)


def _sample(path: Path) -> bytes:
    with pa.input_stream(str(path), compression="detect") as file:
        return bytes(file.read(_SAMPLE_BYTES))


def _text(data: bytes, encoding: str | None) -> tuple[str, str]:
    """Decode a sample; return its whole lines, and the encoding."""
    encoding = encoding or _encoding(data)
    text = data.decode(encoding, errors="ignore" if len(data) == _SAMPLE_BYTES else "replace").lstrip("\ufeff")
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is no text")
    if len(data) == _SAMPLE_BYTES:
        text = text[: text.rfind("\n") + 1] or text
    return text, encoding


def _options(form: CsvFormat) -> dict[str, object]:
    return {
        "read_options": arrow_csv.ReadOptions(encoding=form.encoding or "utf-8"),
        "parse_options": arrow_csv.ParseOptions(delimiter=form.delimiter or ",", newlines_in_values=True),
    }


# ---------------------------------------------------------------------- texts as values


def without_words(values: pa.Array, words: Sequence[str]) -> pa.Array:
    """Make null words of a column of texts null."""
    if not words:
        return values
    is_word = pc.is_in(values, value_set=pa.array(list(words), values.type))
    return pc.if_else(is_word, pa.scalar(None, values.type), values)


def as_numbers(values: pa.Array, form: CsvFormat) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read texts as numbers, or truth values as 1 and 0.

    Args:
        values: [n] large strings.
        form: the format of their file.
    Returns: [n] float64, NaN for a missing one; and [n] which texts are neither.
    """
    if form.decimal != "," and not (form.thousands or form.units or form.null_words):
        plain = _cast(values, pa.float64())
        if plain is not None:
            return np.asarray(pc.fill_null(plain, np.nan).to_numpy(zero_copy_only=False)), np.zeros(len(values), bool)
    text = without_words(pc.utf8_trim_whitespace(values), (*NULL_WORDS, *(form.null_words or ())))
    if form.units:
        signs = re.escape(form.units)
        text = pc.replace_substring_regex(text, rf"^([+-]?)[{signs}]\s*|\s*[{signs}]$", r"\1")
    if form.thousands:
        text = pc.replace_substring(text, form.thousands, "")
    if form.decimal == ",":
        text = pc.replace_substring(text, ",", ".")
    try:
        numbers, bad = text.cast(pa.float64()), np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        lower = pc.utf8_lower(text)
        truth = pc.index_in(lower, value_set=pa.array(list(TRUTH), lower.type), skip_nulls=True)
        is_number = pc.match_substring_regex(text, _NUMBER)
        numbers = pc.if_else(is_number, text, pa.scalar(None, text.type)).cast(pa.float64())
        numbers = pc.coalesce(numbers, pa.array(list(TRUTH.values())).take(truth))
        bad = np.asarray(pc.and_(numbers.is_null(), text.is_valid()).to_numpy(zero_copy_only=False), bool)
    return np.asarray(pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)), bad


def as_times(values: pa.Array, form: CsvFormat) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Read texts as times of ISO 8601.

    Returns: [n] timestamps in microseconds, null for a missing one; and [n] which texts are none.
    """
    text = without_words(pc.utf8_trim_whitespace(values), (*NULL_WORDS, *(form.null_words or ())))
    kind = pa.timestamp("us")
    try:
        return text.cast(kind), np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        found = [_time(one) for one in text.to_pylist()]
        times = pa.array(found, kind)
        return times, np.asarray(pc.and_(times.is_null(), text.is_valid()).to_numpy(zero_copy_only=False), bool)


def as_integers(values: pa.Array) -> pa.Array:
    """Read texts as the integers that they are written as, without loss; null for any other text.

    A whole number with a point, such as 1.0, is one; 007 is none, because the zeros would be lost.
    """
    numbers = _cast(values, pa.int64())
    if numbers is not None and pc.all(pc.equal(numbers.cast(values.type), values), min_count=0).as_py():
        return numbers
    text = pc.replace_substring_regex(values, r"^(-?[0-9]+)\.0*$", r"\1")
    plain = pc.if_else(pc.match_substring_regex(text, _INTEGER), text, pa.scalar(None, text.type))
    try:
        return plain.cast(pa.int64())
    except pa.ArrowInvalid:
        bounds = -(2**63), 2**63 - 1
        kept = [one if one is not None and bounds[0] <= int(one) <= bounds[1] else None for one in plain.to_pylist()]
        return pa.array(kept, plain.type).cast(pa.int64())


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Cast all texts at once; ``None``: one of them is no such value."""
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        return None


def _time(text: str | None) -> datetime | None:
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found is None or found.tzinfo is None else (found - found.utcoffset()).replace(tzinfo=None)  # type: ignore[operator]


# ---------------------------------------------------------------------- sniffing


def _encoding(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    for name in ("utf-8", "cp1252"):
        try:
            # A character may be cut at the end of the sample.
            data[: -4 if len(data) == _SAMPLE_BYTES else None].decode(name)
        except UnicodeDecodeError:
            continue
        return name
    return "latin-1"


def _rows(text: str, delimiter: str) -> list[list[str]]:
    found = []
    for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter):
        if row:
            found.append(row)
        if len(found) > _SAMPLE_ROWS:
            break
    return found or [[]]


def _delimiter(text: str) -> str:
    """Choose the delimiter whose lines have the same number of fields, and most of them."""

    def fit(delimiter: str) -> tuple[bool, int]:
        widths = [len(row) for row in _rows(text, delimiter)[:200]]
        return widths[0] > 1 and len(set(widths)) == 1, widths[0]

    best = max(_DELIMITERS, key=fit)
    return " " if not fit(best)[0] and fit(" ")[0] else best


def _units(cells: list[str]) -> set[str]:
    """Return the signs of money and percent of a column whose every text is one of them beside a number."""
    known = [cell.strip() for cell in cells if cell.strip() and cell.strip() not in NULL_WORDS]
    found = [_UNIT.fullmatch(cell) for cell in known]
    return {one[1] or one[2] for one in found if one is not None} if known and all(found) else set()


def _signs(columns: list[list[str]], delimiter: str) -> tuple[str, str]:
    """Find the decimal sign and that of thousands."""
    comma = group = either = 0
    grouping: set[str] = set()
    for cells in columns:
        known = [cell.strip() for cell in cells if cell.strip() and cell.strip() not in NULL_WORDS]
        if not any("," in cell for cell in known):
            continue
        grouped = all(_GROUPED.fullmatch(cell) or _PLAIN.fullmatch(cell) for cell in known)
        decimal = all(_COMMA.fullmatch(cell) for cell in known)
        comma, group, either = (
            comma + (decimal and not grouped),
            group + (grouped and not decimal),
            either + (grouped and decimal),
        )
        if decimal:
            grouping |= {sign for cell in known for sign in ". '\u00a0" if sign in cell}
    if comma or (either and not group and delimiter != ","):
        return ",", next(iter(sorted(grouping)), ".")
    return ".", "," if group or either else ""


def _kind(cells: list[str], form: CsvFormat, words: Sequence[str]) -> pa.DataType:
    """Find the type of a column from its first texts."""
    known = [cell for cell in (cell.strip() for cell in cells) if cell and cell not in words]
    if not known:
        return pa.null() if not any(cell.strip() for cell in cells) else pa.string()
    values = pa.array(known, pa.large_string())
    if as_integers(values).null_count == 0 and not any("." in cell for cell in known):
        return pa.int64()
    if all(cell.lower() in TRUTH for cell in known):
        return pa.bool_()
    bad = as_numbers(values, form)[1]
    if not bad.any() and not any(cell.lower() in TRUTH for cell in known):
        # Leading zeros make it a code, such as a postal code.
        return pa.string() if any(re.fullmatch(r"0\d+", cell) for cell in known) else pa.float64()
    if not as_times(values, form)[1].any():
        return pa.timestamp("us")
    return pa.string()
