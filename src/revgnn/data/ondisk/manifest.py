"""The manifest of a prepared graph: what its parts hold, where it came from, and how it is checked before use.

``manifest.json`` says everything about the graph but its numbers. It is read as a stranger's: every field has a type
and a range, parts have no names of their own, and its own checksum stands beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, get_args

from ...files import read_object
from ..batch import SPLITS
from ..dataset import Metric, Task

MANIFEST = "manifest.json"
FORMAT = 1
MOST_PARTS = 2**20
_MOST_NODES_OF_A_PART = 2**31 - 1
_LARGEST_MANIFEST = 2**30
_MOST_COLUMNS = 2**20


class StoreError(ValueError):
    """A prepared graph that is damaged, contradicts itself, or is of another format."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column of the user's, which may be several numbers wide."""

    name: str
    width: int


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What one file of a part must be."""

    bytes: int
    sha256: str
    """Lower-case hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """How large one part is."""

    nodes: int
    edges: int
    """Edges into its nodes, from wherever."""
    files: Mapping[str, FileFacts]
    """Name in the folder of the part -> facts; the names are those of `part.file_names`."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a prepared graph of P parts, N nodes and E edges but its numbers."""

    name: str
    """How reports call it."""
    task: Task
    metric: Metric
    num_outputs: int
    """T: classes of a multiclass task, else columns of the labels; 0: nothing is known of the nodes."""
    features: tuple[Feature, ...]
    """Of nodes, side by side in this order."""
    edge_features: tuple[Feature, ...] = ()
    """Of edges; empty: the edges carry nothing."""
    class_names: tuple[str, ...] | None = None
    """The label that each class stands for; of a multi-label task, the name of each column; ``None``: its number."""
    splits: Mapping[str, int]
    """``train``, ``valid`` and ``test`` -> nodes."""
    undirected: bool = False
    """Whether the reverse of every edge was added."""
    self_loops: bool = False
    """Whether every node was given one self loop."""
    partition: Mapping[str, Any] = field(default_factory=dict)
    """How the parts were chosen: method, seed, name of the hash."""
    parts: tuple[PartFacts, ...]
    inputs: Sequence[Mapping[str, Any]] = ()
    """The files that it was made of: name, bytes, sha256."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that made it."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """What was left out, and how many rows of it."""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """The software that wrote it."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_parts(self) -> int:
        """P."""
        return len(self.parts)

    @cached_property
    def num_nodes(self) -> int:
        """N."""
        return sum(part.nodes for part in self.parts)

    @cached_property
    def num_edges(self) -> int:
        """E."""
        return sum(part.edges for part in self.parts)

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all files of all parts."""
        return sum(file.bytes for part in self.parts for file in part.files.values())

    @property
    def in_channels(self) -> int:
        """F."""
        return sum(feature.width for feature in self.features)

    @property
    def edge_channels(self) -> int | None:
        """K; ``None``: the edges carry nothing."""
        return sum(feature.width for feature in self.edge_features) or None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into the folder of a graph, synced to the disk."""
    content = {
        "level": "node",
        "num_nodes": manifest.num_nodes,
        "num_edges": manifest.num_edges,
        "num_parts": manifest.num_parts,
        **asdict(manifest),
    }
    # As it will be read: keys are text and tuples are lists.
    content = json.loads(json.dumps(content, allow_nan=False))
    text = json.dumps({"format": FORMAT, "sha256": _digest(content), "content": content}, indent=1, ensure_ascii=False)
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a folder.

    Raises:
        FileNotFoundError: there is none.
        StoreError: what is wrong with which field.
    Cost: the text of the manifest; no other file is looked at.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} is no prepared graph ({MANIFEST} is missing); make one with revgnn prepare")
    content = _read_content(path)
    fields = _Fields(path, content)
    fields.check_known({*Manifest.__dataclass_fields__, "level", "num_nodes", "num_edges", "num_parts"})
    if content.get("level") != "node":
        fields.fail("level", "must be 'node'")
    try:
        manifest = Manifest(
            name=fields.text("name"),
            task=fields.one_of("task", get_args(Task)),
            metric=fields.one_of("metric", get_args(Metric)),
            num_outputs=fields.integer("num_outputs"),
            features=fields.features("features"),
            edge_features=fields.features("edge_features"),
            class_names=None if content.get("class_names") is None else fields.texts("class_names"),
            splits=fields.counts("splits"),
            undirected=fields.flag("undirected"),
            self_loops=fields.flag("self_loops"),
            partition=fields.mapping("partition"),
            parts=tuple(_part(fields, number, part) for number, part in enumerate(fields.sequence("parts"))),
            inputs=tuple(fields.sequence("inputs")),
            config=fields.mapping("config"),
            dropped=fields.counts("dropped"),
            versions=fields.mapping("versions"),
        )
    except StoreError:
        raise
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error
    for name in ("num_nodes", "num_edges", "num_parts"):
        if fields.integer(name) != getattr(manifest, name):
            fields.fail(name, f"must be the {getattr(manifest, name)} that its parts come to")
    return manifest


def _read_content(path: Path) -> dict[str, Any]:
    whole = read_object(path, StoreError, largest=_LARGEST_MANIFEST)
    if whole.get("format") != FORMAT:
        raise StoreError(
            f"{path} must have format {FORMAT}, got {str(whole.get('format'))[:60]!r}; use the revgnn that wrote it"
        )
    content = whole.get("content")
    if not isinstance(content, dict) or whole.get("sha256") != _digest(content):
        raise StoreError(f"{path} does not match its checksum; prepare the graph again")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _part(fields: _Fields, number: int, record: Any) -> PartFacts:
    where = f"parts[{number}]"
    part = _Fields(fields.path, record, where)
    files = {}
    for name, facts in part.mapping("files").items():
        file = _Fields(fields.path, facts, f"{where}.files[{name!r}]")
        files[name] = FileFacts(bytes=file.integer("bytes"), sha256=file.text("sha256"))
    return PartFacts(nodes=part.integer("nodes"), edges=part.integer("edges"), files=files)


class _Fields:
    """One JSON object, field by field; whatever is not as it must be is a `StoreError` that names it."""

    def __init__(self, path: Path, record: Any, where: str = "") -> None:
        self.path, self._where = path, where
        if not isinstance(record, dict):
            raise StoreError(f"{path}: {where} must be an object, got {type(record).__name__}")
        self._record = record

    def fail(self, name: str, rule: str) -> NoReturn:
        place = f"{self._where}.{name}" if self._where else name
        raise StoreError(f"{self.path}: {place} {rule}, got {str(self._record.get(name))[:60]!r}")

    def check_known(self, names: set[str]) -> None:
        unknown = sorted(set(self._record) - names)
        if unknown:
            raise StoreError(f"{self.path} has unknown fields: {', '.join(map(repr, unknown[:5]))}")

    def integer(self, name: str) -> int:
        value = self._record.get(name)
        # Truth values are integers to Python, and are none here.
        if type(value) is not int or not 0 <= value < 2**63:
            self.fail(name, "must be a whole number of 0 or more")
        return value

    def text(self, name: str) -> str:
        value = self._record.get(name)
        if not isinstance(value, str):
            self.fail(name, "must be text")
        return value

    def one_of(self, name: str, choices: tuple[Any, ...]) -> Any:
        if self.text(name) not in choices:
            self.fail(name, f"must be one of {', '.join(choices)}")
        return self._record[name]

    def flag(self, name: str) -> bool:
        value = self._record.get(name)
        if not isinstance(value, bool):
            self.fail(name, "must be true or false")
        return value

    def sequence(self, name: str) -> list[Any]:
        value = self._record.get(name)
        if not isinstance(value, list):
            self.fail(name, "must be a list")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._record.get(name)
        if not isinstance(value, dict):
            self.fail(name, "must be an object")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.sequence(name)
        if not all(isinstance(value, str) for value in values):
            self.fail(name, "must be a list of text")
        return tuple(values)

    def counts(self, name: str) -> dict[str, int]:
        inner = _Fields(self.path, self.mapping(name), name)
        return {key: inner.integer(key) for key in self._record[name]}

    def features(self, name: str) -> tuple[Feature, ...]:
        records = [_Fields(self.path, value, f"{name}[{at}]") for at, value in enumerate(self.sequence(name))]
        return tuple(Feature(name=record.text("name"), width=record.integer("width")) for record in records)


def _check(manifest: Manifest) -> None:
    """Check what fields must be together; ValueError names the field."""
    if not 1 <= len(manifest.parts) <= MOST_PARTS:
        raise ValueError(f"parts must be 1 to {MOST_PARTS}, got {len(manifest.parts)}")
    for number, part in enumerate(manifest.parts):
        if part.nodes > _MOST_NODES_OF_A_PART:
            raise ValueError(
                f"parts[{number}].nodes must be at most {_MOST_NODES_OF_A_PART}, got {part.nodes}; make more parts"
            )
    for what, features in (("features", manifest.features), ("edge_features", manifest.edge_features)):
        names = [feature.name for feature in features]
        if len(set(names)) != len(names):
            raise ValueError(f"{what} must have different names, got {names}")
        if any(feature.width < 1 for feature in features) or sum(feature.width for feature in features) > _MOST_COLUMNS:
            raise ValueError(f"{what} must be 1 to {_MOST_COLUMNS} numbers wide, each at least 1")
    if not manifest.features:
        raise ValueError("features must name at least one column")
    if not 0 <= manifest.num_outputs <= _MOST_COLUMNS:
        raise ValueError(f"num_outputs must be 0 to {_MOST_COLUMNS}, got {manifest.num_outputs}")
    if manifest.class_names is not None and len(manifest.class_names) != manifest.num_outputs:
        raise ValueError(
            f"class_names must be one for each of {manifest.num_outputs} outputs, got {len(manifest.class_names)}"
        )
    if set(manifest.splits) != set(SPLITS) or sum(manifest.splits.values()) > manifest.num_nodes:
        raise ValueError(
            f"splits must count train, valid and test among {manifest.num_nodes} nodes, got {dict(manifest.splits)}"
        )
