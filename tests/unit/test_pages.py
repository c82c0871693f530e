"""The pages of the site: their Python runs, their commands are understood, their pictures and notebooks are fresh."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from page_code import ROOT, blocks, promised, run_code
from revgnn.paper.recipes import find_recipe
from revgnn.parser import make_parser
from revgnn.plain_config import flatten

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
ELSEWHERE = {
    "batches.md": "test_docs.py",
    "extending.md": "test_extending.py",
    "index.md": "test_docs.py, as the README's",
    "results.md": "the notebook your_tables.ipynb, which has a run to load",
    "serving.md": "test_serving.py",
}
"""Pages whose Python other tests run."""
RUN_HERE = [
    page
    for page in PAGES
    if blocks(page.read_text(encoding="utf-8"), "python") and page.parent == DOCS and page.name not in ELSEWHERE
]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem == "thousand_layers" else ()) for page in RUN_HERE],
    ids=[page.stem for page in RUN_HERE],
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    code = blocks(page.read_text(encoding="utf-8"), "python")
    run_code(page.name, code)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in promised(code) if line not in said] == []


def test_the_commands_of_the_pages_are_understood() -> None:
    fields, count = set(flatten(find_recipe("digits/revgnn")())), 0
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["revgnn"]:
                    words = words[: words.index(">")] if ">" in words else words
                    found = make_parser().parse_args(words[1:])
                    assigned = {each.partition("=")[0] for each in getattr(found, "assignments", [])}
                    assert assigned <= fields, f"{page.name}: {line}"
                    count += 1
    assert count >= 30


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_are_fresh() -> None:
    for path, text in _script("pictures").files():
        assert path.read_text(encoding="utf-8") == text, f"run python docs/pictures.py and commit {path.name}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_and_draws(notebook: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = [len(figures) for _, _, figures in _script("run_notebooks").run(notebook)]
    assert sum(drawn) >= 2
    assert len(list(notebook.parent.glob(f"{notebook.stem}-*-dark.svg"))) == sum(drawn)


def test_the_page_of_a_notebook_shows_its_code_and_the_notebook_no_output() -> None:
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code"]
        page = notebook.with_suffix(".md").read_text(encoding="utf-8")
        assert blocks(page, "python") == code, f"run python docs/run_notebooks.py {notebook.stem} and commit its page"
        assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
