"""The demonstration at a smaller size: what it writes, that its figures agree, and that memory follows the law."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from revgnn.data import MinefieldOptions
from revgnn.demo import page, run
from revgnn.experiment import Experiment


def _shorter(recipe: Callable[[], Experiment]) -> Callable[[], Experiment]:
    def small() -> Experiment:
        whole = recipe()
        return replace(
            whole,
            dataset=replace(whole.dataset, minefield=MinefieldOptions(side=40)),
            train=replace(whole.train, epochs=20, eval_every=10),
        )

    return small


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MODELS", {name: _shorter(recipe) for name, recipe in run.MODELS.items()})
    monkeypatch.setattr(run, "DEPTHS", (6, 16))


@pytest.mark.usefixtures("small")
def test_the_demo_shows_and_writes_what_it_measured(tmp_path: Path) -> None:
    out, shown, progress = tmp_path / "demo", io.StringIO(), io.StringIO()
    result = run.run_demo(out, results=Console(file=shown, width=140), progress=Console(file=progress, width=140))
    text = shown.getvalue()
    for word in (*run.HEAD, "ResGNN", "RevGNN", "layers", "index.html", result["headline"]):
        assert word in text
    assert "epoch 20/20" in progress.getvalue()
    assert "growth of the process" in progress.getvalue()
    written = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert (written["rows"], written["files"]) == (result["rows"], result["files"])
    assert [(row["model"], row["layers"]) for row in result["rows"]] == [
        ("ResGNN", "6"),
        ("ResGNN", "16"),
        ("RevGNN", "6"),
        ("RevGNN", "16"),
    ]
    assert all(float(row["test [%]"]) > 75 for row in result["rows"])
    for path in result["files"]:
        assert Path(path).stat().st_size > 1000
    shown_page = (out / "index.html").read_text(encoding="utf-8")
    assert result["headline"] in shown_page
    for link in ("resgnn-6/report.html", "revgnn-16/report.html"):
        assert link in shown_page
        assert (out / link).exists()

    curve = result["memory_over_depth"]
    growth = {name: points[16] - points[6] for name, points in curve.items()}
    # Ten more layers cost ResGNN their activations; RevGNN only their weights, gradients and optimizer state.
    assert growth["ResGNN"] > 10 * growth["RevGNN"]


@pytest.mark.usefixtures("small")
def test_a_demo_makes_room_for_the_next_and_for_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / "resgnn-6").mkdir(parents=True)
    (out / "resgnn-6" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds no earlier demo"):
        run.run_demo(out, results=None, progress=Console(file=io.StringIO()))
    assert (out / "resgnn-6" / "thesis.tex").exists()
    (out / "demo.json").write_text("{}", encoding="utf-8")
    run._make_room(out)
    assert not (out / "resgnn-6").exists()


def test_the_headline_says_what_depth_brings_and_takes() -> None:
    scores = {"ResGNN": {2: 90.0, 32: 95.0}, "RevGNN": {2: 91.0, 32: 94.5}}
    tensors = {"ResGNN": {2: 2**20, 32: 2**24}, "RevGNN": {2: 2**20, 32: 2**21}}
    process = {"ResGNN": {2: 2**21, 32: 2**25}, "RevGNN": {2: 2**21, 32: 2**22}}
    said = "32 layers: +3.5 points of ROC-AUC over 2 layers, in "
    assert run.make_headline(scores, tensors, process) == said + "4.0 MiB instead of 32.0 MiB"
    assert run.make_headline(scores, tensors, {}) == said + "2.0 MiB instead of 16.0 MiB"


def test_the_page_stands_without_a_picture() -> None:
    shown = page.render("a < b", ["note"], ["model"], [["<b>"]], reports={"run": "run/report.html"}, has_picture=False)
    assert "<img" not in shown
    assert "&lt;b&gt;" in shown and "a &lt; b" in shown
    assert "prefers-color-scheme: dark" in shown
