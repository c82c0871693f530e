"""From several seeds of a recipe to the paper's table: run, recorded, put together, told apart where they ran short."""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revgnn.cli import main
from revgnn.paper.recipes import all_recipes
from revgnn.paper.results import append_rows, find_results, read_rows, rows_of
from revgnn.paper.tables import build_table, markdown_table, table_lines
from revgnn.paper.targets import find_target

RECIPE = "ogbn-arxiv/gcn"
SHORT = ["--set", "train.epochs=3"]


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as OGB lays ogbn-arxiv, of 60 papers."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    raw = root / "ogbn_arxiv" / "raw"
    write_csv(raw / "edge.csv.gz", rng.integers(0, 60, (150, 2)).tolist())
    write_csv(raw / "num-node-list.csv.gz", [[60]])
    write_csv(raw / "num-edge-list.csv.gz", [[150]])
    write_csv(raw / "node-feat.csv.gz", rng.normal(size=(60, 128)).round(3).tolist())
    write_csv(raw / "node-label.csv.gz", [[number % 3] for number in range(60)])
    for split, ids in (("train", range(30)), ("valid", range(30, 45)), ("test", range(45, 60))):
        write_csv(root / "ogbn_arxiv" / "split" / "time" / f"{split}.csv.gz", [[number] for number in ids])
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short seeds of a recipe."""
    out = tmp_path_factory.mktemp("runs") / "gcn"
    words = ["train", RECIPE, "--data-root", str(data), "--out", str(out), "--device", "cpu", *SHORT]
    assert main([*words, "--runs", "3"]) == 0
    return out


def test_several_seeds_have_a_folder_each_and_one_mean(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((runs / "runs.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in summary["runs"]] == [0, 1, 2]
    reports = [json.loads((runs / f"seed-{seed}" / "report.json").read_text()) for seed in range(3)]
    assert [report["config"]["train"]["seed"] for report in reports] == [0, 1, 2]
    values = [report["result"]["scores"]["test"]["metric"] for report in reports]
    assert len(set(values)) > 1, "seeds differ"
    spread = summary["scores"]["test"]
    assert spread == {"mean": statistics.fmean(values), "std": statistics.stdev(values), "runs": 3}
    assert summary["selected_by"] == "metric"
    assert main(["report", str(runs)]) == 0
    out = capsys.readouterr().out
    assert f"{100 * spread['mean']:.2f} ± {100 * spread['std']:.2f}" in out
    assert "3, each with its best valid metric" in out


def test_seeds_that_are_finished_are_not_run_again(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("curve.jsonl")}
    words = ["train", RECIPE, "--data-root", str(data), "--out", str(runs), "--device", "cpu", *SHORT]
    assert main([*words, "--runs", "3"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*words, "--runs", "3", "--resume", "--json"]) == 0
    assert {path: path.read_bytes() for path in runs.rglob("curve.jsonl")} == before


def test_a_recorded_run_stands_in_the_table_with_all_that_it_lacks(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["paper", "record", str(runs)]) == 2
    assert "name a folder of results with --results" in capsys.readouterr().err
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert main(["paper", "record", str(runs)]) == 0
    assert main(["paper", "record", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "3 appended" in out and "0 appended" in out and "3 recorded already" in out
    rows = read_rows(tmp_path / "benchmarks" / "results")
    assert len(rows) == 3
    assert rows[0]["changed"] == {"train.epochs": [500, 3], "data.nodes": [169_343, 60]}
    assert rows[0]["parameters"] == 110_120

    assert main(["paper", "table", "2", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["results"] == "benchmarks/results"
    by_name = {row["name"]: row for row in table["rows"]}
    (group,) = by_name["GCN"]["measured"]
    values = [100 * row["scores"]["test"]["metric"] for row in rows]
    assert group["metric"]["mean"] == pytest.approx(statistics.fmean(values))
    assert group["metric"]["std"] == pytest.approx(statistics.stdev(values))
    assert (group["runs"], group["runs_of_the_paper"], group["seeds"]) == (3, 10, [0, 1, 2])
    assert group["memory_gb"] == max(row["peak_bytes"] for row in rows) / 2**30
    assert all(not row["measured"] for name, row in by_name.items() if name != "GCN")

    assert main(["paper", "table", "2"]) == 0
    text = capsys.readouterr().out
    assert "SHORT: 3 of 500 epochs" in text and "OTHER DATA: 60 nodes instead of 169,343" in text
    assert "3 of 10 runs" in text
    assert text.count("not run") == 9
    assert "Of 10 rows 0 ran as the recipe says, 1 only shortened or changed, 9 not at all." in text


def test_only_recipes_are_recorded(runs: Path, tmp_path: Path) -> None:
    report = json.loads((runs / "seed-0" / "report.json").read_text(encoding="utf-8"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.json").write_text(json.dumps(report | {"name": "tables/mine-revgcn"}))
    with pytest.raises(ValueError, match="is no run of a recipe"):
        rows_of(tmp_path / "mine")


# ------------------------------------------------------------------ rows made here
def row(recipe: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "run",
        "recipe": recipe,
        "changed": {},
        "seed": 0,
        "metric": "accuracy",
        "scores": {"valid": {"metric": 0.75, "loss": 1.0}, "test": {"metric": 0.7301, "loss": 1.0}},
        "parameters": 262_056,
        "peak_bytes": 2**31,
        "seconds_per_step": 0.1,
        "training_seconds": 50.0,
        "device": "cuda",
        "hardware": "A GPU",
        "precision": "float32",
        "implementation": "reference",
        "commit": "0123456789abcdef-dirty",
        "date": "2026-01-02T03:04:05+00:00",
    } | changes


def test_a_whole_run_stands_before_a_short_one_and_seeds_count_once() -> None:
    name = "ogbn-arxiv/revgcn_deep"
    test = {"test": {"metric": 0.74, "loss": 1.0}}
    rows = [
        row(name, changed={"train.epochs": [500, 20]}, scores=test),
        row(name),
        row(name, seed=1, scores={"test": {"metric": 0.71, "loss": 1.0}}),
        row(name, seed=1, scores={"test": {"metric": 0.7201, "loss": 1.0}}, date="2026-02-02T03:04:05+00:00"),
        row(name, hardware="Another GPU", peak_bytes=None, commit=None),
    ]
    for number, position in ((2, 7), (3, 1)):
        found = build_table(number, rows)["rows"][position]
        whole, other, short = found["measured"]
        assert (whole["runs"], whole["seeds"], whole["dates"]) == (2, [0, 1], ["2026-01-02", "2026-02-02"])
        assert whole["metric"]["mean"] == pytest.approx((73.01 + 72.01) / 2)
        assert (other["runs"], other["metric"]["std"], other["memory_gb"]) == (1, None, None)
        assert short["changed"] == {"train.epochs": [500, 20]}
    table = build_table(3, rows)
    lines = [line for line in table_lines(table) if "GPU" in line[-1]]
    assert [line[0] for line in lines] == ["RevGCN 28 x 128*", "", ""]
    assert lines[0][-1] == "A GPU, 2026-01-02 to 2026-02-02, 01234567-dirty, 2 runs"
    assert lines[1][-1] == "Another GPU, 2026-01-02, unknown commit, 1 run"
    assert lines[2][-1].endswith("1 run; SHORT: 20 of 500 epochs")
    assert "Of 12 rows 1 ran as the recipe says, 0 only shortened or changed, 11 not at all." in table["summary"]
    markdown = markdown_table(table)
    assert markdown.count("| not run |") == 11
    assert "A GPU, 2026-01-02 to 2026-02-02" in markdown


@pytest.mark.parametrize(("number", "length"), [(1, 8), (2, 10), (3, 12), (6, 11)])
def test_every_table_is_there_without_results(
    number: int, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", "table", str(number), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (len(table["rows"]), table["results"]) == (length, None)
    assert [row["row"] for row in table["rows"]] == list(range(1, length + 1))
    for found in table["rows"]:
        target = find_target(found["recipe"])
        assert target is not None
        assert (found["paper"]["metric"], found["parameters"]) == (target.metric, target.parameters)
        assert found["measured"] == []
    assert main(["paper", "table", str(number)]) == 0
    text = capsys.readouterr().out
    assert text.count("not run") == length
    assert "results: none; there is no benchmarks/results in the current folder" in text
    with pytest.raises(ValueError, match="table 4 is not here"):
        build_table(4, [])


def test_rows_are_read_from_every_file_and_kind_is_respected(tmp_path: Path) -> None:
    assert append_rows([row("digits/revgnn")], tmp_path / "new") == 1
    assert append_rows([row("digits/revgnn", date="2027-01-01")], tmp_path / "new") == 0
    (tmp_path / "new" / "cpu.jsonl").write_text('{"case": "a benchmark"}\n')
    (tmp_path / "new" / "more.jsonl").write_text(json.dumps(row("digits/resgnn")) + "\n")
    assert [one["recipe"] for one in read_rows(tmp_path / "new")] == ["digits/resgnn", "digits/revgnn"]
    (tmp_path / "new" / "bad.jsonl").write_text("{}\nno json\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl: line 2 must be one JSON object"):
        read_rows(tmp_path / "new")
    assert find_results(tmp_path) == tmp_path


def test_the_results_of_the_project_can_be_read() -> None:
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    known = set(all_recipes())
    assert {one["recipe"] for one in read_rows(results)} <= known
