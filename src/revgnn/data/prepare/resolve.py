"""Resolve a configuration against the schemas of its tables: find columns and types, report what does not fit.

Reads schemas and first rows only, and asks the engine for the values of categories that the configuration omits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..batch import SPLITS
from ..info import Feature
from ..readers.parquet import Faults, is_list, is_numeric, is_text
from .config import FeatureConfig, GraphConfig, nearest
from .engine import DAMAGED, Engine, Scan, Values, columns_of
from .inputs import Table, read_chunk, value_type
from .rows import Categories, Checks, Column, EdgeRows, Key, NodeRows, Numbers, decoded

MAX_CATEGORIES = 10_000
"""Maximum number of categories of a column; a column with more has ids or texts."""
MAX_WIDTH = 1 << 16
"""Maximum length of a list of numbers, so that many rows fit into memory."""
_WITHOUT = "without a value; fill or drop them"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The scans and row readers of a graph's tables."""

    nodes: Scan
    edges: Scan
    node_rows: NodeRows
    edge_rows: EdgeRows
    node_checks: Checks
    edge_checks: Checks
    classes: tuple[str, ...] | None
    """Class names; ``None``: the classes are 0..T-1."""
    num_outputs: int

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of x, as in a manifest."""
        return tuple(Feature(name=column.column, width=column.width) for column in self.node_rows.features)

    @property
    def edge_features(self) -> tuple[Feature, ...]:
        """The columns of edge_attr, as in a manifest."""
        return tuple(Feature(name=column.column, width=column.width) for column in self.edge_rows.features)


class Resolver:
    """Looks up the columns of one table and collects what to read; reports faults."""

    def __init__(self, table: Table, faults: Faults, checks: Checks) -> None:
        self.table, self.checks = table, checks
        self._faults = faults
        self.file = table.names[0] if len(table.names) == 1 else f"{table.names[0]} and {len(table.names) - 1} more"
        self.csv = table.paths[0].suffix.lower() in (".csv", ".tsv")
        self.read: list[str] = []
        self.text: list[str] = []
        self.kinds: dict[str, pa.DataType] = {}

    def kind(self, name: str) -> pa.DataType | None:
        """Return the type of a column, of a dictionary's values; ``None`` and a fault if it is missing."""
        if name not in self.table.schema.names:
            near = nearest(name, self.table.schema.names)
            there = ", ".join(self.table.schema.names) or "none"
            hint = f"; did you mean {near}?" if near else ""
            self._faults.add(self.file, name, f"is missing; the columns are {there}{hint}")
            return None
        return value_type(self.table.schema.field(name).type)

    def fault(self, column: str | None, text: str) -> None:
        """Report a fault of a column."""
        self._faults.add(self.file, column, text)

    def key(self, name: str, like: pa.DataType | None = None) -> Key | None:
        """Find a column of ids, of the same type as the ids ``like``."""
        kind = self.kind(name)
        if kind is None:
            return None
        if pa.types.is_integer(kind):
            own = pa.int64()
        elif is_text(kind) or self.csv:
            own = pa.large_string()
        elif pa.types.is_null(kind):
            own = like or pa.int64()
        else:
            self.fault(name, f"holds {kind}; ids are integers or strings")
            return None
        if self.csv and like is not None:
            # Whether 007 in a CSV file is a number or a text depends on the type of the nodes' ids.
            own = like
        if like is not None and own != like:
            ids = "integers" if pa.types.is_integer(like) else "strings"
            self.fault(name, f"holds {kind}, but the ids of the nodes are {ids}; make them the same")
            return None
        self.read.append(name)
        self.kinds[name] = pa.int64() if own == pa.int64() else pa.string()
        null = self.checks.number(name, "without an id; give each one")
        return Key(name, own, null, self.checks.number(name, "with an id of 2^63 or above; write ids as strings"))

    def numbers(self, name: str, *, null: str | None) -> Numbers | None:
        """Find a column of numbers or of lists of numbers; ``null``: the fault of a missing value, None if allowed."""
        kind = self.kind(name)
        if kind is None:
            return None
        if self.csv and not is_text(kind):
            kind = pa.float64()
        if pa.types.is_null(kind):
            kind = pa.float32()
        if not is_numeric(kind):
            self.fault(name, f"holds {kind}; it must hold numbers or lists of numbers; categories need encode: one_hot")
            return None
        width = self._width(name, kind)
        if not 1 <= width <= MAX_WIDTH:
            self.fault(name, f"has lists of {width} numbers; 1 to {MAX_WIDTH} can be features")
            return None
        self.read.append(name)
        if not is_list(kind):
            self.kinds[name] = pa.float64()
        number = self.checks.number
        return Numbers(
            name,
            width,
            None if null is None else number(name, null),
            number(name, f"of another length than {width}, that of the first row; make them equal"),
            number(name, "with NaN, null or infinity; fill or drop them"),
        )

    def categories(self, name: str) -> bool:
        """Find a column whose values are read as text; return whether it exists with a valid type."""
        kind = self.kind(name)
        if kind is None:
            return False
        one = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind) or is_text(kind)
        if not one and not pa.types.is_null(kind) and not self.csv:
            self.fault(name, f"holds {kind}; classes and categories are integers or strings")
            return False
        self.read.append(name)
        self.text.append(name)
        return True

    def _width(self, name: str, kind: pa.DataType) -> int:
        if not is_list(kind):
            return 1
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for chunk in self.table.chunks:
            try:
                for _, batch in read_chunk(chunk, [name], [], {}):
                    lengths = pc.list_value_length(decoded(batch.column(name))).drop_null()
                    if len(lengths):
                        return int(lengths[0].as_py())
            except (pa.ArrowException, OSError):
                # Reading the rows will report the damage.
                continue
        return 1

    def scan(self, rows: Any, row_bytes: int) -> Scan:
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
            text=columns_of(self.text),
            kinds=tuple((name, kind) for name, kind in self.kinds.items() if name not in self.text),
            num_bytes=max(counted * row_bytes, self.table.num_bytes),
            damaged=self.checks.number("", DAMAGED),
        )


def resolve(config: GraphConfig, nodes: Table, edges: Table, engine: Engine, faults: Faults) -> Plan | None:
    """Find every column that a configuration names.

    Returns: the plan for reading them; ``None`` if faults leave nothing to read.
    """
    node, edge = Resolver(nodes, faults, Checks()), Resolver(edges, faults, Checks())
    key = node.key(config.nodes.id)
    like = None if key is None else key.kind
    ends = [edge.key(name, like) for name in (config.edges.src, config.edges.dst)]
    unlisted = _unlisted_categories(config, node, edge)
    found = {id(side): _values(engine, side, names) for side, names in unlisted}
    features = _features(config.nodes.features, node, found[id(node)])
    attr = _features(config.edges.features, edge, found[id(edge)])
    label = _label(config, node, found[id(node)])
    part = config.parts.column
    if part is not None and (kind := node.kind(part)) is not None:
        if not pa.types.is_integer(kind):
            node.fault(part, f"holds {kind}; parts are numbers, 0..{config.parts.count - 1}")
            part = None
        else:
            node.read.append(part)
            node.kinds[part] = pa.int64()
    split = None if config.split is None else config.split.column
    if split is not None and not node.categories(split):
        split = None
    if key is None or ends[0] is None or ends[1] is None or not features:
        return None
    number = node.checks.number
    classes, targets = label
    labels = config.nodes.label[0] if config.nodes.label else ""
    node_rows = NodeRows(
        key=key,
        features=tuple(features),
        labels=targets,
        label=labels if classes is not None else None,
        classes=classes or (),
        has_labels=bool(labels),
        unknown_class=number(labels, "outside the classes; name it in classes, or null it"),
        binary=number(labels, "that are neither 0 nor 1 nor null") if config.spec.labels == "flags" else None,
        unlabelled=number(labels, "in a split but without a label; label them or null their split"),
        split=split,
        unknown_split=number(split or "", f"outside {', '.join(SPLITS)}; rename or null them"),
        fractions=(config.split and config.split.fractions) or (0.0, 0.0, 0.0),
        split_seed=0 if config.split is None else config.split.seed,
        part=part,
        bad_part=number(part or "", f"without a part of 0..{config.parts.count - 1}; give each node one"),
        num_parts=config.parts.count,
        part_seed=config.parts.seed,
    )
    edge_rows = EdgeRows(src=ends[0], dst=ends[1], features=tuple(attr))
    numbered = classes is not None and list(classes) == [str(value) for value in range(len(classes))]
    return Plan(
        nodes=node.scan(node_rows, 80 + 4 * node_rows.width),
        edges=edge.scan(edge_rows, 100 + 4 * edge_rows.width),
        node_rows=node_rows,
        edge_rows=edge_rows,
        node_checks=node.checks,
        edge_checks=edge.checks,
        classes=None if numbered else classes,
        num_outputs=len(classes) if classes is not None else sum(column.width for column in targets),
    )


def _unlisted_categories(config: GraphConfig, node: Resolver, edge: Resolver) -> list[tuple[Resolver, list[str]]]:
    """Find the columns of categories; return those whose categories the configuration does not list."""
    wanted: dict[int, list[str]] = {id(node): [], id(edge): []}
    for side, features in ((node, config.nodes.features), (edge, config.edges.features)):
        for feature in features:
            if feature.encode != "number" and side.categories(feature.column) and feature.categories is None:
                wanted[id(side)].append(feature.column)
    for name in config.nodes.label if config.spec.has_classes else ():
        if node.categories(name) and config.classes is None:
            wanted[id(node)].append(name)
    return [(node, wanted[id(node)]), (edge, wanted[id(edge)])]


def _values(engine: Engine, side: Resolver, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the distinct values of columns in ascending order, numerically if all are integers."""
    if not names:
        return {}
    scan = Scan(
        rows=Values(tuple(names)),
        chunks=side.table.chunks,
        columns=tuple(names),
        text=tuple(names),
        kinds=(),
        num_bytes=side.table.num_bytes,
    )
    found = engine.distinct(scan)
    return {name: _ascending(found.get(name, [])) for name in names}


def _ascending(values: list[str]) -> tuple[str, ...]:
    are_integers = all(value.removeprefix("-").isdecimal() and str(int(value)) == value for value in values)
    return tuple(sorted(values, key=int) if are_integers else sorted(values))


def _features(features: tuple[FeatureConfig, ...], side: Resolver, found: dict[str, tuple[str, ...]]) -> list[Column]:
    columns: list[Column] = []
    for feature in features:
        name = feature.column
        if feature.encode == "number":
            numbers = side.numbers(name, null=_WITHOUT)
            columns += [] if numbers is None else [numbers]
            continue
        values = feature.categories or found.get(name)
        if name not in side.text:
            continue
        if not values or len(values) > MAX_CATEGORIES:
            side.fault(name, f"has {len(values or ())} categories; 1 to {MAX_CATEGORIES} can be encoded")
            continue
        unknown = side.checks.number(name, "outside the categories; name it there, or drop it")
        null = side.checks.number(name, _WITHOUT)
        columns.append(Categories(name, tuple(values), feature.encode == "one_hot", null, unknown))
    return columns


def _label(
    config: GraphConfig, node: Resolver, found: dict[str, tuple[str, ...]]
) -> tuple[tuple[str, ...] | None, tuple[Numbers, ...]]:
    names = config.nodes.label
    if not config.spec.has_classes or not names:
        columns = [node.numbers(name, null=None) for name in names]
        if config.spec.has_one_column:
            for column in columns:
                if column is not None and column.width > 1:
                    node.fault(column.column, f"holds {column.width} numbers; a {config.task} label is one, 0 or 1")
        return None, tuple(column for column in columns if column is not None)
    if names[0] not in node.text:
        return None, ()
    classes = config.classes or found.get(names[0], ())
    if len(classes) < 2 or len(classes) > MAX_CATEGORIES:
        node.fault(names[0], f"has {len(classes)} classes; classification needs 2 to {MAX_CATEGORIES}")
        return None, ()
    return tuple(classes), ()
