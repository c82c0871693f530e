"""The configuration graph.yaml as frozen dataclasses: tables, columns, task, split and partition.

Hides YAML: the error for an unknown key names the nearest known one, that for a wrong value its allowed types.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..task import TASKS, Task
from .csv_format import SNIFFED, CsvFormat
from .fitting import Fill, Scale

MAX_BYTES = 2**20
"""Maximum size of graph.yaml, which names files but contains no data."""
MAX_PARTS = 100_000
"""Maximum number of parts, a guard against typing mistakes: more parts would have few rows each."""
MAX_BUCKETS = 1 << 16
"""Maximum number of buckets of a column of tags."""

Encode = Literal["auto", "number", "one_hot", "ordinal", "time", "tags"]


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """A column of features and its encoding."""

    column: str
    """The column's name in the table."""
    encode: Encode = "auto"
    """number: numbers, truth values or lists of numbers; one_hot: a 0/1 column per category; ordinal: the index of the
    category; time: the age in days, and the time of the year, week and day; tags: lists of texts as 0/1 columns. auto:
    by the column's type; texts of few different values are one_hot."""
    categories: tuple[str, ...] | None = None
    """The categories in order; ``None``: the values of the training nodes, ascending. Others are all 0, or the last
    index; with ``categories`` they are a fault."""
    scale: Scale | None = None
    """Of this column of numbers; ``None``: that of the graph."""
    fill: Fill | None = None
    """Of this column; ``None``: that of the graph."""
    buckets: int = 128
    """For tags: with more tags than this, a hash distributes them among as many columns."""

    def __post_init__(self) -> None:
        if self.categories is not None and self.encode not in ("one_hot", "ordinal"):
            raise ValueError(f"feature {self.column} has categories; set encode to one_hot or ordinal")
        if not 1 <= self.buckets <= MAX_BUCKETS:
            raise ValueError(f"feature {self.column}: buckets must be 1 to {MAX_BUCKETS}, got {self.buckets}")


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The tables of nodes."""

    files: tuple[str, ...]
    """Parquet, CSV or Arrow files; patterns such as ``nodes/*.parquet``; relative to the folder of graph.yaml."""
    id: str = "id"
    """The column of ids: integers or strings, each once."""
    features: tuple[FeatureConfig, ...]
    """The columns of x, concatenated in this order."""
    label: tuple[str, ...]
    """One column for multiclass and binary (0, 1 or null); several, or one of lists, for multilabel (0, 1 or null) and
    regression. Empty: the nodes are unlabelled, for prediction only."""
    unlabelled: tuple[str, ...] = ()
    """Values of the label that mean an unknown one, such as -1."""
    csv: CsvFormat = SNIFFED
    """The format of CSV files; what it leaves out is sniffed from the first file."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The tables of edges."""

    files: tuple[str, ...]
    """Parquet, CSV or Arrow files, as for nodes."""
    src: str = "src"
    """The column of source ids."""
    dst: str = "dst"
    """The column of destination ids, which receive the messages."""
    features: tuple[FeatureConfig, ...] = ()
    """The columns of edge_attr, concatenated in this order."""
    weight: str | None = None
    """The column of edge weights, numbers of 0 or more, unscaled; it is the only feature of its edges."""
    csv: CsvFormat = SNIFFED
    """As for nodes."""

    def __post_init__(self) -> None:
        if self.weight is not None and self.features:
            raise ValueError(
                f"edges.weight={self.weight} is a number that multiplies messages, and edges.features are read by the "
                "network; name one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Columns of truth values that say whether a node is in a split; a node is in one of them at most."""

    train: str
    """The column of those that are trained on."""
    valid: str | None = None
    """The column of those that select the weights."""
    test: str | None = None
    """The column of those that are scored at the end."""

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(Split, column) of those that are named."""
        found = (("train", self.train), ("valid", self.valid), ("test", self.test))
        return tuple((split, name) for split, name in found if name is not None)


@dataclass(frozen=True, kw_only=True)
class Split:
    """The split into train, valid and test: by a column, by masks, or by fractions."""

    column: str | None = None
    """A column of the nodes with train, valid or test; null: in no split."""
    masks: Masks | None = None
    """Columns of truth values, one for each split."""
    fractions: tuple[float, ...] | None = None
    """Fractions of train, valid and test, such as [0.8, 0.1, 0.1]; drawn by the hash of the id, so that a node keeps
    its split when others are added. Unlabelled nodes are in no split."""
    seed: int = 0
    """Seed of the fractions."""

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.column, self.masks, self.fractions)) != 1:
            raise ValueError("split needs either column, masks or fractions; give exactly one of them")
        if self.fractions is not None:
            good = len(self.fractions) == 3 and all(0 <= part <= 1 for part in self.fractions)
            if not good or sum(self.fractions) > 1 + 1e-9 or self.fractions[0] == 0:
                raise ValueError(
                    f"split.fractions must be three numbers of at most 1 in all, the first above 0; got "
                    f"{list(self.fractions)}"
                )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The partition of the nodes."""

    count: int = 16
    """P, the number of parts; the memory of training grows with the size of a part."""
    method: Literal["hash", "metis", "column"] = "hash"
    """hash: by the id, for any size; metis: few cut edges, in the memory of one machine; column: a column of yours."""
    column: str | None = None
    """For method column: a column of the nodes with the part, 0..count-1."""
    seed: int = 0
    """Seed of the hash."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PARTS:
            raise ValueError(f"parts.count must be 1 to {MAX_PARTS}; got {self.count}")
        if (self.column is not None) != (self.method == "column"):
            raise ValueError("parts.column goes with parts.method: column; give both or neither")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """The content of graph.yaml."""

    name: str | None = None
    """The graph's name; ``None``: the name of the output folder."""
    task: Literal["multiclass", "binary", "multilabel", "regression"] = "multiclass"
    """The task: one class of several; a yes or no; several of them; numbers."""
    nodes: Nodes
    edges: Edges
    split: Split | None = None
    """The split; ``None`` if and only if there is no label."""
    classes: tuple[str, ...] | None = None
    """The classes of multiclass in order; ``None``: all values of the label, ascending."""
    direction: Literal["directed", "undirected"] = "directed"
    """directed: edges unchanged, repeats included; undirected: reverse edges are added and repeats dropped."""
    self_loops: bool = False
    """Give every node exactly one."""
    scale: Scale = "standard"
    """Of numbers: standard: mean 0 and standard deviation 1; robust: median 0 and interquartile range 1; quantile: the
    rank, uniform; none: unchanged. Columns of 0 and 1 only are unchanged."""
    fill: Fill | None = None
    """In place of missing values: the mean, the median, 0, or a category of its own; where any is missing, a 0/1 column
    tells. ``None``: a missing value is a fault."""
    statistics: Literal["train", "all"] = "train"
    """The nodes from which scales, fills and categories are taken."""
    parts: Parts = Parts()

    def __post_init__(self) -> None:
        if self.spec.has_one_column and len(self.nodes.label) > 1:
            raise ValueError(f"{self.task} has one label column; got {', '.join(self.nodes.label)}")
        if self.nodes.label and self.split is None:
            raise ValueError("lacks split; see docs/prepare.md for an example")
        if not self.nodes.label and (self.split is not None or self.classes is not None):
            raise ValueError("nodes.label names no column: leave out split and classes too")
        if self.classes is not None and not self.spec.has_classes:
            raise ValueError(f"classes go with task: multiclass, not {self.task}; leave them out")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes must be two or more, each once")
        if not self.nodes.features:
            raise ValueError("nodes.features names no column; models need at least one")
        if self.self_loops and (self.edges.features or self.edges.weight):
            raise ValueError("self_loops: true adds edges without features, but edges.features names some; drop one")
        masks = [] if self.split is None or self.split.masks is None else [one for _, one in self.split.masks.columns]
        used = [self.nodes.id, *self.nodes.label, *masks, *(feature.column for feature in self.nodes.features)]
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]} of nodes is used twice, as id, label, mask or feature; keep one use")

    def with_task(self, task: str) -> GraphConfig:
        """Return the same configuration of another task.

        Raises: ValueError: there is no such task, or the columns do not fit it.
        """
        changes: dict[str, Any] = {"task": task}
        return replace(self, **changes)

    @property
    def spec(self) -> Task:
        """All that follows from the task."""
        return TASKS["node", self.task]


def read_config(path: Path) -> GraphConfig:
    """Read graph.yaml.

    Raises: ValueError: not YAML, or YAML with aliases or repeated names; an unknown, missing or wrong field, by its
        dotted name.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {MAX_BYTES} are read: name tables by a pattern")
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except RecursionError:
        raise ValueError(f"{path} is nested too deep; see docs/prepare.md for an example") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    config: GraphConfig = parse(GraphConfig, loaded, path.name)
    return config


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A YAML loader that rejects repeated names, and aliases, by which a few lines can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*{self.peek_event().anchor}) are not understood; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [name.value for name, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"{twice[0]!r} occurs {names.count(twice[0])} times; keep one")
        return super().construct_mapping(node, deep)


def parse(kind: Any, value: Any, where: str) -> Any:
    """Convert a YAML value to a type.

    Args:
        kind: a dataclass, ``str``, ``int``, ``float``, ``bool``, ``Literal``, ``tuple[T, ...]`` or a union with None.
        value: the YAML value; a single value is accepted as a list of one.
        where: the dotted name, for errors.
    Raises: ValueError: the message names the field, its value and the allowed values.
    """
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (one for one in get_args(kind) if one is not types.NoneType)
        return None if value is None else parse(inner, value, where)
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    if get_origin(kind) is tuple:
        values = value if isinstance(value, list) else [value]
        inner = get_args(kind)[0]
        return tuple(parse(inner, one, f"{where}[{place}]") for place, one in enumerate(values))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            near = _nearest(str(value), get_args(kind))
            raise ValueError(f"{where} must be one of {', '.join(get_args(kind))}; got {value!r:.80}{near}")
        return value
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        allowed = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise ValueError(f"{where} must be {allowed}; got {value!r:.80}")
    return value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if kind is FeatureConfig and isinstance(value, str):
        value = {"column": value}
    if kind is Split and isinstance(value, str):
        value = {"column": value}
    if not isinstance(value, Mapping):
        names = ", ".join(field.name for field in fields(kind))
        raise ValueError(f"{where} must have fields ({names}); got {value!r:.80}")
    known, hints = {field.name: field for field in fields(kind)}, get_type_hints(kind)
    for name in value:
        if name not in known:
            raise ValueError(f"{where} has no field {name!r}{_nearest(str(name), known)}; it has {', '.join(known)}")
    found = {name: parse(hints[name], one, f"{where}.{name}") for name, one in value.items()}
    lacking = [name for name, field in known.items() if name not in value and field.default is MISSING]
    if lacking:
        raise ValueError(f"{where} lacks {' and '.join(lacking)}; see docs/prepare.md for an example")
    try:
        return kind(**found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name, or None."""
    found = difflib.get_close_matches(name, [str(one) for one in known], n=1, cutoff=0.5)
    return found[0] if found else None


def _nearest(name: str, known: Iterable[str]) -> str:
    found = nearest(name, known)
    return "" if found is None else f" (did you mean {found!r}?)"
