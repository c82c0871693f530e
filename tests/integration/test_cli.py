"""The command line end to end, as a user starts it: a process of its own, on a small graph in two tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from revgnn.cli import main
from revgnn.data import LoaderConfig, load_dataset
from revgnn.paper.recipes import digits
from revgnn.planner.measured import training_memory

SMALL = ["--set", "model.num_layers=4", "--set", "model.hidden_channels=12", "--set", "train.patience=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 nodes with string ids in 3 classes, whose features tell the class."""
    where = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 120)
    x = np.eye(3, 5)[label] + rng.normal(0, 0.3, (120, 5))
    ids = [f"node-{number}" for number in range(120)]
    split = rng.choice(["train", "valid", "test"], 120, p=[0.5, 0.25, 0.25])
    names = np.array(["red", "green", "blue"])[label]
    columns = {"id": ids, "x": list(x.astype(np.float32)), "label": names, "split": split}
    pq.write_table(pa.table(columns), where / "nodes.parquet")
    ends = rng.integers(0, 120, (2, 400))
    pq.write_table(
        pa.table({"src": [ids[end] for end in ends[0]], "dst": [ids[end] for end in ends[1]]}), where / "edges.parquet"
    )
    return where


def _revgnn(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-m", "revgnn", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_folder_of_tables_is_trained_resumed_and_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", str(folder), "--model", "revsage", "--out", "mine", "--device", "cpu", *SMALL]
    first = _revgnn(*words, "--set", "train.epochs=30", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["config"]["model"]["num_layers"] == 4
    assert report["name"].startswith(f"tables/{folder.name}-revsage with model.num_layers=4")
    assert report["result"]["scores"]["test"]["metric"] > 0.6
    assert report["memory"]["peak_bytes"] > 0
    assert "CPU allocator" in report["memory"]["how"]
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "ckpt",
        "curve.jsonl",
        "report.html",
        "report.json",
        "result.json",
        "run.json",
    }

    assert main([*words, "--set", "train.epochs=40"]) == 2
    assert "already holds a run" in capsys.readouterr().err

    resumed = _revgnn(*words, "--set", "train.epochs=40", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "of 40" in resumed.stdout
    curve = (tmp_path / "mine" / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in curve] == list(range(1, 41))

    assert main(["report", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["epochs"] == 40
    assert main(["report", "mine", "--markdown"]) == 0
    head, ruler, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == ruler.count("|") == row.count("|")


@pytest.mark.parametrize(
    ("loader", "steps", "seen"),
    [
        (
            {"kind": "random", "num_parts": 3, "eval_parts": 2, "final_parts": 2, "final_views": 3},
            36,
            "in 2 parts of each of 3 views, whose logits are averaged",
        ),
        ({"kind": "clusters", "num_parts": 6, "parts_per_batch": 2, "eval_parts": 2}, 36, "in 2 parts"),
        ({"kind": "neighbor", "fanouts": [3, -1], "batch_size": 200, "prefetch": 0}, 12, None),
        ({"eval_parts": 2}, 12, "in 2 parts"),
    ],
)
def test_parts_and_neighbourhoods_are_a_setting_away(
    folder: Path, tmp_path: Path, loader: dict[str, Any], steps: int, seen: str | None, capsys: Any
) -> None:
    if loader.get("kind") == "clusters":
        pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    out = tmp_path / "mine"
    words = ["train", str(folder), "--model", "revsage", "--out", str(out), "--device", "cpu", *SMALL]
    settings = [word for name, value in loader.items() for word in ("--set", f"loader.{name}={value}")]
    assert main([*words, "--set", "train.epochs=12", *settings, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["result"]["scores"]["test"]["metric"] > 0.6
    assert report["time"]["steps"] == steps
    assert loader.items() <= report["config"]["loader"].items()
    page = (out / "report.html").read_text(encoding="utf-8")
    for name, value in loader.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert f'<tr><th scope="row">{name}</th><td>{text}</td></tr>' in page
    caption = f"of epoch {report['result']['best_epoch']}" + ("" if seen is None else f", {seen}")
    assert f"{caption}</caption>" in page
    assert ("Scores that selected the weights" in page) == ("final_parts" in loader)
    is_ahead = loader.get("prefetch", 2) > 0 and "kind" in loader
    assert ("2 times the largest batch for those made ahead" in report["memory"]["how"]) == is_ahead


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_step_takes_the_memory_of_a_part(prefetch: int, tmp_path: Path) -> None:
    run = digits.resgnn()
    run = replace(run, model=replace(run.model, num_layers=7))
    dataset = load_dataset(run.dataset, tmp_path)
    parts = replace(run, loader=LoaderConfig(kind="random", num_parts=10, eval_parts=4, prefetch=prefetch))
    assert training_memory(parts, dataset) < training_memory(run, dataset) / 4


def test_a_loader_that_cannot_be_is_a_mistake_of_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(folder), "--out", str(tmp_path / "mine"), "--set", "loader.kind=neighbor"]
    assert main(words) == 2
    assert "loader.kind=neighbor needs loader.fanouts, got none; set it, such as [15, 10, 5]" in capsys.readouterr().err
    assert main([*words, "--set", "loader.fanouts=five"]) == 2
    assert "loader.fanouts must be a list such as [a, b] or none, got 'five'" in capsys.readouterr().err


def test_a_recipe_is_trained_where_nothing_else_is_said(tmp_path: Path) -> None:
    done = _revgnn("train", "digits/revgnn", "--set", "train.epochs=1", "--set", "model.num_layers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for fact in ("valid accuracy [%]", "parameters", "peak training memory", "time per step"):
        assert fact in done.stdout
    assert (tmp_path / "runs" / "digits" / "revgnn" / "report.html").exists()


def test_faults_of_tables_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    pq.write_table(pq.read_table(folder / "nodes.parquet").drop_columns(["label"]), tmp_path / "bad" / "nodes.parquet")
    pq.write_table(pq.read_table(folder / "edges.parquet"), tmp_path / "bad" / "edges.parquet")
    done = _revgnn("train", "bad", cwd=tmp_path)
    assert done.returncode == 2
    assert "label" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m revgnn recipes | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
