"""Writes, reads and checks the manifest of a prepared graph: metadata, sizes and hashes of files, provenance.

``manifest.json`` describes everything except the arrays. It is treated as untrusted input: every field has a type and a
range, folders of parts are numbered and not named, and the manifest has its own checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from ...files import check_format, read_object
from ...plain_config import from_json
from ..encodings import Encoding
from ..info import Counts, Feature, GraphInfo
from ..task import SPLITS

MANIFEST = "manifest.json"
FORMAT = 1
MOST_PARTS = 2**20
_MOST_NODES_OF_A_PART = 2**31 - 1
_LARGEST_MANIFEST = 2**30
_MOST_COLUMNS = 2**20


_FILLED_IN = {"in_channels", "edge_channels", "label_channels", "counts"}
_NEVER_STORED = {"level", "categories", "edge_categories"}
_FACTS = {name: hint for name, hint in get_type_hints(GraphInfo).items() if name not in _FILLED_IN | _NEVER_STORED}
"""Fields of `GraphInfo` in a manifest, with their types."""


class StoreError(ValueError):
    """A prepared graph is damaged, inconsistent, or has another format.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import Store, StoreError
        >>> Path("broken").mkdir()
        >>> _ = Path("broken/manifest.json").write_text("[]")
        >>> try:
        ...     Store.open(Path("broken"))
        ... except StoreError as error:
        ...     print(type(error).__name__)
        StoreError
    """


@dataclass(frozen=True)
class _Encoded:
    """An encoding as a field, for `from_json`."""

    encoding: Encoding


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Size and hash of one file of a part."""

    bytes: int
    sha256: str
    """Lower-case hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """Size and files of one part."""

    nodes: int
    edges: int
    """Edges into its nodes, from all parts."""
    files: Mapping[str, FileFacts]
    """File name -> facts; the names are those of `part.file_names`."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a prepared graph of P parts, N nodes and E edges, without its arrays."""

    info: GraphInfo
    """Metadata of the graph; widths and counts are filled in from features and parts."""
    splits: Mapping[str, int]
    """``train``, ``valid`` and ``test`` -> number of nodes."""
    partition: Mapping[str, object] = field(default_factory=dict)
    """How the graph was partitioned: method, seed, name of the hash."""
    parts: tuple[PartFacts, ...]
    inputs: Sequence[Mapping[str, object]] = ()
    """The input files: name, bytes, sha256."""
    config: Mapping[str, object] = field(default_factory=dict)
    """The configuration that made it."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of dropped rows."""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """Package -> version that wrote the graph."""

    def __post_init__(self) -> None:
        info = self.info
        filled = replace(
            info,
            in_channels=sum(feature.width for feature in info.features),
            edge_channels=sum(feature.width for feature in info.edge_features) or None,
            counts=Counts(
                nodes=sum(part.nodes for part in self.parts),
                edges=sum(part.edges for part in self.parts),
                splits=tuple(self.splits.items()),
            ),
        )
        object.__setattr__(self, "info", filled)
        _check(self)

    @property
    def num_parts(self) -> int:
        """P."""
        return len(self.parts)

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all files of all parts."""
        return sum(file.bytes for part in self.parts for file in part.files.values())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into the folder of a graph, synced to the disk."""
    content = {"num_parts": manifest.num_parts, **_counts(manifest), **asdict(manifest)}
    info = content.pop("info")
    content |= {name: info[name] for name in ("level", *_FACTS)}
    # Convert to the form in which it is read: keys are strings and tuples are lists.
    content = json.loads(json.dumps(content, allow_nan=False))
    text = json.dumps({"format": FORMAT, "sha256": _digest(content), "content": content}, indent=1, ensure_ascii=False)
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a folder.

    Raises:
        FileNotFoundError: there is no manifest.
        StoreError: a field is invalid; the message names it.
    Cost: reads the manifest only.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} is no prepared graph ({MANIFEST} is missing); make one with revgnn prepare")
    # What older graphs do not say.
    content = {"edge_weight": False, **_read_content(path)}
    fields = _Fields(path, content)
    own = {each.name for each in dataclass_fields(Manifest)} - {"info"}
    fields.check_known({*own, *_FACTS, "level", "num_nodes", "num_edges", "num_parts"})
    if content.get("level") != "node":
        fields.fail("level", "must be 'node'")
    try:
        manifest = Manifest(
            info=GraphInfo(**{name: fields.typed(name, hint) for name, hint in _FACTS.items()}),
            splits=fields.counts("splits"),
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
    for name, count in {**_counts(manifest), "num_parts": manifest.num_parts}.items():
        if fields.integer(name) != count:
            fields.fail(name, f"must be the {count} that its parts come to")
    return manifest


def _counts(manifest: Manifest) -> dict[str, int]:
    return {"num_nodes": manifest.info.counts.nodes, "num_edges": manifest.info.counts.edges}


def _read_content(path: Path) -> dict[str, Any]:
    whole = read_object(path, StoreError, largest=_LARGEST_MANIFEST)
    check_format(path, whole, FORMAT, StoreError)
    content = whole.get("content")
    if not isinstance(content, dict) or whole.get("sha256") != _digest(content):
        raise StoreError(f"{path} does not match its checksum; prepare the graph again")
    return content


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _part(fields: _Fields, number: int, record: object) -> PartFacts:
    where = f"parts[{number}]"
    part = _Fields(fields.path, record, where)
    files = {}
    for name, facts in part.mapping("files").items():
        file = _Fields(fields.path, facts, f"{where}.files[{name!r}]")
        files[name] = FileFacts(bytes=file.integer("bytes"), sha256=file.text("sha256"))
    return PartFacts(nodes=part.integer("nodes"), edges=part.integer("edges"), files=files)


class _Fields:
    """Reads the fields of a JSON object; an invalid field raises a `StoreError` that names it."""

    def __init__(self, path: Path, record: object, where: str = "") -> None:
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
        # bool is a subclass of int in Python, but is not accepted as an integer here.
        if type(value) is not int or not 0 <= value < 2**63:
            self.fail(name, "must be a whole number of 0 or more")
        return value

    def text(self, name: str) -> str:
        value = self._record.get(name)
        if not isinstance(value, str):
            self.fail(name, "must be text")
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        if self.text(name) not in choices:
            self.fail(name, f"must be one of {', '.join(choices)}")
        return self.text(name)

    def typed(self, name: str, hint: Any) -> Any:
        """Read a field of a dataclass by its annotation."""
        choices = get_args(hint)
        if type(None) in choices:
            (hint,) = (each for each in choices if each is not type(None))
            return None if self._record.get(name) is None else self.typed(name, hint)
        if get_origin(hint) is Literal:
            return self.one_of(name, choices)
        readers = {str: self.text, int: self.integer, bool: self.flag}
        readers |= {tuple[str, ...]: self.texts, tuple[Feature, ...]: self.features}
        if hint not in readers:
            self.fail(name, "must be null: a prepared graph has none")
        return readers[hint](name)

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
        return tuple(
            Feature(name=record.text("name"), width=record.integer("width"), encoding=record.encoding("encoding"))
            for record in records
        )

    def encoding(self, name: str) -> Encoding | None:
        value = self._record.get(name)
        if value is None:
            return None
        try:
            return from_json(_Encoded, {"encoding": value}).encoding
        except ValueError as error:
            self.fail(name, f"must be an encoding ({error})")


def _check(manifest: Manifest) -> None:
    """Check the consistency of the fields; the ValueError names the field."""
    info = manifest.info
    if not 1 <= len(manifest.parts) <= MOST_PARTS:
        raise ValueError(f"parts must be 1 to {MOST_PARTS}, got {len(manifest.parts)}")
    for number, part in enumerate(manifest.parts):
        if part.nodes > _MOST_NODES_OF_A_PART:
            raise ValueError(
                f"parts[{number}].nodes must be at most {_MOST_NODES_OF_A_PART}, got {part.nodes}; make more parts"
            )
    for what, features in (("features", info.features), ("edge_features", info.edge_features)):
        names = [feature.name for feature in features]
        if len(set(names)) != len(names):
            raise ValueError(f"{what} must have different names, got {names}")
        for feature in features:
            if feature.encoding is not None and feature.encoding.width != feature.width:
                raise ValueError(f"{what}: {feature.name} must be {feature.encoding.width} wide, got {feature.width}")
        if any(feature.width < 1 for feature in features) or sum(feature.width for feature in features) > _MOST_COLUMNS:
            raise ValueError(f"{what} must be 1 to {_MOST_COLUMNS} numbers wide, each at least 1")
    if not info.features:
        raise ValueError("features must name at least one column")
    if not 0 <= info.num_outputs <= _MOST_COLUMNS:
        raise ValueError(f"num_outputs must be 0 to {_MOST_COLUMNS}, got {info.num_outputs}")
    if set(manifest.splits) != set(SPLITS) or sum(manifest.splits.values()) > info.counts.nodes:
        raise ValueError(
            f"splits must count train, valid and test among {info.counts.nodes} nodes, got {dict(manifest.splits)}"
        )
