"""The documents say what is so: generated blocks are fresh, the example runs, the figures can be measured again."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revgnn.data import load_dataset
from revgnn.experiment import make_model
from revgnn.overrides import override
from revgnn.paper.recipes import digits
from revgnn.parser import make_parser
from revgnn.planner.measured import training_memory

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.blocks.house import tree  # noqa: E402
from docs.blocks.over_depth import BYTES_PER_PARAMETER, read_figures  # noqa: E402
from docs.generate import DOCUMENTS, filled  # noqa: E402

PAGES = ("architecture", "recipes", "paper", "depth")


def _blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def test_generated_blocks_are_fresh() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert "<!-- generated: " in text
        assert text == filled(text), f"run `make docs` and commit {document.name}"


def test_the_tree_names_every_module() -> None:
    text = tree()
    package = ROOT / "src" / "revgnn"
    for path in package.rglob("*.py"):
        name = f"{path.parent.name}/" if path.name == "__init__.py" and path.parent != package else path.name
        assert re.search(rf"^ +{re.escape(name)} ", text, re.MULTILINE), f"{path} is not in the tree"


def test_the_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = _blocks("README.md", "python")
    assert len([line for line in example.splitlines() if line]) == 10
    first = last = 0.0
    for _ in range(3):  # a few steps of one set of weights may also lead up
        exec(compile(example, "README.md", "exec"), {})
        losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
        assert len(losses) == 5
        first, last = first + losses[0], last + losses[-1]
    assert last < first


def test_the_example_of_the_batches_runs() -> None:
    (example,) = _blocks("docs/batches.md", "python")
    seen: dict[str, Any] = {}
    exec(compile(example, "docs/batches.md", "exec"), seen)
    # Five epochs of two parts; one that has none of the four training nodes is left out.
    assert seen["result"].epochs == 5 and 5 <= seen["result"].steps <= 10


def test_the_settings_of_the_batches_make_a_loader() -> None:
    lines = "".join(_blocks("docs/batches.md", "sh")).splitlines()
    for line in lines:
        words = make_parser().parse_args(shlex.split(line)[1:])
        assert override(digits.revgnn(), words.assignments).loader.kind in line
    assert len(lines) == 3


def test_the_commands_of_the_readme_are_understood() -> None:
    text = "".join(_blocks("README.md", "sh") + _blocks("docs/recipes.md", "sh"))
    lines = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("revgnn")]
    assert len(commands) == 16
    for words in commands:
        make_parser().parse_args(words[1:])


def test_the_figures_can_be_measured_again() -> None:
    figures = read_figures()
    dataset = load_dataset(digits.resgnn().dataset, ROOT)
    for name, recipe in (("ResGNN", digits.resgnn), ("RevGNN", digits.revgnn)):
        run = recipe()
        assert run.model.num_layers == 28
        assert training_memory(run, dataset) == pytest.approx(figures[name][28], rel=0.3), name


def test_reversible_memory_grows_by_the_parameters_alone() -> None:
    peaks, run = read_figures()["RevGNN"], digits.revgnn()
    dataset = load_dataset(run.dataset, ROOT)
    parameters = {}
    for depth in (28, 1001):
        model = make_model(replace(run, model=replace(run.model, num_layers=depth)), dataset.info)
        parameters[depth] = sum(parameter.numel() for parameter in model.parameters())
    grown = BYTES_PER_PARAMETER * (parameters[1001] - parameters[28])
    assert peaks[1001] - peaks[28] == pytest.approx(grown, rel=0.01)


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in PAGES)):
        path = ROOT / document
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{document} links to {link}"
