"""Infers a configuration from two tables: what each column is, the task, the split, and what is left out and why.

``revgnn prepare`` with and without ``--init``, and training on a folder, all ask this one function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..info import GraphInfo
from ..readers.parquet import is_list, is_numeric, is_text
from ..task import SPLITS
from .columns import Marks, Numbers, as_text, decoded
from .config import FeatureConfig
from .csv_format import PLAIN, SNIFFED, CsvFormat
from .fitting import Fill, Scale
from .inputs import Table, batches, value_type

IDS = ("id", "node_id", "node", "name")
LABELS = ("label", "y", "target", "class", "labels", "targets")
SPLIT_COLUMNS = ("split", "fold")
SOURCES = ("src", "source", "from", "source_id", "src_id", "from_id", "u")
DESTINATIONS = ("dst", "destination", "target", "to", "destination_id", "target_id", "dst_id", "to_id", "v")
WEIGHTS = ("weight", "edge_weight", "weights", "w")
MASKS = (
    ("train_mask", "is_train"),
    ("val_mask", "valid_mask", "validation_mask", "is_val", "is_valid", "is_validation"),
    ("test_mask", "is_test"),
)
FRACTIONS = [0.8, 0.1, 0.1]
FEW, EACH = 100, 8
"""A column of texts is one of categories with so few different ones, or with so many rows for each."""
FEW_CLASSES, DENSE = 20, 20
"""Whole numbers are classes up to this many different ones; or counted from 0 or 1, with this many rows for each."""
_PANDAS = re.compile(r"__index_level_\d+__|Unnamed: \d+|")
_MOST_CLASSES = 10_000
_DATE = r"^\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
_ISO = "they look like dates: write them as 2026-01-31"
_EMBED = "make numbers of them, such as a list from a text embedding"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is known of two tables; the rest is inferred.

    Examples:
        >>> import revgnn
        >>> columns = revgnn.Columns(id="customer", label=("department",), fill="mean")
        >>> config = revgnn.DatasetConfig(name="tables", path="shop", columns=columns)
    """

    id: str | None = None
    """The column of node ids: integers or strings, each once."""
    label: tuple[str, ...] | None = None
    """The column of labels; several for multilabel and regression; empty: the nodes are unlabelled."""
    split: str | None = None
    """The column with ``train``, ``valid`` or ``test``; null: in none of them."""
    features: tuple[str, ...] | None = None
    """The columns of node features, side by side in this order."""
    src: str | None = None
    """Of edges: the id that messages come from."""
    dst: str | None = None
    """Of edges: the id that they go to."""
    edge_features: tuple[str, ...] | None = None
    """Of edges: the columns of edge features."""
    weight: str | None = None
    """Of edges: the column of weights, 0 or more, which multiply messages."""
    unlabelled: tuple[str, ...] = ()
    """Labels that mean an unknown one, such as -1."""
    scale: Scale = "standard"
    """Of numbers: standard, robust, quantile or none."""
    fill: Fill | None = None
    """In place of missing values: mean, median, zero or category; ``None``: a missing value is a fault."""
    statistics: str = "train"
    """The nodes from which scales, fills and categories are taken: train or all."""
    csv: CsvFormat = SNIFFED
    """The format of CSV files."""


@dataclass
class Inferred:
    """A configuration and what the user should be told of it."""

    values: dict[str, Any]
    """The content of graph.yaml."""
    said: list[str] = field(default_factory=list)
    """What was inferred, one sentence each."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(column of the nodes or ``edges.NAME``, why it is no feature)."""


def infer(
    nodes: Table,
    edges: Table,
    files: tuple[str, str],
    columns: Columns,
    *,
    task: str | None = None,
    like: GraphInfo | None = None,
) -> Inferred:
    """Infer the content of graph.yaml for two tables.

    Args:
        nodes, edges: the tables.
        files: how graph.yaml names them.
        columns: what is given.
        task: a task that is given; ``None``: it follows from the label.
        like: metadata of a graph whose features and task are taken over; then a label may be missing.
    Cost: reads the label column, and the first rows of columns of texts.
    """
    found = Inferred({})
    used: dict[str, str] = {}
    key = columns.id or named(nodes, IDS) or _index(nodes) or "id"
    used[key] = "id"
    label = columns.label if columns.label is not None else _label_columns(nodes, used, like)
    used |= dict.fromkeys(label, "label")
    split = _split(nodes, columns, used, found) if label else None
    chosen = _task(nodes, label, columns, task, like, found)
    src = columns.src or named(edges, SOURCES) or "src"
    dst = columns.dst or named(edges, tuple(name for name in DESTINATIONS if name != src)) or "dst"
    attr, weight = _edge_features(edges, {src, dst}, columns, like, found)
    values: dict[str, Any] = {
        "task": chosen,
        "nodes": {
            "files": files[0],
            "id": key,
            "features": _features(nodes, used, columns, like, found),
            "label": list(label) if len(label) != 1 else label[0],
        },
        "edges": {"files": files[1], "src": src, "dst": dst, **({"weight": weight} if weight else {"features": attr})},
        **({} if split is None else {"split": split}),
        "direction": "directed",
        "self_loops": False,
        "scale": columns.scale,
        **({} if columns.fill is None else {"fill": columns.fill}),
        "statistics": columns.statistics,
        "parts": {"count": 16, "method": "hash"},
    }
    if columns.unlabelled:
        values["nodes"]["unlabelled"] = list(columns.unlabelled)
    for side, table in (("nodes", nodes), ("edges", edges)):
        if table.csv is not None:
            form = {each.name: getattr(table.csv, each.name) for each in fields(CsvFormat)}
            values[side]["csv"] = {**form, "null_words": list(form["null_words"] or ())}
    found.values = values
    return found


def named(table: Table, names: Sequence[str]) -> str | None:
    """Return the first of some names that a column has, whatever its case."""
    there = {name.lower(): name for name in reversed(table.schema.names)}
    return next((name if name in table.schema.names else there[name] for name in names if name in there), None)


def _index(table: Table) -> str | None:
    """Return the index that pandas wrote, which holds the ids where no other column does."""
    return next((name for name in table.schema.names if _PANDAS.fullmatch(name)), None)


def _label_columns(nodes: Table, used: dict[str, str], like: GraphInfo | None) -> tuple[str, ...]:
    one = named(nodes, tuple(name for name in LABELS if name not in used))
    if one is not None:
        return (one,)
    for start in ("label", "target", "y"):
        pattern = re.compile(rf"{start}s?(_\w+|\d+)", re.IGNORECASE)
        several = tuple(name for name in nodes.schema.names if pattern.fullmatch(name) and name not in used)
        if several:
            return several
    return () if like is not None else ("label",)


def _split(nodes: Table, columns: Columns, used: dict[str, str], found: Inferred) -> dict[str, Any]:
    there = [name for one in SPLIT_COLUMNS if (name := named(nodes, (one,))) is not None]
    # A fold is often a number, which is no split.
    name = columns.split or next((one for one in there if one.lower() == "split" or _holds_texts(nodes, one)), None)
    if name is not None:
        used[name] = "split"
        return {"column": name}
    masks = {split: named(nodes, names) for split, names in zip(SPLITS, MASKS, strict=True)}
    if masks["train"] is not None:
        used |= {name: "mask" for name in masks.values() if name is not None}
        found.said.append(f"split: the masks {', '.join(name for name in masks.values() if name is not None)}")
        return {"masks": {split: name for split, name in masks.items() if name is not None}}
    found.said.append("split: no column says it, so 80, 10 and 10% are drawn by the hash of the id (--split)")
    return {"fractions": list(FRACTIONS)}


def _holds_texts(nodes: Table, name: str) -> bool:
    kind = value_type(nodes.schema.field(name).type)
    return is_text(kind) or pa.types.is_null(kind)


# ---------------------------------------------------------------------- the task


def _task(
    nodes: Table, label: tuple[str, ...], columns: Columns, task: str | None, like: GraphInfo | None, found: Inferred
) -> str:
    if task is not None or like is not None:
        return task or (like.task if like is not None else "multiclass")
    there = [name for name in label if name in nodes.schema.names]
    if not there or len(there) < len(label):
        return "multiclass"
    kind, why = _task_of(nodes, there, columns.unlabelled)
    found.said.append(f"task: {kind}, because {', '.join(there)} {why} (--task)")
    return kind


def _task_of(nodes: Table, label: list[str], unlabelled: tuple[str, ...]) -> tuple[str, str]:
    kinds = [value_type(nodes.schema.field(name).type) for name in label]
    if len(label) > 1 or is_list(kinds[0]):
        if not all(is_numeric(kind) for kind in kinds):
            return "multilabel", "are several columns"
        flags = all(
            bool(np.isin(values, (0, 1)).all()) for name in label for values in _values(nodes, name, unlabelled)
        )
        return ("multilabel", "hold 0 and 1") if flags else ("regression", "hold numbers")
    if not is_numeric(kinds[0]) or pa.types.is_boolean(kinds[0]):
        held = "truth values" if pa.types.is_boolean(kinds[0]) else "texts" if is_text(kinds[0]) else str(kinds[0])
        return "multiclass", f"holds {held}"
    different: set[float] = set()
    rows = 0
    for values in _values(nodes, label[0], unlabelled):
        if bool((values != np.rint(values)).any()):
            return "regression", "holds numbers that are not whole"
        rows += len(values)
        different.update(np.unique(values).tolist())
        if len(different) > _MOST_CLASSES:
            break
    count = len(different)
    counted = count > 0 and min(different) in (-1, 0, 1) and max(different) < 2 * count and count * DENSE <= rows
    if count <= FEW_CLASSES or (counted and count <= _MOST_CLASSES):
        return "multiclass", f"holds whole numbers, {count} different ones"
    return "regression", f"holds whole numbers, {count} different ones in {rows} rows"


def _values(nodes: Table, name: str, unlabelled: tuple[str, ...]) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
    """Yield the known numbers of a column."""
    words = [float(word) for word in unlabelled if re.fullmatch(r"[+-]?\d+(\.\d*)?", word)]
    for batch in batches(nodes, [name]):
        column = decoded(batch.column(name))
        if is_list(column.type):
            column = pc.list_flatten(column)
        single = pa.record_batch([column], names=[name])
        values = Numbers(name, 1, 0, 0, 0, nodes.csv or PLAIN).raw(single, Marks(len(column)))[:, 0]
        yield values[~np.isnan(values) & ~np.isin(values, words)]


# ---------------------------------------------------------------------- features


def _features(
    nodes: Table, used: dict[str, str], columns: Columns, like: GraphInfo | None, found: Inferred
) -> list[Any]:
    """Return the features: those that are given, ``x`` where it is there, else every column that can be one."""
    if like is not None and like.features:
        return [one.name for one in like.features]
    if columns.features is not None:
        return list(columns.features)
    free = [one for one in nodes.schema if one.name not in used]
    if any(one.name == "x" for one in free):
        found.left_out += [(one.name, "x holds the features (--features)") for one in free if one.name != "x"]
        return ["x"]
    chosen: list[Any] = []
    texts = _texts(nodes, [one.name for one in free if is_text(value_type(one.type))])
    for one in free:
        encode, why = _encoding_of(one.name, value_type(one.type), texts)
        if encode is None:
            found.left_out.append((one.name, why))
        else:
            # Encoded by its type where it is a number, or has so many categories that the most frequent ones are kept.
            chosen.append(one.name if encode in ("number", "auto") else {"column": one.name, "encode": encode})
    if not chosen and next(batches(nodes, nodes.schema.names[:1]), None) is None:
        raise ValueError(f"{nodes.names[0]} has no rows; a graph needs at least one node")
    if not chosen:
        why = "; ".join(f"{name}: {reason}" for name, reason in found.left_out) or "there is no other column"
        raise ValueError(f"{nodes.names[0]} has no column of features: name some by --features ({why})")
    return chosen


def _encoding_of(name: str, kind: pa.DataType, texts: dict[str, _Texts]) -> tuple[str | None, str]:
    """Return the encoding of a column, or why it is left out."""
    if _PANDAS.fullmatch(name):
        return None, "the index of pandas"
    if any(name.lower() in names for names in MASKS):
        return None, "a mask of a split"
    if name.lower() in LABELS:
        return None, "a label, by its name"
    if is_numeric(kind):
        if re.search(r"(^|_)id$", name, re.IGNORECASE) and pa.types.is_integer(kind):
            return None, "ids, by its name"
        return "number", ""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time", ""
    if is_list(kind) and is_text(value_type(kind.value_type)):
        return "tags", ""
    if name in texts:
        different, rows, is_open, remedy = texts[name]
        if different and different <= FEW and 2 * different <= rows and not is_open:
            return "one_hot", ""
        if different and EACH * different <= rows and not is_open:
            return "auto", ""
        return None, f"texts, {different} different ones in the first {rows} rows; {remedy}"
    return None, "nothing but nulls" if pa.types.is_null(kind) else f"{kind} has no encoding"


class _Texts(NamedTuple):
    """The texts in the first rows of a column."""

    different: int
    rows: int
    is_open: bool
    """Whether some are long."""
    remedy: str
    """How to make features of them, if they are no categories."""


def _texts(table: Table, names: list[str]) -> dict[str, _Texts]:
    """Look at the first rows of columns of texts."""
    if not names:
        return {}
    batch = next(batches(table, names), None)
    if batch is None:
        return {}
    found = {}
    for name in names:
        values = as_text(batch.column(name)).drop_null()
        lengths = pc.utf8_length(values)
        longest = pc.max(lengths).as_py() or 0
        are_dates = len(values) and pc.all(pc.match_substring_regex(values, _DATE)).as_py()
        found[name] = _Texts(len(pc.unique(values)), len(values), longest > 200, _ISO if are_dates else _EMBED)
    return found


def _edge_features(
    edges: Table, used: set[str], columns: Columns, like: GraphInfo | None, found: Inferred
) -> tuple[list[str], str | None]:
    """Return the columns of edge features, and that of weights."""
    if like is not None and like.features:
        names = [one.name for one in like.edge_features]
        return ([], names[0]) if like.edge_weight and names else (names, None)
    if columns.weight is not None or columns.edge_features is not None:
        return list(columns.edge_features or ()), columns.weight
    free = [one for one in edges.schema if one.name not in used]
    chosen = ["edge_attr"] if any(one.name == "edge_attr" for one in free) else []
    name = None if chosen else named(edges, WEIGHTS)
    name = name if name not in used else None
    fault = "" if name is None else _no_weight(edges, name)
    weight = None if fault else name
    for one in free:
        if one.name not in (*chosen, weight):
            is_index = _PANDAS.fullmatch(one.name)
            why = "the index of pandas" if is_index else "no feature by default (--edge-features, --weight)"
            if one.name == name:
                why = f"a weight by its name, but {fault} (--edge-features makes a feature of it)"
            found.left_out.append((f"edges.{one.name}", why))
    if weight is not None:
        found.said.append(f"edge weights: {weight} (--edge-features makes a feature of it)")
    return chosen, weight


def _no_weight(edges: Table, name: str) -> str:
    """Return why a column is none of weights, which are numbers of 0 or more; empty: its first rows are."""
    kind = value_type(edges.schema.field(name).type)
    if is_list(kind) or not is_numeric(kind):
        return f"holds {kind}"
    batch = next(batches(edges, [name]), None)
    if batch is None:
        return "has no rows"
    values = Numbers(name, 1, 0, 0, 0, edges.csv or PLAIN).raw(batch, Marks(batch.num_rows))
    if np.isnan(values).any():
        return "some rows have none"
    return "some are below 0" if (values < 0).any() else ""


def width_of(table: Table, feature: FeatureConfig) -> int:
    """Return the columns that a column of features becomes, from its type and its first rows."""
    kind = value_type(table.schema.field(feature.column).type)
    batch = next(batches(table, [feature.column]), None)
    encode = feature.encode if feature.encode != "auto" else _encoding_of(feature.column, kind, {})[0] or "one_hot"
    if encode == "time":
        return 7
    if batch is None or encode == "ordinal":
        return 1
    values = decoded(batch.column(feature.column))
    if encode == "number":
        lengths = pc.list_value_length(values).drop_null() if is_list(kind) else pa.array([1])
        return int(lengths[0].as_py()) if len(lengths) else 1
    if encode == "tags":
        return min(len(pc.unique(pc.list_flatten(values))), feature.buckets)
    count = len(feature.categories or pc.unique(as_text(values).drop_null()))
    return min(count, FEW) if feature.encode == "auto" else count
