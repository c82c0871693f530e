"""Each public name has an example in its docstring, and all of them run, as doctests in one folder."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

import revgnn
from revgnn.cli import main
from revgnn.interop import OfficialModel
from revgnn.interop.official import _official_name

PACKAGE = Path(revgnn.__file__).parent
ROOMS = ("data", "interop", "nn", "ops", "stack", "train")
SETTINGS = ("model.num_layers=2", "model.hidden_channels=8", "train.epochs=2", "train.patience=none")


def _constants(room: str) -> dict[str, str]:
    """Name -> the text below a name that is assigned at the top of a module of a room."""
    found = {}
    for path in (PACKAGE / room).rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for assigned, text in zip(body, body[1:], strict=False):
            targets = assigned.targets if isinstance(assigned, ast.Assign) else [getattr(assigned, "target", None)]
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(assigned, ast.Assign | ast.AnnAssign) and is_text:
                found |= {each.id: str(text.value.value) for each in targets if isinstance(each, ast.Name)}
    return found


def _docstrings() -> Iterator[tuple[str, str]]:
    """Each public name with its docstring, the same object once."""
    seen = set()
    for room in ("", *ROOMS):
        module = import_module(f"revgnn.{room}".rstrip("."))
        constants = _constants(room) if room else {}
        for name in module.__all__:
            value = getattr(module, name)
            if id(value) in seen:
                continue
            seen.add(id(value))
            documented = inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, ModuleType)
            # A type alias and a constant have the text below them, not that of their type.
            own = constants.get(name) if name in constants or not documented else value.__doc__
            yield f"{module.__name__}.{name}", inspect.cleandoc(own or "")


EXAMPLES = {name: doctest.DocTestParser().get_doctest(text, {}, name, None, 0) for name, text in _docstrings()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: the tables of my_graph/, prepared in graph/, a run on them, an official checkpoint."""
    folder = tmp_path_factory.mktemp("examples")
    tables = folder / "my_graph"
    tables.mkdir()
    rows = [f"{k},{k % 7},{k % 5},{('ale', 'wine')[k % 2]},{('train', 'valid', 'test')[k % 3]}" for k in range(60)]
    (tables / "nodes.csv").write_text("\n".join(["id,a,b,label,split", *rows]), encoding="utf-8")
    edges = [f"{k},{(k * k + 1) % 60}" for k in range(60)]
    (tables / "edges.csv").write_text("\n".join(["src,dst", *edges]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare", "my_graph/nodes.csv", "my_graph/edges.csv", "--out", "graph", "--parts", "4"]) == 0
        settings = [word for one in SETTINGS for word in ("--set", one)]
        assert main(["train", "my_graph", "--out", "runs/first", "--device", "cpu", *settings]) == 0
    official = OfficialModel(
        num_layers=2,
        hidden_channels=16,
        num_groups=2,
        mlp_layers=2,
        species=8,
        in_channels=16,
        edge_channels=8,
        out_channels=112,
        aggr="max",
        dropout=0.1,
    )
    assert asdict(official)
    weights = {_official_name(name): value for name, value in official.build().state_dict().items()}
    torch.save({"model_state_dict": weights}, folder / "RevGNN-Deep.pth")
    return folder


def test_each_public_name_has_a_short_example_that_names_it() -> None:
    without = [
        name
        for name, test in EXAMPLES.items()
        if not any(name.rpartition(".")[2] in one.source + one.want for one in test.examples)
    ]
    assert without == [], "give their docstrings Examples"
    lines = {name: sum(len(one.source.splitlines()) for one in test.examples) for name, test in EXAMPLES.items()}
    assert len(lines) > 150
    assert {name: count for name, count in lines.items() if count > 14} == {}


def test_the_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    failed = []
    for name, example in EXAMPLES.items():
        torch.manual_seed(0)
        said: list[str] = []
        found = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
        if found.failed:
            failed.append(f"{name}\n{''.join(said)}")
    assert not failed, "\n".join(failed)
