"""From a graph to a table of predictions: prepared folders, folders of tables, data sets by name."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prepared_graphs import GraphSource, draw_whole, write_store
from revgnn.cli import main
from revgnn.data import Feature, Store
from revgnn.experiment import read_experiment
from revgnn.predict import Predicting, predict_run
from revgnn.run_file import read_schema

SMALL = [
    *("--set", "model.num_layers=3", "--set", "model.hidden_channels=16", "--set", "model.dropout=0.0"),
    *("--set", "train.epochs=40", "--set", "train.lr=0.01", "--device", "cpu", "--json"),
]
STORED = ["--set", "loader.kind=ondisk", "--set", "loader.parts_per_batch=2", "--set", "loader.eval_parts=2"]
CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphSource]:
    whole = draw_whole(0, nodes=200, edges=300)
    return write_store(tmp_path_factory.mktemp("prepared") / "graph", whole, class_names=CLASSES), whole


@pytest.fixture(scope="module")
def run(graph: tuple[Path, GraphSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ondisk"
    assert main(["train", str(graph[0]), "--model", "revsage", "--out", str(out), *SMALL, *STORED]) == 0
    return out


def _predict(run: Path, out: Path, **options: Any) -> pa.Table:
    data = options.pop("data", None)
    facts = predict_run(run, out, Predicting(**options), data_root=Path(), data=data, device="cpu")
    table = pq.read_table(out)
    assert facts["rows"] == table.num_rows
    return table


def _shares(table: pa.Table, column: str = "probabilities") -> np.ndarray[Any, Any]:
    return np.array([list(row.values()) for row in table[column].to_pylist()])


def _by_id(table: pa.Table, column: str) -> dict[Any, Any]:
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))


def test_a_prepared_graph_is_trained_by_parts_and_predicted_by_ids(
    graph: tuple[Path, GraphSource], run: Path, tmp_path: Path
) -> None:
    table = _predict(run, tmp_path / "all.parquet", embeddings=True)
    whole = graph[1]
    predicted = _by_id(table, "prediction")
    truth = dict(zip(whole.ids, [CLASSES[label] for label in whole.y], strict=True))
    assert predicted.keys() == truth.keys()
    test = [name for name, split in zip(whole.ids, whole.split, strict=True) if split == 2]
    accuracy = np.mean([predicted[name] == truth[name] for name in test])
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert accuracy == pytest.approx(report["result"]["scores"]["test"]["metric"], abs=1e-6)
    assert accuracy > 0.5
    assert _by_id(table, "split") == {
        name: ("train", "valid", "test", None)[code] for name, code in zip(whole.ids, whole.split, strict=True)
    }
    assert table.schema.field("probabilities").type.names == list(CLASSES)
    shares = _shares(table)
    assert np.allclose(shares.sum(1), 1.0, atol=1e-5)
    assert [CLASSES[best] for best in shares.argmax(1)] == table["prediction"].to_pylist()
    assert np.array(table["embedding"].to_pylist()).shape == (200, 16)
    assert pq.ParquetFile(tmp_path / "all.parquet").num_row_groups == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.parquet"]


def test_on_disk_and_in_memory_answer_alike(graph: tuple[Path, GraphSource], run: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    ordered = ["--set", "loader.node_order=rcm"]
    assert main(["train", str(graph[0]), "--model", "revsage", "--out", str(memory), *SMALL, *ordered]) == 0
    table = _predict(memory, tmp_path / "one.parquet", embeddings=True)
    assert read_experiment(memory).loader.kind == "full"
    store = Store.open(graph[0])
    ids = [name for part in range(store.num_parts) for name in store.ids(part).to_pylist()]
    assert table["id"].to_pylist() == ids, "in the order of the data, whatever the order of the nodes"
    on_disk = _predict(memory, tmp_path / "other.parquet", data=graph[0])
    mine, theirs = _by_id(table, "probabilities"), _by_id(on_disk, "probabilities")
    assert mine.keys() == theirs.keys()
    assert all(np.allclose(list(mine[name].values()), list(theirs[name].values()), atol=1e-5) for name in mine)
    stored = _predict(run, tmp_path / "stored.parquet", parts=1)
    assert stored["id"].to_pylist() == table["id"].to_pylist()


def test_views_are_averaged_and_a_split_is_chosen(graph: tuple[Path, GraphSource], run: Path, tmp_path: Path) -> None:
    views = _predict(run, tmp_path / "views.parquet", parts=2, views=3, embeddings=True)
    assert views.num_rows == 200
    assert not np.allclose(
        views.sort_by("id")["embedding"].to_pylist(),
        _predict(run, tmp_path / "one.parquet", embeddings=True).sort_by("id")["embedding"].to_pylist(),
    )
    test = _predict(run, tmp_path / "test.parquet", split="test", parts=2, views=3)
    assert set(test["split"].to_pylist()) == {"test"}
    assert test.num_rows == int((graph[1].split == 2).sum())
    every = _by_id(views, "probabilities")
    assert all(every[name] == shares for name, shares in _by_id(test, "probabilities").items())


def test_another_graph_of_the_same_features(run: Path, tmp_path: Path) -> None:
    other = draw_whole(9, nodes=50, edges=80, integer_ids=True)
    folder = write_store(tmp_path / "other", other, class_names=CLASSES)
    table = _predict(run, tmp_path / "out.parquet", data=folder)
    assert sorted(table["id"].to_pylist()) == sorted(other.ids)
    assert pa.types.is_integer(table.schema.field("id").type)
    assert set(table["prediction"].to_pylist()) <= set(CLASSES)


@pytest.mark.parametrize(
    ("features", "message"),
    [(4, "column x must hold 5 numbers, got 4"), (6, "column x must hold 5 numbers, got 6")],
)
def test_a_graph_of_other_features_is_refused(run: Path, tmp_path: Path, features: int, message: str) -> None:
    folder = write_store(tmp_path / "other", draw_whole(9, features=features), class_names=CLASSES)
    with pytest.raises(ValueError, match=message):
        _predict(run, tmp_path / "out.parquet", data=folder)
    assert not (tmp_path / "out.parquet").exists()


def test_columns_that_differ_are_named(run: Path) -> None:
    schema = read_schema(run)
    other = replace(
        schema, name="other", features=(Feature(name="y", width=2), Feature(name="z", width=3)), undirected=True
    )
    with pytest.raises(ValueError, match="column x is missing; column y is unknown to the model") as caught:
        schema.check_applies(other)
    assert "undirected was false and is true" in str(caught.value)
    schema.check_applies(replace(schema, num_outputs=9, class_names=None))


@pytest.mark.parametrize("task", ["multilabel", "regression", "binary"])
def test_other_tasks(tmp_path: Path, task: str) -> None:
    outputs = 1 if task == "binary" else 2
    whole = draw_whole(2, task=task, outputs=outputs, integer_ids=True)
    folder = write_store(tmp_path / "graph", whole, task=task)
    words = ["train", str(folder), "--out", str(tmp_path / "run"), *SMALL, *STORED]
    assert main([*words, "--set", "train.epochs=2"]) == 0
    loss = {"multilabel": "bce", "regression": "mse", "binary": "bce"}[task]
    assert read_experiment(tmp_path / "run").train.loss == loss
    table = _predict(tmp_path / "run", tmp_path / "out.parquet")
    values = _shares(table, "prediction" if task == "regression" else "probabilities")
    assert values.shape == (60, 2)
    assert task == "regression" or ((values >= 0) & (values <= 1)).all()
    if task == "binary":
        assert table["prediction"].to_pylist() == (values[:, 1] > 0.5).astype(int).tolist()
    if task == "multilabel":
        assert (_shares(table, "prediction") == (values > 0.5)).all()
    assert sorted(table["id"].to_pylist()) == sorted(whole.ids)


def test_what_does_not_go_with_the_task_is_said_before_training(
    tmp_path: Path, graph: tuple[Path, GraphSource], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(graph[0]), "--model", "revsage", "--out", str(tmp_path / "run"), *SMALL]
    assert main([*words, "--set", "train.loss=bce"]) == 2
    said = capsys.readouterr().err
    assert "loss='bce' does not go with a multiclass task; choose one of cross_entropy, log_cross_entropy" in said
    assert main([*words, "--set", "dataset.metric=rmse"]) == 2
    said = capsys.readouterr().err
    assert "metric='rmse' does not go with a multiclass task; choose one of accuracy, " in said
    assert not (tmp_path / "run" / "curve.jsonl").exists()
    assert main([*words, "--set", "dataset.metric=macro_f1", "--set", "train.epochs=1"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["result"]["metric"] == "macro_f1"


def test_labels_as_an_input_are_given_in_prediction_too(tmp_path: Path, graph: tuple[Path, GraphSource]) -> None:
    words = ["train", str(graph[0]), "--model", "revgat", "--out", str(tmp_path / "run"), *SMALL, *STORED]
    changes = ["--set", "train.labels.reuse=true", "--set", "train.epochs=5", "--set", "model.hidden_channels=12"]
    assert main([*words, *changes]) == 0
    table = _predict(tmp_path / "run", tmp_path / "out.parquet")
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    truth = dict(zip(graph[1].ids, [CLASSES[label] for label in graph[1].y], strict=True))
    rows = [row for row in table.to_pylist() if row["split"] == "train"]
    accuracy = np.mean([row["prediction"] == truth[row["id"]] for row in rows])
    assert accuracy == pytest.approx(report["result"]["scores"]["train"]["metric"], abs=1e-6)


def test_a_folder_of_tables_and_a_data_set_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = draw_whole(4)
    Path("mine").mkdir()
    split = [("train", "valid", "test", None)[code] for code in whole.split]
    names = [CLASSES[label] for label in whole.y]
    pq.write_table(
        pa.table({"id": whole.ids, "x": list(whole.x), "label": names, "split": split}), "mine/nodes.parquet"
    )
    ids = np.array(whole.ids)
    pq.write_table(pa.table({"src": ids[whole.src], "dst": ids[whole.dst]}), "mine/edges.parquet")
    assert main(["train", "mine", "--model", "revsage", "--out", "tables", *SMALL]) == 0
    assert main(["predict", "tables", "--out", "tables.parquet", "--device", "cpu"]) == 0
    table = pq.read_table("tables.parquet")
    assert table["id"].to_pylist() == whole.ids
    assert set(table["prediction"].to_pylist()) <= set(CLASSES)

    few = ["--set", "model.num_layers=2", "--set", "train.epochs=2", "--set", "train.patience=none"]
    assert main(["train", "digits/revgnn", "--out", "digits", "--device", "cpu", *few]) == 0
    capsys.readouterr()
    words = ["predict", "digits", "--out", "digits.parquet", "--parts", "3", "--views", "2", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1797
    assert pq.read_table("digits.parquet")["id"].to_pylist() == list(range(1797))
    assert read_experiment(Path("digits")).model.num_layers == 2

    assert main(["predict", "mine", "--out", "none.parquet"]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert not Path("none.parquet").exists()


def _unlabelled(folder: Path, whole: GraphSource, **columns: Any) -> Path:
    """Write tables of a graph of which nothing is known but what ``columns`` says."""
    folder.mkdir()
    features = pa.array(list(whole.x), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": whole.ids, "x": features, **columns}), folder / "nodes.parquet")
    ids = np.array(whole.ids)
    pq.write_table(pa.table({"src": ids[whole.src], "dst": ids[whole.dst]}), folder / "edges.parquet")
    return folder


def test_graphs_of_which_nothing_is_known_are_predicted_and_not_learned_from(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = draw_whole(9, nodes=50, edges=80)
    folder = _unlabelled(tmp_path / "bare", whole)
    nothing = {"label": pa.nulls(50), "split": pa.nulls(50, pa.string())}
    tables = [
        _predict(run, tmp_path / f"{number}.parquet", data=each, parts=1)
        for number, each in enumerate((folder, _unlabelled(tmp_path / "nulls", whole, **nothing)))
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["id"].to_pylist() == whole.ids
    assert set(tables[0]["prediction"].to_pylist()) <= set(CLASSES)
    assert tables[0]["split"].null_count == 50

    (folder / "graph.yaml").write_text(
        "nodes: {files: nodes.parquet, features: x, label: []}\nedges: {files: edges.parquet}\nparts: {count: 3}\n"
        "scale: none\n"
    )
    assert main(["prepare", str(folder / "graph.yaml"), "--out", str(tmp_path / "prepared")]) == 0
    parts = _predict(run, tmp_path / "parts.parquet", data=tmp_path / "prepared", parts=1)
    shares, others = _by_id(parts, "probabilities"), _by_id(tables[0], "probabilities")
    assert shares.keys() == others.keys()
    assert all(np.allclose(list(shares[name].values()), list(others[name].values()), atol=1e-5) for name in shares)
    assert parts["split"].null_count == 50
    capsys.readouterr()
    assert main(["train", str(tmp_path / "prepared"), "--out", str(tmp_path / "none"), "--device", "cpu"]) == 2
    assert "prepared has no training rows: it can be predicted, not learned from" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("views", [1, 2])
def test_a_full_disk_says_what_is_needed_and_leaves_no_file(
    run: Path, tmp_path: Path, small_disk: None, views: int
) -> None:
    said = r"out.parquet with 200 rows needs \d+ bytes, .* are free; make room, then predict again"
    with pytest.raises(OSError, match=said) as full:
        _predict(run, tmp_path / "out.parquet", parts=2, views=views)
    assert full.value.errno == errno.EFBIG
    assert torch.is_grad_enabled()
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model_and_no_json_are_refused(run: Path, tmp_path: Path) -> None:
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read"):
        read_experiment(tmp_path)
    facts["config"]["model"]["num_layers"] = "three"
    (tmp_path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match=r"model.num_layers must be a whole number, got 'three'"):
        read_experiment(tmp_path)
    facts["config"]["model"]["surprise"] = 1
    (tmp_path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match="does not say what the run did"):
        read_experiment(tmp_path)
