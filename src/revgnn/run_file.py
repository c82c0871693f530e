"""Reads ``run.json``, the file of a finished run that says what was trained and on what graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .data import GraphInfo
from .files import check_format, read_object

RUN_FILE = "run.json"
FORMAT = 2


def read_run_file(out: Path) -> tuple[Path, dict[str, object]]:
    """Read ``run.json`` of a finished run; return it with its path.

    Raises: FileNotFoundError: the folder has no finished run; ValueError: the file has another format.
    """
    path = out / RUN_FILE
    if not path.is_file():
        inside = min((found.parent for found in out.glob(f"*/{RUN_FILE}")), default=None)
        remedy = "train into it, or resume it" if inside is None else f"name one of the runs in it, such as {inside}"
        raise FileNotFoundError(f"{out} holds no finished run ({RUN_FILE} is missing); {remedy}")
    facts = read_object(path)
    remedy = f", which {_writer(facts)} wrote; use that version, or train again"
    check_format(path, facts, FORMAT, remedy=remedy)
    return path, facts


def read_schema(out: Path) -> GraphInfo:
    """Read the metadata of the graph that a finished run's model was built for.

    Raises: FileNotFoundError: the folder has no finished run; ValueError: the metadata is invalid.
    """
    path, facts = read_run_file(out)
    try:
        schema = facts["schema"]
        if not isinstance(schema, Mapping):
            raise TypeError(f"its schema is {schema!r:.80}")
        return GraphInfo.from_json(schema)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say what its model reads: {error!r}; train it again with this revgnn"
        ) from error


def _writer(facts: Mapping[str, object]) -> str:
    """Name the version that wrote a run folder."""
    where = facts.get("where")
    versions = where.get("versions") if isinstance(where, Mapping) else None
    version = versions.get("revgnn") if isinstance(versions, Mapping) else None
    return f"revgnn {version}" if isinstance(version, str) else "another revgnn"
