"""The demonstration at a smaller size: what it writes, that its figures agree, and that memory follows the law."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from revgnn import demo
from revgnn.experiment import Experiment


def _shorter(recipe: Callable[[], Experiment]) -> Callable[[], Experiment]:
    def run() -> Experiment:
        whole = recipe()
        return replace(
            whole, model=replace(whole.model, num_layers=6), train=replace(whole.train, epochs=20, eval_every=10)
        )

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODELS", {name: _shorter(recipe) for name, recipe in demo.MODELS.items()})
    monkeypatch.setattr(demo, "DEPTHS", (6, 16))


@pytest.mark.usefixtures("small")
def test_the_demo_shows_and_writes_what_it_measured(tmp_path: Path) -> None:
    out, shown, progress = tmp_path / "demo", io.StringIO(), io.StringIO()
    result = demo.run_demo(out, results=Console(file=shown, width=120), progress=Console(file=progress, width=120))
    text = shown.getvalue()
    for word in (*demo.HEAD, "ResGNN", "RevGNN", "layers", "index.html"):
        assert word in text
    assert "epoch 20/20" in progress.getvalue()
    assert "memory" in progress.getvalue()
    assert json.loads((out / "demo.json").read_text(encoding="utf-8"))["rows"] == result["rows"]
    assert [row["depth"] for row in result["rows"]] == ["6", "6"]
    assert all(float(row["test [%]"]) > 80 for row in result["rows"])
    for path in result["files"]:
        assert Path(path).stat().st_size > 1000
    page = (out / "index.html").read_text(encoding="utf-8")
    for link in ("resgnn/report.html", "revgnn/report.html"):
        assert link in page
        assert (out / link).exists()

    curve = result["memory_over_depth"]
    growth = {name: points[16] - points[6] for name, points in curve.items()}
    # Ten more layers cost ResGNN their activations; RevGNN only their weights, gradients and optimizer state.
    assert growth["ResGNN"] > 10 * growth["RevGNN"]
    peak = json.loads((out / "resgnn" / "report.json").read_text(encoding="utf-8"))["memory"]["peak_bytes"]
    assert curve["ResGNN"][6] == pytest.approx(peak, rel=0.02), "table and picture use one definition"


@pytest.mark.usefixtures("small")
def test_a_demo_makes_room_for_the_next_and_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    (out / "resgnn").mkdir(parents=True)
    (out / "resgnn" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds no earlier demo"):
        demo.run_demo(out, results=None, progress=Console(file=io.StringIO()))
    assert (out / "resgnn" / "thesis.tex").exists()
    (out / "demo.json").write_text("{}", encoding="utf-8")
    demo._make_room(out)
    assert not (out / "resgnn").exists()


def test_the_page_stands_without_a_picture() -> None:
    curve = {"ResGNN": {4: 2**20}, "RevGNN": {4: 2**19}}
    page = demo._page([["ResGNN", "4", "1", "<b>", "1", "1", "1"]], curve, has_picture=False)
    assert "<img" not in page
    assert "&lt;b&gt;" in page
