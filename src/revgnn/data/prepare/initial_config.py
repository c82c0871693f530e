"""A first configuration from the heads of two tables: written as graph.yaml with comments, or used at once."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ..readers.parquet import Faults, is_numeric, is_text
from .config import GraphConfig, parse, read_config
from .inputs import open_table

_FRACTIONS = {"fractions": [0.8, 0.1, 0.1]}
_COMMENTS = {
    "task": "multiclass, binary (0, 1 or null), multilabel (columns of 0, 1 or null) or regression",
    "id": "integers or strings, each once",
    "features": "numbers or lists of numbers; for others {column: NAME, encode: one_hot} or ordinal",
    "label": "one column; several for multilabel and regression",
    "split": "a column that says train, valid or test; or fractions, drawn by the hash of the id",
    "direction": "directed, or undirected: reverse edges are added and repeats dropped",
    "self_loops": "true gives every node exactly one",
    "parts": "methods: hash (any size), metis (few cut edges, one machine), column (one of yours)",
}


def chosen_config(arguments: Namespace) -> tuple[GraphConfig, Path]:
    """Read the configuration that the command line names, or make one of two files and flags.

    Returns: it, and the folder that its files are relative to.
    Raises: ValueError: flags that do not go with what was named.
    """
    flags = {name: getattr(arguments, name) for name in ("id", "label", "split", "src", "dst", "features")}
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    given += ["--undirected"] if arguments.undirected else []
    if len(arguments.tables) == 1:
        path = Path(arguments.tables[0])
        if path.suffix.lower() not in (".yaml", ".yml"):
            raise ValueError(f"{path} alone is no graph; name graph.yaml, or the nodes and the edges")
        if given:
            raise ValueError(f"{', '.join(given)} go with two files; write it into {path}")
        config, base = read_config(path), path.parent
    else:
        values = first_values(_two(arguments.tables), flags)
        values["direction"] = "undirected" if arguments.undirected else "directed"
        config, base = parse(GraphConfig, values, "the flags"), Path()
    if arguments.parts is not None:
        config = replace(config, parts=replace(config.parts, count=arguments.parts))
    return config, base


def write_first(tables: Sequence[str], path: Path) -> Path:
    """Write a first graph.yaml for two files, with comments.

    Args:
        tables: the nodes and the edges.
        path: does not exist yet; a folder receives ``graph.yaml``.
    Raises: FileExistsError: it does. ValueError: tables that cannot be read.
    """
    path = path / "graph.yaml" if path.is_dir() else path
    if path.exists():
        raise FileExistsError(f"{path} exists already; name another file with --out, or remove it")
    values = first_values(_two(tables), {})
    for side in ("nodes", "edges"):
        values[side]["files"] = str(Path(values[side]["files"]).resolve())
    lines = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).splitlines()
    path.write_text("\n".join(map(_with_comment, lines)) + "\n", encoding="utf-8")
    return path


def first_values(tables: tuple[str, str], said: Mapping[str, Any]) -> dict[str, Any]:
    """Guess what graph.yaml would say about two tables, around what was said.

    Raises: ValueError: a table cannot be read.
    """
    faults = Faults()
    found = [open_table([name], Path(), faults) for name in tables]
    faults.raise_if_any(Path())
    nodes, edges = (pa.schema([]) if table is None else table.schema for table in found)
    key = said.get("id") or _one_of(nodes, ("id", "node_id", "node", "name"), "id")
    label = said.get("label") or _one_of(nodes, ("label", "y", "target", "class"), "label")
    split = said.get("split") or _one_of(nodes, ("split", "fold"), None)
    features = said.get("features") or _features(nodes, {key, label, split})
    src = said.get("src") or _one_of(edges, ("src", "source", "from"), "src")
    dst = said.get("dst") or _one_of(edges, ("dst", "destination", "target", "to"), "dst")
    # Without a file to look it over in, no number is taken for a feature that was not meant as one.
    attr = [name for name in ("edge_attr",) if name in edges.names] if said else _numbers(edges, {src, dst})
    return {
        "task": "multiclass",
        "nodes": {"files": tables[0], "id": key, "features": features, "label": label},
        "edges": {"files": tables[1], "src": src, "dst": dst, "features": attr},
        "split": {"column": split} if split else dict(_FRACTIONS),
        "direction": "directed",
        "self_loops": False,
        "parts": {"count": 16, "method": "hash"},
    }


def _two(tables: Sequence[str]) -> tuple[str, str]:
    if len(tables) != 2:
        raise ValueError(f"two files are asked for, the nodes and the edges; got {len(tables)}")
    return tables[0], tables[1]


def _one_of(schema: pa.Schema, names: tuple[str, ...], default: str | None) -> str | None:
    return next((name for name in names if name in schema.names), default)


def _features(schema: pa.Schema, used: set[str | None]) -> list[Any]:
    """Take x where it is; else every number, and texts as categories that someone should look at."""
    if "x" in schema.names:
        return ["x"]
    texts = [
        {"column": field.name, "encode": "one_hot"}
        for field in schema
        if field.name not in used and is_text(_plain(field.type))
    ]
    return _numbers(schema, used) or texts


def _numbers(schema: pa.Schema, used: set[str | None]) -> list[Any]:
    return [field.name for field in schema if field.name not in used and is_numeric(_plain(field.type))]


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _with_comment(line: str) -> str:
    comment = _COMMENTS.get(line.strip().partition(":")[0])
    return line if comment is None else f"{line}  # {comment}"
