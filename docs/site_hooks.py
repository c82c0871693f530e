"""Hooks of the documentation site (mkdocs.yml): pages of the repository's own texts, and reference from the code.

- A page of docs/ may link to a file outside of it (``../CHANGELOG.md``): right in the repository, but MkDocs knows no
  file outside of docs/ and its strict build would fail. Each such file becomes a page under repository/, and the link
  leads there, so that the site is whole without a network.
- ``<!-- site: NAME -->`` is replaced by what the code says: public names, ``--help``, fields of configurations.
"""

from __future__ import annotations

import argparse
import inspect
import os
import posixpath
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("stack", "nn", "data", "train", "interop", "ops")
"""The rooms with a page of their own: docs/reference/ROOM.md."""

_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
_MARKER = re.compile(r"<!-- site: ([a-z-]+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of docs/ that a page links to, and for those that these link to."""
    _check_documented()
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        for target in _linked(path):
            if target in known or target.startswith("docs/"):
                continue
            if not (ROOT / target).exists():
                raise PluginError(f"{path} links to {target}, which is not there")
            known.add(target)
            waiting.append(target)
            page = File.generated(
                config, _page_of(target), content=_as_page(target), inclusion=InclusionLevel.NOT_IN_NAV
            )
            files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the site's pages, and fill the markers."""
    own = page.file.src_uri
    path = own.removeprefix("repository/") if own.startswith("repository/") else f"docs/{own}"
    path = path if (ROOT / path).exists() else path.removesuffix(".md")

    def led(found: re.Match[str]) -> str:
        target = _resolved(path, found[1])
        return posixpath.relpath(_page_of(target), posixpath.dirname(own) or ".")

    return _MARKER.sub(lambda found: MARKERS[found[1]](), _LINK.sub(led, markdown))


def _check_documented() -> None:
    """Check that each name that a room exports has a docstring: a page leaves names without one out."""
    package = griffe.load("revgnn", search_paths=[ROOT / "src"])
    missing = [
        f"revgnn.{room}.{name}"
        for room in ROOMS
        for name in package[room].exports or ()
        if not package[f"{room}.{name}"].has_docstring
    ]
    if missing:
        raise PluginError(f"public names need a docstring: {', '.join(missing)}")


def _linked(path: str) -> list[str]:
    """The repository's paths that a Markdown file links to."""
    if not path.endswith(".md"):
        return []
    return [_resolved(path, link) for link in _LINK.findall((ROOT / path).read_text(encoding="utf-8"))]


def _resolved(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _page_of(path: str) -> str:
    """Where the site has a file of the repository: the path of its source below docs/."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _as_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path == "examples/README.md":
        return text + "".join(
            f"\n## {file.name}\n\n{_fenced(file)}" for file in sorted((ROOT / "examples").glob("*.py"))
        )
    # The search is for what a user looks up, not for the history.
    hidden = "---\nsearch:\n  exclude: true\n---\n\n"
    return hidden + (text if path.endswith(".md") else f"# {path}\n\n{_fenced(ROOT / path)}")


def _fenced(file: Path) -> str:
    language = {".py": "python", ".toml": "toml", ".yml": "yaml"}.get(file.suffix, "text")
    return f"````{language}\n{file.read_text(encoding='utf-8').rstrip()}\n````\n"


def _public_names() -> str:
    """Every name of `revgnn.__all__`: a link into its room's page, or its documentation where it has no such page."""
    import revgnn

    rows, here = ["| name | what it is |", "|---|---|"], []
    for name in sorted(revgnn.__all__, key=str.lower):
        value = getattr(revgnn, name)
        if not value.__doc__:
            raise PluginError(f"revgnn.{name} is public and has no docstring")
        room = revgnn._HOME_OF[name].partition(".")[0]
        documented = room in ROOMS and name in import_module(f"revgnn.{room}").__all__
        home = f"revgnn.{room}.{name}" if documented else f"{value.__module__}.{value.__qualname__}"
        rows.append(f"| [`{name}`][{home}] | {inspect.cleandoc(value.__doc__).splitlines()[0]} |")
        here += [] if documented else [f"::: {home}\n"]
    return "\n".join([*rows, "", *here])


def _commands() -> str:
    # argparse folds its lines at the width of the terminal, and colours them where it believes in one.
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    from revgnn.parser import make_parser

    return "\n".join(map(_command, _all(make_parser())))


def _command(parser: argparse.ArgumentParser) -> str:
    description, example = parser.description or "", (parser.epilog or "").removeprefix("example:\n")
    parser.description = parser.epilog = None
    usage = f"```text\n{parser.format_help().rstrip()}\n```\n"
    return f"## {parser.prog}\n\n{description}\n\n```sh\n{textwrap.dedent(example)}\n```\n\n{usage}"


def _all(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _all(below)


def _fields() -> str:
    """A table for each dataclass of an experiment, with the fields' types, defaults and docstrings."""
    from revgnn import DatasetConfig, Experiment, LoaderConfig, ModelConfig, TrainConfig
    from revgnn.paper.recipes import find_recipe
    from revgnn.plain_config import flatten

    groups = {"dataset": DatasetConfig, "model": ModelConfig, "loader": LoaderConfig, "train": TrainConfig}
    text = [_table("", Experiment, [field for field in fields(Experiment) if field.name not in groups])]
    for name, kind in groups.items():
        text += _tables(name, kind)
    shown = set(re.findall(r"^\| `([a-z_.0-9]+)`", "\n".join(text), re.MULTILINE))
    configured = set(flatten(find_recipe("digits/revgnn")()))
    if shown != configured:
        raise PluginError(f"fields in the tables or in an experiment alone: {', '.join(sorted(shown ^ configured))}")
    return "\n".join(text)


def _tables(name: str, kind: type) -> Iterator[str]:
    hints = get_type_hints(kind)
    nested = {field.name: hints[field.name] for field in fields(kind) if is_dataclass(hints[field.name])}
    plain = [field for field in fields(kind) if field.name not in nested]
    if plain:
        yield f"## {name}\n\n{_table(f'{name}.', kind, plain)}"
    for below, its_kind in nested.items():
        yield from _tables(f"{name}.{below}", its_kind)


def _graph_yaml() -> str:
    """The same for the file graph.yaml."""
    from revgnn.data.prepare.config import GraphConfig

    return "\n".join(_yaml_tables("", GraphConfig))


def _yaml_tables(prefix: str, kind: type) -> Iterator[str]:
    hints = get_type_hints(kind)
    yield f"## {prefix.rstrip('.') or 'At the top'}\n"
    plain = [field for field in fields(kind) if not is_dataclass(hints[field.name])]
    yield _table(prefix, kind, plain)
    for name, hint in hints.items():
        # A group may be optional, or one of a list.
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner) and isinstance(inner, type):
                yield from _yaml_tables(f"{prefix}{name}.", inner)


def _table(prefix: str, kind: type, chosen: list[Field[Any]]) -> str:
    said = {text.arg_name: text.description for text in docstring_parser.parse_from_object(kind).params}
    hints = get_type_hints(kind)
    rows = ["| field | meaning |", "|---|---|"]
    for field in chosen:
        meaning = said.get(field.name)
        if not meaning:
            raise PluginError(f"{kind.__name__}.{field.name} can be set and has no docstring")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        shown = "required" if default is MISSING else f"default: `{'none' if default is None else default}`"
        rows.append(f"| `{prefix}{field.name}` | {' '.join(meaning.split())}<br>{_type(hints[field.name])}; {shown} |")
    return "\n".join(rows) + "\n"


def _type(hint: object) -> str:
    """The type in the words of the errors: a text or none; the values of a Literal; the items of a tuple."""
    from revgnn.plain_config import name_of_type

    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_type, sorted(get_args(hint), key=lambda one: one is not types.NoneType)))
    if get_origin(hint) is Literal:
        values = ", ".join(f"`{value}`" for value in get_args(hint))
        return f"one of {values}" if len(get_args(hint)) > 1 else values
    if get_origin(hint) is tuple:
        return f"a list, each item {_type(get_args(hint)[0])}"
    return "a group, shown below" if is_dataclass(hint) else name_of_type(hint)


MARKERS = {"public-names": _public_names, "commands": _commands, "fields": _fields, "graph-yaml": _graph_yaml}
