"""A user's tables with ids of their own: prepared, trained on by parts, predicted, and joined on the ids again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from revgnn.cli import main

ARXIV = Path(os.environ.get("REVGNN_ARXIV_TEXT", Path(__file__).resolve().parents[3] / "shared/data/arxiv_text"))
SIGN = 0.722
"""Test accuracy of SIGN on these tables, one seed, the epoch chosen on valid."""
BEATS_SIGN = [
    *("loader.kind=ondisk", "loader.parts_per_batch=32", "model.num_layers=56", "model.hidden_channels=128"),
    *("model.norm=layer", "model.dropout=0.15", "model.sage.root_weight=false", "model.sage.init=glorot"),
    *("train.labels.reuse=true", "train.ema_decay=0.99", "train.eval_every=8"),
    *("train.epochs=64", "train.lr=0.004", "train.warmup_epochs=6", "train.schedule=cosine", "train.clip_norm=1.0"),
]
"""What is changed of ``revgnn train graph/ --model revsage``."""


def _accuracy(nodes: Path, predictions: Path) -> float:
    """Join predictions with the tables they came from, as a user would."""
    truth = pq.read_table(nodes, columns=["id", "label", "split"])
    joined = truth.join(pq.read_table(predictions, columns=["id", "prediction"]), keys="id")
    assert joined.num_rows == truth.num_rows
    test = joined.filter(pc.equal(joined["split"], "test"))
    return float(np.mean(np.array(test["label"].to_pylist()) == np.array(test["prediction"].to_pylist())))


def _trained_and_joined(graph: str, changes: list[str], nodes: Path) -> float:
    """Train RevSAGE on a prepared graph, predict, and join; the test accuracy, which is that of the report."""
    run = Path(graph).with_name("run")
    out = run.with_name("predictions.parquet")
    words = ["train", graph, "--model", "revsage", "--out", str(run), "--device", "cpu"]
    assert main([*words, *(f"--set={change}" for change in changes)]) == 0
    assert main(["predict", str(run), "--out", str(out), "--device", "cpu"]) == 0
    accuracy = _accuracy(nodes, out)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert accuracy == pytest.approx(report["result"]["scores"]["test"]["metric"], abs=1e-6)
    return accuracy


def test_from_tables_with_string_ids_to_predictions_keyed_by_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 300)
    ids = [f"paper/{number:04d}" for number in rng.permutation(300)]
    nodes = tmp_path / "nodes.parquet"
    columns = {
        "id": ids,
        "x": list((np.eye(3, 6)[label] + rng.normal(0, 0.4, (300, 6))).astype(np.float32)),
        "label": np.array(["red", "green", "blue"])[label],
        "split": rng.choice(["train", "valid", "test"], 300, p=[0.6, 0.2, 0.2]),
    }
    pq.write_table(pa.table(columns), nodes)
    ends = np.array(ids)[rng.integers(0, 300, (2, 900))]
    pq.write_table(pa.table({"src": ends[0], "dst": ends[1]}), tmp_path / "edges.parquet")
    graph = str(tmp_path / "graph")

    assert main(["prepare", str(nodes), str(tmp_path / "edges.parquet"), "--out", graph, "--parts", "5"]) == 0
    changes = ["loader.kind=ondisk", "loader.parts_per_batch=2", "loader.eval_parts=3", "model.hidden_channels=16"]
    changes += ["model.num_layers=4", "train.epochs=30", "train.lr=0.01"]
    assert _trained_and_joined(graph, changes, nodes) > 0.6


@pytest.mark.slow
@pytest.mark.skipif(not ARXIV.is_dir(), reason="the tables of arxiv_text are not here")
def test_arxiv_text_by_parts(tmp_path: Path) -> None:
    graph = str(tmp_path / "graph")
    tables = [str(ARXIV / "nodes.parquet"), str(ARXIV / "edges.parquet")]
    assert main(["prepare", *tables, "--out", graph, "--parts", "16", "--undirected"]) == 0
    changes = ["loader.kind=ondisk", "loader.parts_per_batch=4", "loader.eval_parts=2", "model.num_layers=3"]
    changes += ["model.hidden_channels=64", "train.epochs=4", "train.eval_every=4"]
    assert _trained_and_joined(graph, changes, ARXIV / "nodes.parquet") > 0.4


@pytest.mark.slow
@pytest.mark.skipif(not ARXIV.is_dir(), reason="the tables of arxiv_text are not here")
@pytest.mark.skipif(not os.environ.get("REVGNN_LONG"), reason="half an hour of a core: set REVGNN_LONG=1 to run it")
def test_56_layers_by_parts_beat_sign_on_arxiv_text(tmp_path: Path) -> None:
    pytest.importorskip("pymetis", reason="the parts are METIS clusters")
    tables = [str(ARXIV / "nodes.parquet"), str(ARXIV / "edges.parquet")]
    description, graph = str(tmp_path / "graph.yaml"), str(tmp_path / "graph")
    assert main(["prepare", "--init", *tables, "--out", description]) == 0
    text = Path(description).read_text(encoding="utf-8")
    for line, wanted in (
        ("direction: directed", "direction: undirected"),
        ("self_loops: false", "self_loops: true"),
        ("count: 16", "count: 512"),
        ("method: hash", "method: metis"),
    ):
        assert text.count(line) == 1
        text = text.replace(line, wanted)
    Path(description).write_text(text, encoding="utf-8")
    assert main(["prepare", description, "--out", graph]) == 0
    assert _trained_and_joined(graph, BEATS_SIGN, ARXIV / "nodes.parquet") > SIGN
