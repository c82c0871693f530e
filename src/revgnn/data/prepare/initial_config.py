"""The configuration of a command line: graph.yaml, or two tables and flags; and a first graph.yaml for them"""

from __future__ import annotations

import logging
import os
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..info import GraphInfo
from ..readers.parquet import Faults
from .config import GraphConfig, parse, read_config
from .csv_format import given_format
from .inference import Columns, Inferred, infer
from .inputs import CONFIG, open_table, tables_in

_logger = logging.getLogger(__name__)

_COMMENTS = {
    "task": "multiclass, binary (0, 1 or null), multilabel (columns of 0, 1 or null) or regression",
    "id": "integers or strings, each once",
    "features": "numbers, lists of numbers; or {column: NAME, encode: one_hot}, ordinal, time, tags",
    "label": "one column; several for multilabel and regression",
    "unlabelled": "labels that mean an unknown one",
    "weight": "numbers of 0 or more, which multiply messages",
    "split": "a column with train, valid or test; masks; or fractions, drawn by the hash of the id",
    "direction": "directed, or undirected: reverse edges are added and repeats dropped",
    "self_loops": "true gives every node exactly one",
    "scale": "of numbers: standard, robust, quantile or none",
    "fill": "of missing values: mean, median, zero or category",
    "statistics": "scales, fills and categories are of the nodes of train, or of all",
    "parts": "methods: hash (any size), metis (few cut edges, one machine), column (one of yours)",
    "csv": "as sniffed from the first lines",
}
_FLAGS = {
    "id": "id", "label": "label", "split": "split", "features": "features", "src": "src", "dst": "dst",
    "edge_features": "edge_features", "weight": "weight", "unlabelled": "unlabelled", "scale": "scale", "fill": "fill",
    "statistics": "statistics",
}  # fmt: skip
"""Flag -> field of `Columns`."""


def chosen_config(arguments: Namespace, like: GraphInfo | None = None) -> tuple[GraphConfig, Path]:
    """Read the graph.yaml of the command line, or make a configuration from two files and flags.

    Args:
        arguments: of the command line.
        like: metadata of a graph whose features and task are taken over.
    Returns: the configuration, and the folder that its files are relative to.
    Raises: ValueError: flags that do not fit the files.
    """
    tables = _in_folder(arguments.tables)
    if len(tables) == 1:
        path = Path(tables[0])
        if path.suffix.lower() not in (".yaml", ".yml"):
            raise ValueError(f"{path} alone is no graph; name graph.yaml, a folder, or the nodes and the edges")
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}; revgnn prepare --init NODES EDGES writes a first one")
        given = [f"--{name.replace('_', '-')}" for name in (*_FLAGS, "task", "csv") if getattr(arguments, name)]
        given += ["--undirected"] if arguments.undirected else []
        if given:
            raise ValueError(f"{', '.join(given)} go with two files; write it into {path}")
        config, base = read_config(path), path.parent
    else:
        inferred = _inferred(arguments, tables, Path(), like)
        tell(inferred)
        config, base = parse(GraphConfig, inferred.values, "the flags"), Path()
    if arguments.parts is not None:
        config = replace(config, parts=replace(config.parts, count=arguments.parts))
    return config if like is None else config.with_task(like.task), base


def tell(inferred: Inferred, *, in_training: bool = False) -> None:
    """Log what was inferred, and what is left out.

    Args:
        inferred: by `infer`.
        in_training: whether flags of ``revgnn prepare`` are named as fields that ``revgnn train`` can set.
    """
    left_out = [f"column {column or '(without a name)'} is left out: {why}" for column, why in inferred.left_out]
    for sentence in (*inferred.said, *left_out):
        _logger.info("%s", as_fields(sentence) if in_training else sentence)


def as_fields(text: str) -> str:
    """Name flags of ``revgnn prepare`` as fields that ``revgnn train --set`` can change."""
    text = text.replace("--task", "--set dataset.task=")
    return re.sub(r"--(?!set )([a-z-]+)", lambda flag: f"--set dataset.columns.{flag[1].replace('-', '_')}=", text)


def write_first(arguments: Namespace, path: Path) -> Path:
    """Write a first graph.yaml for two files, with comments.

    Args:
        arguments: of the command line; the tables, and flags for what is known.
        path: the file to write, or a folder for ``graph.yaml``.
    Raises: FileExistsError: the file exists. FileNotFoundError: its folder does not exist. ValueError: tables that
        cannot be read, or a flag that is not written into it.
    """
    unread = ("like", "ray", "overwrite", "drop_bad_edges", "drop_duplicate_nodes", "drop_bad_nodes")
    given = [f"--{name.replace('_', '-')}" for name in unread if getattr(arguments, name)]
    if given:
        raise ValueError(
            f"{', '.join(given)} cannot stand in a graph.yaml; leave them out, and give them with the file"
        )
    path = path / "graph.yaml" if path.is_dir() else path
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}; make it, or name another file with --out")
    if path.exists():
        raise FileExistsError(f"{path} exists already; name another file with --out, or remove it")
    inferred = _inferred(arguments, _in_folder(arguments.tables), path.parent)
    parse(GraphConfig, inferred.values, "the flags")
    if arguments.parts is not None:
        inferred.values["parts"]["count"] = arguments.parts
    lines = yaml.safe_dump(inferred.values, sort_keys=False, allow_unicode=True).splitlines()
    notes = [*inferred.said, *(f"left out: {column or '(without a name)'}: {why}" for column, why in inferred.left_out)]
    text = [*map(_with_comment, lines), *(f"# {' '.join(note.split())}" for note in notes)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def _inferred(arguments: Namespace, tables: Sequence[str], folder: Path, like: GraphInfo | None = None) -> Inferred:
    """Infer the configuration of the two files, whose paths are written relative to ``folder``."""
    if len(tables) != 2:
        raise ValueError(f"two files are needed, the nodes and the edges; got {len(tables)}")
    given = {field: getattr(arguments, flag) for flag, field in _FLAGS.items()}
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v}
    columns = replace(Columns(csv=given_format(arguments.csv or ())), **known)
    faults = Faults()
    nodes, edges = (open_table([name], Path(), faults, columns.csv) for name in tables)
    faults.raise_if_any(Path())
    assert nodes is not None and edges is not None, "a table without files is a fault"
    if arguments.csv and nodes.csv is None and edges.csv is None:
        raise ValueError(f"--csv {arguments.csv[0]} is of CSV files, and {' and '.join(tables)} are none; leave it out")
    first, second = (_relative(name, folder) for name in tables)
    inferred = infer(nodes, edges, (first, second), columns, task=arguments.task, like=like)
    if arguments.undirected:
        inferred.values["direction"] = "undirected"
    return inferred


def _in_folder(tables: Sequence[str]) -> Sequence[str]:
    """Replace a folder by its graph.yaml, or by its tables of nodes and edges."""
    folder = Path(tables[0])
    if len(tables) != 1 or not folder.is_dir():
        return tables
    names = [CONFIG] if (folder / CONFIG).is_file() else tables_in(folder)
    return [str(folder / name) for name in names]


def _relative(name: str, folder: Path) -> str:
    if not folder.parts:
        return name
    try:
        return Path(os.path.relpath(Path(name).resolve(), folder.resolve())).as_posix()
    except ValueError:
        # Another drive of Windows has no relative path.
        return str(Path(name).resolve())


def _with_comment(line: str) -> str:
    comment = _COMMENTS.get(line.strip().partition(":")[0])
    return line if comment is None else f"{line}  # {comment}"
