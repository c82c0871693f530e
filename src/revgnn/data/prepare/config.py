"""graph.yaml as frozen dataclasses: which tables, which columns, what is learned, how it is cut.

Hides YAML: an unknown key is answered with the nearest known one, a value of the wrong kind with what it may be.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..task import TASKS, Task

MAX_BYTES = 2**20
"""Of graph.yaml: it names files, it does not hold them."""
MAX_PARTS = 100_000
"""More would be folders of a few rows each; a typing mistake must not make a million of them."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """One column that becomes numbers."""

    column: str
    """Its name in the table."""
    encode: Literal["number", "one_hot", "ordinal"] = "number"
    """number: a number, truth value or list of numbers as it is; one_hot: a column of 0 and 1 for each category;
    ordinal: the number of its category."""
    categories: tuple[str, ...] | None = None
    """In this order; ``None``: those that occur, in ascending order."""

    def __post_init__(self) -> None:
        if self.categories is not None and self.encode == "number":
            raise ValueError(f"feature {self.column} has categories; set encode to one_hot or ordinal")


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The tables of nodes."""

    files: tuple[str, ...]
    """Parquet, CSV or Arrow files; patterns such as ``nodes/*.parquet``; relative to the folder of graph.yaml."""
    id: str = "id"
    """Integers or strings, each once."""
    features: tuple[FeatureConfig, ...]
    """Side by side in this order."""
    label: tuple[str, ...]
    """One column for multiclass and binary (0, 1 or null); several, or one of lists, for multilabel (0, 1 or null) and
    regression. An empty list:
    nothing is known of the nodes, which can be predicted and not learned from."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The tables of edges."""

    files: tuple[str, ...]
    """As for nodes."""
    src: str = "src"
    """The id that messages come from."""
    dst: str = "dst"
    """The id that they go to."""
    features: tuple[FeatureConfig, ...] = ()
    """Side by side in this order."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which nodes are learned from and which are judged: a column, or fractions."""

    column: str | None = None
    """Of nodes: train, valid or test; null: in none of them."""
    fractions: tuple[float, ...] | None = None
    """Of train, valid and test, such as [0.8, 0.1, 0.1]: drawn by the hash of the id, so that a node stays where it is
    when others come. Nodes without a label are in none."""
    seed: int = 0
    """Of the fractions."""

    def __post_init__(self) -> None:
        if (self.column is None) == (self.fractions is None):
            raise ValueError("split needs either column or fractions; give exactly one of them")
        if self.fractions is not None:
            good = len(self.fractions) == 3 and all(0 <= part <= 1 for part in self.fractions)
            if not good or sum(self.fractions) > 1 + 1e-9 or self.fractions[0] == 0:
                raise ValueError(
                    f"split.fractions must be three numbers of at most 1 in all, the first above 0; got "
                    f"{list(self.fractions)}"
                )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How the nodes are cut into parts."""

    count: int = 16
    """How many; the memory of training follows the size of a part."""
    method: Literal["hash", "metis", "column"] = "hash"
    """hash: by the id, any size; metis: few cut edges, in the memory of one machine; column: one of yours."""
    column: str | None = None
    """For method column: of nodes, the number of the part, 0..count-1."""
    seed: int = 0
    """Of the hash."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PARTS:
            raise ValueError(f"parts.count must be 1 to {MAX_PARTS}; got {self.count}")
        if (self.column is not None) != (self.method == "column"):
            raise ValueError("parts.column goes with parts.method: column; give both or neither")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """What a graph is made of: the whole of graph.yaml."""

    name: str | None = None
    """``None``: the name of the folder that is written."""
    task: Literal["multiclass", "binary", "multilabel", "regression"] = "multiclass"
    """What is learned: one class of several; a yes or no; several of them; numbers."""
    nodes: Nodes
    edges: Edges
    split: Split | None = None
    """``None`` where, and only where, there is no label."""
    classes: tuple[str, ...] | None = None
    """Of multiclass, in this order; ``None``: those that occur, in ascending order."""
    direction: Literal["directed", "undirected"] = "directed"
    """directed: edges as they stand, with their repeats; undirected: reverse edges are added and repeats dropped."""
    self_loops: bool = False
    """Give every node exactly one."""
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
        if self.self_loops and self.edges.features:
            raise ValueError("self_loops: true adds edges without features, but edges.features names some; drop one")
        used = [self.nodes.id, *self.nodes.label, *(feature.column for feature in self.nodes.features)]
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]} of nodes is used twice, as id, label or feature; keep one use")

    @property
    def spec(self) -> Task:
        """All that follows from the task."""
        return TASKS["node", self.task]


def read_config(path: Path) -> GraphConfig:
    """Read graph.yaml.

    Raises: ValueError: not YAML, or more of it than is understood; an unknown, missing or wrong field, by its dotted
        name.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {MAX_BYTES} are read: name tables by a pattern")
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except RecursionError:
        raise ValueError(f"{path} is nested too deep; see docs/prepare.md for an example") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    config: GraphConfig = parse(GraphConfig, loaded, path.name)
    return config


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """Values that are written out, each name once: no aliases, by which a few lines can stand for a world of them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*{self.peek_event().anchor}) are not understood; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [name.value for name, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"{twice[0]!r} stands there {names.count(twice[0])} times; keep one")
        return super().construct_mapping(node, deep)


def parse(kind: Any, value: Any, where: str) -> Any:
    """Turn plain YAML values into what a type hint asks for.

    Args:
        kind: a dataclass, ``str``, ``int``, ``float``, ``bool``, ``Literal``, ``tuple[T, ...]`` or a union with None.
        value: what YAML gave; a single value stands for a list of one.
        where: the dotted name, for errors.
    Raises: ValueError: naming the field, what was got and what it may be.
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
        spoken = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise ValueError(f"{where} must be {spoken}; got {value!r:.80}")
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


def nearest(name: str, known: Any) -> str | None:
    """Give the known name that is most like this one, if any is."""
    found = difflib.get_close_matches(name, [str(one) for one in known], n=1, cutoff=0.5)
    return found[0] if found else None


def _nearest(name: str, known: Any) -> str:
    found = nearest(name, known)
    return "" if found is None else f" (did you mean {found!r}?)"
