"""Resolves a configuration against its tables: finds the columns, fits their encodings, and reports what does not fit.

Rows are read once per table, and only the columns whose encodings or classes the configuration leaves open.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..info import Feature, GraphInfo
from ..readers.parquet import Faults, is_null, is_text
from ..task import SPLITS
from .columns import Checks, FeatureColumn, Key, Marks, Mask, Numbers, Texts, decoded
from .config import GraphConfig
from .csv_format import NULL_WORDS, without_words
from .engine import Scan
from .fitting import ascending, count_values
from .inputs import Table, value_type
from .resolver import MAX_CATEGORIES, Pending, Resolver, Show, Train
from .rows import EdgeRows, NodeRows, SplitRule

_logger = logging.getLogger(__name__)

_OTHER_CLASS = "outside the classes; name it in classes, or null it"


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

    def info(self, config: GraphConfig, name: str) -> GraphInfo:
        """Return the metadata of the graph that is read."""
        return GraphInfo(
            name=name,
            task=config.task,
            num_outputs=self.num_outputs,
            class_names=self.classes or _names(config, self.num_outputs),
            features=_described(self.node_rows.features),
            edge_features=_described(self.edge_rows.features),
            edge_weight=config.edges.weight is not None,
        )


def resolve(
    config: GraphConfig, nodes: Table, edges: Table, faults: Faults, like: GraphInfo | None = None
) -> Plan | None:
    """Find every column that a configuration names, and fit their encodings.

    Args:
        config: the content of graph.yaml.
        nodes, edges: the tables.
        faults: receives what does not fit.
        like: metadata of a graph whose encodings and classes are taken over; ``None``: they are fitted.
    Returns: the plan for reading them; ``None`` if faults leave nothing to read.
    """
    node, edge = Resolver(nodes, faults, config), Resolver(edges, faults, config)
    for side in (node, edge):
        if side.table.csv is not None:
            _logger.info("%s: %s", side.file, side.table.csv)
    key = node.key(config.nodes.id)
    ends = [edge.key(name, None if key is None else key.kind) for name in (config.edges.src, config.edges.dst)]
    split = _split(config, node)
    label = _Labels(config, node, like)
    features = _features(config, node, edge, like)
    if key is None or ends[0] is None or ends[1] is None or not features[0]:
        return None
    node.fit(features[0], label.shown(), _train(config, key, split, label, node))
    edge.fit(features[1], [], Train((), lambda batch: np.ones(batch.num_rows, bool)))
    x = [found for found in map(node.column, features[0]) if found is not None]
    attr = [found for found in map(edge.column, features[1]) if found is not None]
    weight = None if config.edges.weight is None else edge.weight(config.edges.weight)
    part = None if config.parts.column is None else _part(config.parts.column, config, node)
    for side, found in ((node, x), (edge, attr)):
        _logger.info("%s: features %s", side.file, ", ".join(map(_told, found)) or "none")
    classes = label.classes()
    number, labels = node.checks.number, label.name
    node_rows = NodeRows(
        key=key,
        features=tuple(x),
        labels=label.targets,
        label=label.texts if classes is not None else None,
        is_flag=classes is not None and not config.spec.has_classes,
        classes=classes or (),
        has_labels=bool(labels),
        unlabelled_words=config.nodes.unlabelled,
        unknown_class=None
        if like is not None
        else number(labels, "outside the classes; name it in classes, or null it"),
        binary=number(labels, "that are neither 0 nor 1 nor null") if config.spec.labels == "flags" else None,
        unlabelled=number(labels, "in a split but without a label; label them or null their split"),
        split=split,
        part=part,
        bad_part=number(
            config.parts.column or "", f"without a part of 0..{config.parts.count - 1}; give each node one"
        ),
        num_parts=config.parts.count,
        part_seed=config.parts.seed,
    )
    edge_rows = EdgeRows(src=ends[0], dst=ends[1], features=tuple(attr if weight is None else [weight]))
    if not x:
        return None
    numbered = classes is not None and list(classes) == [str(value) for value in range(len(classes))]
    return Plan(
        nodes=node.scan(node_rows, 80 + 4 * node_rows.width),
        edges=edge.scan(edge_rows, 100 + 4 * edge_rows.width),
        node_rows=node_rows,
        edge_rows=edge_rows,
        node_checks=node.checks,
        edge_checks=edge.checks,
        classes=None if numbered else classes,
        num_outputs=len(classes) if node_rows.num_targets == 0 and classes is not None else node_rows.num_targets,
    )


def _told(column: FeatureColumn) -> str:
    return column.column if column.width == 1 else f"{column.column} ({column.width} columns)"


def _names(config: GraphConfig, num_outputs: int) -> tuple[str, ...] | None:
    """Return the names of several label columns."""
    names = config.nodes.label
    return names if config.task == "multilabel" and 1 < len(names) == num_outputs else None


def _described(columns: tuple[FeatureColumn, ...]) -> tuple[Feature, ...]:
    return tuple(Feature(name=one.column, width=one.width, encoding=one.encoding) for one in columns)


def _features(
    config: GraphConfig, node: Resolver, edge: Resolver, like: GraphInfo | None
) -> tuple[list[Pending], list[Pending]]:
    """Find the columns of x and of edge_attr."""
    if like is not None and like.features:
        sides = [(node, like.features), (edge, () if like.edge_weight else like.edge_features)]
        found = [[side.like(one.name, one.encoding, one.width) for one in features] for side, features in sides]
    else:
        pairs = [(node, config.nodes.features), (edge, config.edges.features)]
        found = [[side.feature(one) for one in features] for side, features in pairs]
    x, attr = ([one for one in side if one is not None] for side in found)
    return x, attr


def _split(config: GraphConfig, node: Resolver) -> SplitRule:
    """Find the columns of the split."""
    split, number = config.split, node.checks.number
    if split is None:
        return SplitRule()
    if split.column is not None:
        unknown = number(split.column, f"outside {', '.join(SPLITS)}; rename or null them")
        return SplitRule(column=node.texts(split.column), unknown=unknown)
    if split.masks is not None:
        found = [(SPLITS.index(word), node.numbers(name)) for word, name in split.masks.columns]
        names = ", ".join(name for _, name in split.masks.columns)
        return SplitRule(
            masks=tuple((place, mask) for place, mask in found if mask is not None),
            twice=number(names, "in two splits; leave each in one"),
            flags=number(names, "that are neither true nor false"),
        )
    assert split.fractions is not None, "Split checks that it has one way"
    return SplitRule(fractions=split.fractions, seed=split.seed)


def _part(name: str, config: GraphConfig, node: Resolver) -> Numbers | None:
    """Find the column of parts."""
    kind = node.kind(name)
    if kind is None:
        return None
    if not pa.types.is_integer(kind):
        node.fault(name, f"holds {kind}; parts are numbers, 0..{config.parts.count - 1}")
        return None
    return node.numbers(name)


class _Labels:
    """The label columns of a configuration, and the classes in them."""

    def __init__(self, config: GraphConfig, node: Resolver, like: GraphInfo | None) -> None:
        self._config, self._node = config, node
        names = config.nodes.label
        self.name = names[0] if names else ""
        self.texts: Texts | None = None
        self.targets: tuple[Numbers, ...] = ()
        self._counts: Counter[str] = Counter()
        self._given = config.classes
        if like is not None and (config.spec.has_classes or like.class_names):
            self._given = like.class_names or tuple(str(number) for number in range(like.num_outputs))
        if config.spec.has_classes or (config.spec.num_names == 2 and names and self._has_texts(names[0])):
            self.texts = node.texts(names[0]) if names else None
            return
        columns = [node.numbers(name) for name in names]
        for column in columns:
            if column is not None and config.spec.has_one_column and column.size > 1:
                node.fault(column.column, f"holds {column.size} numbers; a {config.task} label is one, 0 or 1")
        self.targets = tuple(column for column in columns if column is not None)

    def _has_texts(self, name: str) -> bool:
        schema = self._node.table.schema
        return name in schema.names and is_text(value_type(schema.field(name).type))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that were found."""
        return tuple(one.column for one in (self.texts, *self.targets) if one is not None)

    def labelled(self, batch: pa.RecordBatch) -> Mask:
        """[rows] which have any label."""
        given = [~is_null(decoded(batch.column(name))) for name in self.columns]
        return np.logical_or.reduce(given) if given else np.ones(batch.num_rows, bool)

    def shown(self) -> list[tuple[str, Show]]:
        """Return what has to see the rows to find the classes, as for `Resolver.fit`."""
        return [] if self.texts is None or self._given is not None else [(self.name, self._count)]

    def _count(self, batch: pa.RecordBatch, rows: Mask) -> None:
        assert self.texts is not None, "shown only with a column"
        words = without_words(self.texts.raw(batch, Marks(batch.num_rows)), self._config.nodes.unlabelled)
        count_values(self._counts, words)

    def classes(self) -> tuple[str, ...] | None:
        """Return the classes in order; ``None``: there are none, or a fault."""
        if self.texts is None:
            return None
        classes = self._given or ascending(list(self._counts))
        if len(classes) < 2 or len(classes) > MAX_CATEGORIES:
            count = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
            self._node.fault(self.name, f"has {count}; classification needs 2 to {MAX_CATEGORIES}")
            return None
        if self._config.spec.num_names not in (None, len(classes)):
            self._node.fault(self.name, f"has {len(classes)} classes, {', '.join(classes[:5])}; a binary label has 2")
            return None
        for word in sorted({*NULL_WORDS} & {*self._counts}):
            self._node.say(
                self.name,
                f"{word} is a class, of {self._counts[word]} rows; unlabelled: {word} makes it an unknown label",
            )
        if self._given is None and classes[0] == "-1" and classes != ("-1", "1") and classes[1].isdecimal():
            self._node.fault(
                self.name,
                f"{self._counts['-1']} rows have the label -1, which usually means an unknown one: say so by "
                "unlabelled: -1 (--unlabelled -1, in training --set dataset.columns.unlabelled=-1), or name it in "
                "classes",
            )
            return None
        return classes


def _train(config: GraphConfig, key: Key, split: SplitRule, label: _Labels, node: Resolver) -> Train:
    """Tell the rows of which statistics are taken."""
    if config.statistics == "all" or config.split is None:
        _logger.info("%s: scales, fills and categories are those of all nodes", node.file)
        return Train((), lambda batch: np.ones(batch.num_rows, bool))
    _logger.info("%s: scales, fills and categories are those of the training nodes", node.file)
    masks = tuple(mask.column for _, mask in split.masks)
    by_id = split.column is None and not masks
    columns = (
        *label.columns,
        *masks,
        *([key.column] if by_id else []),
        *([split.column.column] if split.column else []),
    )

    def rows(batch: pa.RecordBatch) -> Mask:
        marks = Marks(batch.num_rows)
        ids = key.read(batch, marks) if by_id else None
        return np.asarray(split.read(batch, ids, label.labelled(batch), marks) == 0)

    return Train(columns, rows)
