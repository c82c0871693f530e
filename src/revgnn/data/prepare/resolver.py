"""Finds the columns of one table: their types, how they are read, and the fitters of their encodings.

Reads schemas and first rows only. A column that is missing or has a wrong type is a fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from ..encodings import CategoryEncoding, Encoding, NumberEncoding
from ..readers.parquet import Faults, is_fractional, is_list, is_numeric, is_text
from .columns import Checks, FeatureColumn, Key, Marks, Mask, Numbers, Source, TextLists, Texts, Times, decoded
from .config import FeatureConfig, GraphConfig, nearest
from .csv_format import PLAIN, as_integers
from .engine import DAMAGED, RowReader, Scan, columns_of
from .fitting import CategoryFitter, Fitter, NumberFitter, TagFitter, TimeFitter
from .inputs import Table, batches, lacks_fixed_lists, value_type

_logger = logging.getLogger(__name__)

MAX_CATEGORIES = 10_000
"""Maximum number of categories of a column; a column with more has ids or texts."""
FEW_CATEGORIES = 100
"""Categories that a column of texts gets if its encoding is not given: the most frequent ones."""
FEW_OF_PROSE = 20
"""Different texts that are categories even if few rows share one."""
MAX_WIDTH = 1 << 16
"""Maximum length of a list of numbers, so that many rows fit into memory."""
_EXACT, _UNIX = 2**24, (946_684_800, 4_102_444_800)
"""Integers that float32 holds exactly; seconds since 1970 from the year 2000 to 2100."""


Show = Callable[[pa.RecordBatch, Mask], None]
"""Receives a batch and the mask of its training rows."""


@dataclass
class Pending:
    """A column of features whose encoding is known, or is fitted."""

    source: Source
    encoding: Encoding | None = None
    fitter: Fitter | None = None
    feature: FeatureConfig | None = None
    unknown: int | None = None


class Resolver:
    """Looks up the columns of one table and collects what to read; reports faults."""

    def __init__(self, table: Table, faults: Faults, config: GraphConfig) -> None:
        self.table, self.checks, self.config = table, Checks(), config
        self._faults = faults
        self.file = table.names[0] if len(table.names) == 1 else f"{table.names[0]} and {len(table.names) - 1} more"
        self.csv = table.csv or PLAIN
        self.read: list[str] = []

    def kind(self, name: str) -> pa.DataType | None:
        """Return the type of a column, of a dictionary's values; ``None`` and a fault if it is missing."""
        if name not in self.table.schema.names:
            near = nearest(name, self.table.schema.names)
            there = ", ".join(self.table.schema.names) or "none"
            hint = f"; did you mean {near}?" if near else ""
            self._faults.add(
                self.file, name, f"is missing; the columns are {there}{hint}{_named_by(self.config, name)}"
            )
            return None
        return value_type(self.table.schema.field(name).type)

    def fault(self, column: str | None, text: str) -> None:
        """Report a fault of a column."""
        self._faults.add(self.file, column, text)

    def say(self, column: str, text: str) -> None:
        """Tell something that the user may not expect."""
        _logger.info("%s, column %s: %s", self.file, column, text)

    def key(self, name: str, like: pa.DataType | None = None) -> Key | None:
        """Find a column of ids, which are cast to the type of the ids ``like`` where nothing is lost."""
        kind = self.kind(name)
        if kind is None:
            return None
        are_whole, are_text = pa.types.is_integer(kind), is_text(kind)
        if self.table.csv is not None:
            own = like or (pa.int64() if self._are_integers(name) else pa.large_string())
        elif are_whole or are_text or is_fractional(kind):
            own = like or (pa.large_string() if are_text else pa.int64())
            if not (are_whole if pa.types.is_integer(own) else are_text):
                wanted = "integers" if pa.types.is_integer(own) else "strings"
                why = "" if like is None else ", like the ids of the nodes"
                self.say(name, f"holds {kind}, which is read as {wanted}{why}")
        elif pa.types.is_null(kind):
            own = like or pa.int64()
        else:
            self.fault(name, f"holds {kind}; ids are integers or strings")
            return None
        self.read.append(name)
        number = self.checks.number
        return Key(
            name,
            own,
            number(name, "without an id; give each one"),
            number(name, "with an id of 2^63 or above; write ids as strings"),
            number(name, _WHOLE if like is None else _NO_INTEGER),
        )

    def _are_integers(self, name: str) -> bool:
        """Whether all ids of CSV files are integers whose text loses nothing, such as leading zeros."""
        texts = (batch.column(name).cast(pa.large_string()) for batch in batches(self.table, [name]))
        return all(as_integers(text).null_count == text.null_count for text in texts)

    def numbers(self, name: str) -> Numbers | None:
        """Find a column of numbers, of truth values or of lists of numbers."""
        kind = self.kind(name)
        if kind is None:
            return None
        if self.table.csv is not None and not is_text(kind):
            kind = pa.float64()
        if pa.types.is_null(kind):
            kind = pa.float32()
        if not is_numeric(kind):
            self.fault(name, f"holds {kind}; it must hold numbers or lists of numbers; categories need encode: one_hot")
            return None
        size = self._size(name, kind)
        if not 1 <= size <= MAX_WIDTH:
            self.fault(name, f"has lists of {size} numbers; 1 to {MAX_WIDTH} can be features")
            return None
        if pa.types.is_fixed_size_list(kind) and lacks_fixed_lists(self.table, name, size):
            self.fault(name, f"holds {kind} with missing lists, which Arrow cannot read; write lists of any size")
            return None
        self.read.append(name)
        number = self.checks.number
        return Numbers(
            name,
            size,
            number(name, f"of another length than {size}, that of the first row; make them equal"),
            number(name, _NAN),
            number(name, "that is no number; mend it, or name the word in csv: null_words"),
            self.csv,
        )

    def texts(self, name: str) -> Texts | None:
        """Find a column whose values are read as text: categories, classes or splits."""
        kind = self.kind(name)
        if kind is None:
            return None
        one = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_fractional(kind) or is_text(kind)
        if not one and not pa.types.is_null(kind) and self.table.csv is None:
            self.fault(name, f"holds {kind}; classes and categories are integers or strings")
            return None
        self.read.append(name)
        return Texts(name, self.csv, self.table.csv is not None and pa.types.is_floating(kind))

    def _size(self, name: str, kind: pa.DataType) -> int:
        if not is_list(kind):
            return 1
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in batches(self.table, [name]):
            lengths = pc.list_value_length(decoded(batch.column(name))).drop_null()
            if len(lengths):
                return int(lengths[0].as_py())
        return 1

    # ------------------------------------------------------------------ features
    def feature(self, feature: FeatureConfig) -> Pending | None:
        """Find a column of features and how it is encoded."""
        name, kind = feature.column, self.kind(feature.column)
        if kind is None:
            return None
        encode = _by_type(kind) if feature.encode == "auto" else feature.encode
        fill = feature.fill or self.config.fill
        if encode == "number":
            numbers = self.numbers(name)
            scale = feature.scale or self.config.scale
            return None if numbers is None else Pending(numbers, None, NumberFitter(numbers.size, scale, fill), feature)
        if encode == "time":
            self.read.append(name)
            text = self.checks.number(name, "that is no time; write it as 2026-01-31 or 2026-01-31T12:00:00")
            return Pending(Times(name, text, self.csv), None, TimeFitter(fill), feature)
        if encode == "tags":
            if not (is_list(kind) and is_text(value_type(kind.value_type))):
                self.fault(name, f"holds {kind}; encode: tags needs lists of texts")
                return None
            self.read.append(name)
            return Pending(TextLists(name), None, TagFitter(feature.buckets, fill), feature)
        texts = self.texts(name)
        if texts is None:
            return None
        most = FEW_CATEGORIES if feature.encode == "auto" else None
        pending = Pending(texts, None, CategoryFitter(encode == "one_hot", most, fill), feature)
        if feature.categories is not None:
            pending.unknown = self.checks.number(name, "outside the categories; name it there, or drop it")
            missing = fill is not None
            pending.encoding = CategoryEncoding(
                categories=feature.categories, one_hot=encode == "one_hot", missing=missing
            )
        return pending

    def like(self, name: str, encoding: Encoding | None, width: int) -> Pending | None:
        """Find a column that is encoded as that of another graph."""
        kind = self.kind(name)
        if kind is None:
            return None
        encoding = encoding or NumberEncoding(size=width)
        source: Source | None
        if isinstance(encoding, NumberEncoding):
            source = self.numbers(name)
            if isinstance(source, Numbers) and source.size != encoding.size:
                self.fault(name, f"must hold {encoding.size} numbers, got {source.size}")
                return None
        else:
            kinds = {"CategoryEncoding": "one_hot", "TimeEncoding": "time", "TagEncoding": "tags"}
            found = self.feature(FeatureConfig(column=name, encode=kinds[type(encoding).__name__]))  # type: ignore[arg-type]
            source = None if found is None else found.source
        return None if source is None else Pending(source, encoding)

    def weight(self, name: str) -> FeatureColumn | None:
        """Find a column of edge weights."""
        numbers = self.numbers(name)
        if numbers is None:
            return None
        if numbers.size != 1:
            self.fault(name, f"holds lists of {numbers.size} numbers; a weight is one number")
            return None
        negative = self.checks.number(name, "with a weight below 0; as an edge feature it may be: edges.features")
        return self.column(Pending(replace(numbers, negative=negative), NumberEncoding(size=1)))

    def fit(self, pending: list[Pending], others: list[tuple[str, Show]], train: Train) -> None:
        """Fit the encodings of columns, and show every row to others, in one pass.

        Args:
            pending: columns; those without an encoding are fitted.
            others: (column, what is shown its rows).
            train: columns that tell the training rows, and the function of a batch that gives their mask.
        """
        open_ones = [(one.source, one.fitter) for one in pending if one.encoding is None and one.fitter is not None]
        if not open_ones and not others:
            return
        names = [source.column for source, _ in open_ones] + [name for name, _ in others] + list(train.columns)
        for batch in batches(self.table, names):
            rows = train.rows(batch)
            for source, fitter in open_ones:
                raw = source.raw(batch, Marks(batch.num_rows))
                fitter.update(raw, rows)
            for _, show in others:
                show(batch, rows)

    def column(self, pending: Pending) -> FeatureColumn | None:
        """Return a column with its encoding, after `fit`."""
        encoding, name = pending.encoding, pending.source.column
        if encoding is None and pending.fitter is not None:
            encoding = pending.fitter.finish()
            if not self._accepts(pending, encoding):
                return None
        assert encoding is not None, "a pending column has an encoding or a fitter"
        number = self.checks.number
        return FeatureColumn(pending.source, encoding, number(name, _WITHOUT), number(name, _NAN), pending.unknown)

    def _accepts(self, pending: Pending, encoding: Encoding) -> bool:
        """Report what cannot be a feature, and tell what may surprise."""
        fitter, name = pending.fitter, pending.source.column
        if isinstance(fitter, CategoryFitter) and isinstance(encoding, CategoryEncoding):
            count, rows = len(fitter.counts), sum(fitter.counts.values())
            is_open = pending.feature is not None and pending.feature.encode == "auto"
            if is_open and count > FEW_OF_PROSE and 2 * count > rows:
                self.fault(name, f"holds texts, {count} different ones in {rows} rows, {_PROSE}")
                return False
            if count == 0 or (not is_open and count > MAX_CATEGORIES):
                self.fault(name, f"has {count} categories; 1 to {MAX_CATEGORIES} can be encoded")
                return False
            if is_open and count > FEW_CATEGORIES:
                self.say(name, f"of {count} categories the {FEW_CATEGORIES} most frequent ones get a column each")
        if isinstance(fitter, NumberFitter) and isinstance(encoding, NumberEncoding) and fitter.are_whole:
            low, high = float(fitter.low.min()), float(fitter.high.max())
            if not encoding.center and not encoding.quantiles and max(-low, high) > _EXACT and high > low:
                self.say(name, "holds integers above 2^24, of which float32 loses digits; scale: standard keeps them")
            if _UNIX[0] <= low <= high <= _UNIX[1]:
                self.say(name, "looks like seconds since 1970; encode: time gives the age and the time of year and day")
        return True

    def scan(self, rows: RowReader, row_bytes: int) -> Scan:
        """Make the scan of the columns that were found.

        Args:
            rows: the reader.
            row_bytes: estimated bytes of a row in memory.
        """
        counted = sum(chunk.num_rows or 0 for chunk in self.table.chunks)
        return Scan(
            rows=rows,
            chunks=self.table.chunks,
            columns=columns_of(self.read),
            num_bytes=max(counted * row_bytes, self.table.num_bytes),
            damaged=self.checks.number("", DAMAGED),
        )


@dataclass(frozen=True)
class Train:
    """Tells the training rows of a table."""

    columns: tuple[str, ...]
    rows: Callable[[pa.RecordBatch], Mask]
    """Batch -> [rows] mask."""


_WHOLE = "with an id that is no whole number; write ids as integers or strings"
_NO_INTEGER = "with an id that is no whole number, as the ids of the nodes are; mend it, or --drop-bad-edges"
_FILL = "set fill (--fill mean, in training --set dataset.columns.fill=mean), or drop them"
_WITHOUT = f"without a value; {_FILL}"
_NAN = f"with NaN, null or infinity; {_FILL}"
_PROSE = (
    "which are no categories; make numbers of them first, such as a list from a text embedding, or leave the column out"
)


def _by_type(kind: pa.DataType) -> str:
    """Return the encoding of a type."""
    if is_list(kind):
        return "tags" if is_text(value_type(kind.value_type)) else "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    return "one_hot" if is_text(kind) else "number"


def _named_by(config: GraphConfig, name: str) -> str:
    """How to name another column for an id, a label or the end of an edge."""
    nodes, edges = config.nodes, config.edges
    fields = {**dict.fromkeys(nodes.label, "label"), nodes.id: "id", edges.src: "src", edges.dst: "dst"}
    field = fields.get(name)
    return "" if field is None else f"; name another (--{field} NAME, in training --set dataset.columns.{field}=NAME)"
