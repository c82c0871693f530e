"""The report of a run: every fact arrives, nothing of the user's becomes markup, nothing comes from outside."""

from __future__ import annotations

import builtins
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from revgnn.data import GraphInfo
from revgnn.report import MARKDOWN_HEADER, build_report, markdown_row, write_report
from revgnn.report.drawings import confusion_matrix
from revgnn.report.evaluation import _class_details
from revgnn.report.page import render
from revgnn.report.row import duration, figure, memory
from revgnn.train.split_rows import RowOutputs

NASTY = "<script>alert('1')</script> \" & | `x`"
OBSERVED = {"forward residual": 0.02, "forward solves": 9, "forward failures": 7}
VOID = {"meta", "link", "br", "img", "hr", "input"}


def _row(epoch: int, accuracy: float | None = 0.5) -> dict[str, Any]:
    scores = {split: {"metric": accuracy, "loss": 1.0 / epoch} for split in ("train", "valid", "test")}
    return {
        "epoch": epoch,
        "lr": 0.01,
        "loss": 2.0 / epoch,
        "steps": 2,
        "seconds": 0.5,
        "memory": 3 * 2**20,
        "scores": scores if epoch % 2 == 0 else None,
        "observed": OBSERVED if epoch >= 29 else {},
    }


def _folder(run: Path, **changes: Any) -> Path:
    result = {
        "metric": "accuracy",
        "best_epoch": 4,
        "scores": {
            "train": {"metric": 0.9, "loss": 0.1},
            "valid": {"metric": 0.7312, "loss": 0.25},
            "test": {"metric": 0.7254, "loss": None},
        },
        "epochs": 30,
        "steps": 60,
        "stopped": "finished",
        "seconds_per_step": 0.25,
        "peak_memory": 3 * 2**20,
        "parameters": 262_056,
        "device": "cpu",
        "precision": "float32",
    }
    (run / "result.json").write_text(json.dumps(result | changes))
    (run / "curve.jsonl").write_text("".join(json.dumps(_row(epoch)) + "\n" for epoch in range(1, 31)))
    return run


def _report(run: Path, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": "ogbn-arxiv/revgcn_deep",
        "config": {"model": {"conv": "gcn", "num_layers": 28}, "train": {"lr": 0.01, "clip_norm": None}},
        "dataset": {"nodes": 169_343, "edges": 2_315_598},
        "implementation": "reference",
        "memory_how": "bytes of live tensors",
        "paper": {"metric": 73.01, "std": 0.31, "memory_gb": 1.84, "parameters": 262_056},
    }
    return build_report(run, facts | changes)


class _Page(HTMLParser):
    """Notes the tags, their attributes and the text, and checks that what opens closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_a_report_holds_every_fact(tmp_path: Path) -> None:
    report = _report(_folder(tmp_path), warnings=["mind this"])
    as_json, as_page = write_report(tmp_path, report)
    assert json.loads(as_json.read_text()) == report
    assert report["result"]["scores"]["test"] == {"metric": 0.7254, "loss": None}
    assert report["result"]["best_epoch"] == 4
    assert report["time"] == {"seconds_per_step_median": 0.25, "steps": 60, "training_seconds": 15.0}
    memory = {"peak_bytes": 3 * 2**20, "how": "bytes of live tensors", "resident": None, "predicted": None}
    assert report["memory"] == memory
    assert report["curve"]["first_loss"] == 2.0
    assert report["curve"]["lowest_loss"] == report["curve"]["last_loss"] == pytest.approx(2 / 30)
    assert report["curve"]["evaluations"] == 15
    assert report["versions"]["torch"] == torch.__version__
    assert set(report["versions"]) == {"python", "torch", "pyg", "revgnn"}
    assert report["machine"]["cores"] >= 1
    assert report["warnings"][0] == "mind this"
    assert report["warnings"][1].startswith(
        "7 of 9 forward solves of the last epoch did not reach their tolerance; the median"
    )
    assert report["observed"] == OBSERVED
    page = _Page(as_page.read_text())
    assert "29 0.02 9 7 30 0.02 9 7" in page.text
    for text in (
        "ogbn-arxiv/revgcn_deep", "72.54", "73.12", "73.01 ± 0.31", "1.84", "262,056", "3.0 MiB", "250 ms",
        "best epoch 4 of 30", "model conv gcn num_layers 28", "169,343", "bytes of live tensors", "reference",
        "mind this", torch.__version__,
    ):  # fmt: skip
        assert text in page.text, text


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page = _Page(render(_report(_folder(tmp_path)), json_rows(tmp_path)))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "image"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None and value.startswith("#"), (tag, value)
    text = render(_report(tmp_path), json_rows(tmp_path))
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text


def json_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def test_nothing_of_the_users_becomes_markup(tmp_path: Path) -> None:
    _folder(tmp_path, device=NASTY, metric=NASTY, scores={NASTY: {"metric": 0.5, "loss": 0.5}})
    report = _report(
        tmp_path,
        name=NASTY,
        config={NASTY: {"a": NASTY}},
        dataset={NASTY: [NASTY]},
        implementation=NASTY,
        memory_how=NASTY,
        warnings=[NASTY],
    )
    text = render(report, json_rows(tmp_path))
    assert "<script" not in text
    page = _Page(text)
    assert page.text.count("<script>alert('1')</script>") >= 9


def test_the_pictures_are_well_formed_and_named_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = render(_report(_folder(tmp_path)), json_rows(tmp_path))
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) == 2
    ids: list[str] = []
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        ids += [element.attrib["id"] for element in root.iter() if element.tag.endswith("clipPath")]
        assert "metadata" not in picture
    assert len(ids) == len(set(ids)) > 0
    assert "best epoch 4" in pictures[0]


def test_without_matplotlib_the_page_says_how_to_get_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_import = builtins.__import__

    def no_matplotlib(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return plain_import(name, *args, **options)

    _folder(tmp_path)
    report, rows = _report(tmp_path), json_rows(tmp_path)
    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    text = render(report, rows)
    assert "<svg" not in text
    assert "pip install &#x27;revgnn[plot]&#x27;" in text or "pip install 'revgnn[plot]'" in text


def test_a_run_with_little_to_say_still_has_a_page(tmp_path: Path) -> None:
    _folder(tmp_path, peak_memory=None, metric="rmse", scores={"valid": {"metric": 1.23456, "loss": 0.25}})
    (tmp_path / "curve.jsonl").write_text(json.dumps(_row(1)) + "\n" + json.dumps(_row(2, None)) + "\n")
    report = _report(tmp_path, paper=None, memory_how=None)
    page = _Page(render(report, json_rows(tmp_path)))
    assert "RMSE" in page.text
    assert "1.235" in page.text
    assert "Comparison with the paper" not in page.text
    (tmp_path / "curve.jsonl").unlink()
    assert _report(tmp_path, memory_how=None, paper=None)["curve"]["last_loss"] is None


def test_a_final_evaluation_stands_beside_the_one_that_selected(tmp_path: Path) -> None:
    selection = {"valid": {"metric": 0.5, "loss": 0.75}, "test": {"metric": 0.4, "loss": 0.8}}
    loader = {"kind": "random", "eval_parts": 5, "eval_views": 1, "final_parts": 3, "final_views": 10}
    report = _report(_folder(tmp_path, selection=selection), config={"loader": loader})
    text = _Page(render(report, json_rows(tmp_path))).text
    assert "of epoch 4, in 3 parts of each of 10 views, whose logits are averaged" in text
    assert "Scores that selected the weights, in 5 parts" in text
    assert "73.12" in text
    assert "50.00" in text
    # A folder from before there was such a thing.
    old = _report(_folder(tmp_path), config={})
    assert old["result"]["selection"] == old["result"]["scores"]
    assert "Scores that selected" not in _Page(render(old, json_rows(tmp_path))).text


def test_the_growth_of_the_process_stands_beside_the_bytes_of_tensors(tmp_path: Path) -> None:
    grown = {"growth_bytes": 5 * 2**20, "process_bytes": 2**29, "how": "highest resident size"}
    report = _report(_folder(tmp_path), resident=grown)
    assert report["memory"]["resident"] == grown
    text = _Page(render(report, json_rows(tmp_path))).text
    assert "growth of the process 5.0 MiB" in text
    assert "512.0 MiB (highest resident size)" in text
    # A report of a version that did not measure it.
    del report["memory"]["resident"]
    assert "growth of the process –" in _Page(render(report, json_rows(tmp_path))).text
    assert "| 3.0 MiB | – | 250 ms |" in markdown_row(report)


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="did not finish; resume it first"):
        _report(tmp_path)


def test_a_markdown_row_fits_its_header(tmp_path: Path) -> None:
    _folder(tmp_path)
    row = markdown_row(_report(tmp_path))
    assert row == "| ogbn-arxiv/revgcn_deep | 262,056 | 4 | 73.12 | 72.54 | 73.01 ± 0.31 | 3.0 MiB | – | 250 ms |"
    assert all(line.count("|") == row.count("|") for line in MARKDOWN_HEADER.splitlines())
    grown = {"growth_bytes": 5 * 2**20, "process_bytes": 2**29, "how": "resident size"}
    assert "| 3.0 MiB | 5.0 MiB | 250 ms |" in markdown_row(_report(tmp_path, resident=grown))
    nasty = markdown_row(_report(tmp_path, name="a|b\n<i>", paper=None))
    assert nasty.startswith("| a\\|b &lt;i&gt; | ")
    assert nasty.count("|") == row.count("|") + 1
    assert " | – | 3.0 MiB" in nasty


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3 ms"), (1.5, "1.5 s"), (600.0, "10 min"), (36_000.0, "10 h")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(None, "–"), (2**20, "1.0 MiB"), (3 * 2**29, "1.50 GiB")])
def test_memory_is_readable(count: int | None, text: str) -> None:
    assert memory(count) == text


def _evaluation(**more: Any) -> dict[str, Any]:
    beside = {"majority class": {"accuracy": 0.5, "macro_f1": 0.25}, LINEAR: {"accuracy": 0.6, "macro_f1": None}}
    return {
        "metrics": {"test": {"network": {"accuracy": 0.7254, "macro_f1": 0.7}, **beside}},
        "baselines": [{"name": "majority class", "rows": 5000}, {"name": LINEAR, "rows": 1000}],
        "training_rows": 5000,
        "rows": {"test": 100},
        "split": "test",
        "worst": [{"id": NASTY, "label": NASTY, "prediction": "b", "probability of the label": 0.01}],
        **more,
    }


LINEAR = "linear model on the features alone"
CLASSES = {
    "classes": [{"class": NASTY, "rows": 1234, "precision": 0.5, "recall": None, "f1": 0.125}] * 60,
    "confusion": {"names": [NASTY, "b"], "counts": [[3, 1], [0, 12345]]},
}


def test_a_page_starts_with_the_score_beside_the_baselines(tmp_path: Path) -> None:
    report = _report(_folder(tmp_path), evaluation=_evaluation(**CLASSES), changed=["train.lr", "gone"])
    assert len(report["warnings"]) == 1  # of the solves alone
    html = render(report, json_rows(tmp_path))
    text = _Page(html).text
    headline = f"test accuracy [%] 72.54 beside majority class 50.00, {LINEAR} 60.00"
    places = [headline, f"{LINEAR} 60.00 –", "Curves", "Confusion matrix", "12,345", "Per class", "1,234 50.00 – 12.50"]
    places += ["10 rarer ones", "Worst predictions", "b 0.01", "Result", "fields that differ", "Every field"]
    found = [text.find(place) for place in places]
    assert -1 not in found and found == sorted(found), dict(zip(places, found, strict=True))
    assert "100 rows of the split test; the linear model was fitted to 1,000 of 5,000 training rows" in text
    opened = html.partition("<details><summary>Every field")[0]
    assert '<th scope="row">train.lr</th>' in opened and '<th scope="row">num_layers</th>' not in opened
    assert "<script" not in html and text.count("<script>alert('1')</script>") >= 60
    assert "@media (prefers-color-scheme: dark)" in html
    for picture in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(picture)


def test_predicted_stands_against_true_on_equal_axes(tmp_path: Path) -> None:
    _folder(tmp_path, metric="rmse", scores={"test": {"metric": 12345.6, "loss": 0.5}})
    scores = {"network": {"rmse": 12345.6}, "mean of the training rows": {"rmse": 9000.0}, LINEAR: {"rmse": 20000.0}}
    points = [{"column": "price", "true": [0.0, 5e4, 1e5], "predicted": [1e4, 5e4, 9e4]}]
    evaluation = _evaluation(metrics={"test": scores}, points=points)
    evaluation["baselines"][0]["name"] = "mean of the training rows"
    report = _report(tmp_path, evaluation=evaluation)
    assert report["warnings"][1].startswith("The mean of the training rows is as good as the network or better")
    html = render(report, json_rows(tmp_path))
    assert "test RMSE 12,346 beside mean of the training rows 9000" in _Page(html).text
    drawn = re.findall(r'<circle class="point" cx="([\d.]+)" cy="([\d.]+)"', html)
    x, y = [[float(place) for place in axis] for axis in zip(*drawn, strict=True)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[0] - y[1] == pytest.approx(0.8 * (x[1] - x[0]), abs=0.2)
    assert "50,000" in html


def test_many_classes_are_taken_together_in_the_matrix() -> None:
    y = torch.cat([torch.arange(30), torch.arange(5)])
    rows = RowOutputs(ids=torch.arange(35), logits=torch.nn.functional.one_hot(y, 30).float(), y=y)
    found = _class_details(GraphInfo(num_outputs=30), rows)
    assert len(found["classes"]) == 30
    assert found["confusion"]["names"][-1] == "11 others"
    counts = torch.tensor(found["confusion"]["counts"])
    assert counts.shape == (20, 20) and counts.diagonal().sum() == 35 and counts[-1, -1] == 11
    assert "11 others" in confusion_matrix(**found["confusion"])


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("r2", -1.289e-05, "0.0000"),
        ("r2", 0.98765, "0.9877"),
        ("rmse", 1.289e-05, "1.289e-05"),
        ("accuracy", 0.5, "50.00"),
    ],
)
def test_a_metric_without_a_unit_has_fixed_decimals(metric: str, value: float, expected: str) -> None:
    assert figure(metric, value) == expected
