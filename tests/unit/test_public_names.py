"""The public names: they exist, are documented, agree with their three lists, and cost nothing until they are used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import revgnn
import revgnn.data

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", revgnn.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(revgnn, name)
    assert value.__name__ == name
    assert value.__module__.startswith("revgnn."), f"{name} is of {value.__module__}"
    assert value.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("package", [revgnn, revgnn.data])
def test_the_lists_of_names_agree(package: ModuleType) -> None:
    tree = ast.parse(Path(package.__file__ or "").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    for_checkers = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert for_checkers == package._HOME_OF
    assert set(package.__all__) == set(package._HOME_OF)
    assert set(package.__all__) <= set(dir(package))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import json, sys, revgnn, revgnn.data; print(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "torch",
        "numpy",
        "torch_geometric",
        "accelerate",
        "sklearn",
        "pyarrow",
        "matplotlib",
        "rich",
        "jsonargparse",
    }
    assert not heavy & set(json.loads(done.stdout))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'revgnn' has no attribute 'RevGNN'"):
        revgnn.RevGNN  # noqa: B018


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"]
    assert f"version: {revgnn.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {revgnn.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
