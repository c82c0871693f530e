"""What a task decides: loss, metrics beside baselines, tables per class, units and predictions, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv
from sklearn import metrics as sk
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import Batch, Data

import revgnn
from prepared_graphs import GraphSource, draw_whole, write_store
from rank_jobs import launch
from revgnn.cli import main
from revgnn.data import DatasetConfig, GraphInfo, Store, class_weights, with_target_scale
from revgnn.experiment import Experiment, make_model
from revgnn.nn.model import ModelConfig
from revgnn.predict import flat
from revgnn.report.row import figure, metric_title
from revgnn.run_file import read_schema
from revgnn.train import TrainConfig, load_latest
from revgnn.trained import TrainedModel

SMALL = [
    *("--set", "model.num_layers=3", "--set", "model.hidden_channels=16", "--set", "model.dropout=0.0"),
    *("--set", "train.epochs=30", "--set", "train.lr=0.01", "--device", "cpu"),
]
CLASSES = ("red", "green", "blue")
OUTPUTS = {"multiclass": 3, "binary": 1, "multilabel": 3, "regression": 2}
PRIMARY = {"multiclass": "accuracy", "binary": "rocauc", "multilabel": "rocauc", "regression": "rmse"}


def _draw(task: str) -> GraphSource:
    whole = draw_whole(3, nodes=200, edges=300, task=task, outputs=OUTPUTS[task])
    if task == "regression":
        whole.y[:] = whole.y * np.array([2e4, 0.01]) + np.array([9e5, -3.0])
        whole.y[::9, 0] = np.nan
    return whole


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[GraphSource, Path, Path]]:
    """Task -> what was drawn, its prepared graph, its run."""
    made = {}
    for task, outputs in OUTPUTS.items():
        folder = tmp_path_factory.mktemp(task)
        whole = _draw(task)
        names = {"multiclass": CLASSES, "binary": ("no", "yes"), "multilabel": CLASSES, "regression": ("price", "size")}
        graph = write_store(folder / "graph", whole, task=task, name=task, class_names=names[task])
        assert main(["train", str(graph), "--model", "revsage", "--out", str(folder / "run"), *SMALL]) == 0
        made[task] = whole, graph, folder / "run"
        assert outputs == read_schema(folder / "run").num_outputs
    return made


def _report(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return report


def _outputs(run: Path, out: Path, column: str) -> np.ndarray[Any, Any]:
    """The column of a table of predictions, in the order of the drawn nodes, for those of the test split."""
    assert main(["predict", str(run), "--out", str(out), "--device", "cpu"]) == 0
    table = pq.read_table(out)
    split = np.array(table["split"].to_pylist(), dtype=object)
    values = [list(row.values()) if isinstance(row, dict) else row for row in table[column].to_pylist()]
    return np.array(values)[split == "test"]


def test_numbers_are_learned_standardised_and_given_back_in_their_unit(
    runs: dict[str, tuple[GraphSource, Path, Path]], tmp_path: Path
) -> None:
    whole, graph, run = runs["regression"]
    training = whole.y[whole.split == 0].astype(np.float64)
    scale = read_schema(run).target_scale
    assert scale is not None
    assert np.allclose((np.nanmean(training, 0) - scale.mean) / scale.std, 0.0, atol=1e-4)
    assert np.allclose(scale.std, np.nanstd(training, 0), rtol=1e-5)
    assert with_target_scale(Store.open(graph)).target_scale == with_target_scale(Store.open(graph).load()).target_scale
    report = _report(run)
    scores = report["evaluation"]["metrics"]["test"]
    assert scores["network"]["rmse"] == pytest.approx(report["result"]["scores"]["test"]["metric"])
    assert set(scores["network"]) == {"rmse", "mae", "r2"}
    # The loss is of standardised labels, where a mean square of one is what the mean reaches.
    assert 0.0 < report["result"]["scores"]["train"]["loss"] < 1.0
    assert scores["network"]["rmse"] < scores["mean of the training rows"]["rmse"]
    predicted, truth = _outputs(run, tmp_path / "p.parquet", "prediction"), whole.y[whole.split == 2]
    known = ~np.isnan(truth)
    assert scores["network"]["mae"] == pytest.approx(np.abs(predicted - truth)[known].mean(), rel=1e-5)
    table = report["evaluation"]["columns"]
    assert [row["column"] for row in table] == ["price", "size"]
    for k, row in enumerate(table):
        here = known[:, k]
        assert row["r2"] == pytest.approx(sk.r2_score(truth[here, k], predicted[here, k]), abs=1e-4)
        assert row["rows"] == here.sum() == len(report["evaluation"]["points"][k]["true"])
    # The epoch with the smallest error is the best one.
    curve = [json.loads(line) for line in (run / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    errors = [row["scores"]["valid"]["metric"] for row in curve]
    assert report["result"]["best_epoch"] == 1 + int(np.argmin(errors))


def test_classes_are_judged_by_three_metrics_a_table_and_a_confusion_matrix(
    runs: dict[str, tuple[GraphSource, Path, Path]], tmp_path: Path
) -> None:
    whole, _, run = runs["multiclass"]
    evaluation = _report(run)["evaluation"]
    predicted = _outputs(run, tmp_path / "p.parquet", "prediction")
    truth = np.array(CLASSES)[whole.y[whole.split == 2]]
    assert evaluation["metrics"]["test"]["network"] == pytest.approx(
        {
            "accuracy": sk.accuracy_score(truth, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
            "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        }
    )
    assert evaluation["confusion"]["names"] == list(CLASSES)
    assert evaluation["confusion"]["counts"] == sk.confusion_matrix(truth, predicted, labels=CLASSES).tolist()
    precision, recall, f1, rows = sk.precision_recall_fscore_support(truth, predicted, labels=CLASSES)
    for k, row in enumerate(evaluation["classes"]):
        assert (row["class"], row["rows"]) == (CLASSES[k], rows[k])
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx([precision[k], recall[k], f1[k]])
    worst = evaluation["worst"]
    label_of = dict(zip(whole.ids, np.array(CLASSES)[whole.y], strict=True))
    assert [row["label"] for row in worst] == [label_of[row["id"]] for row in worst]
    shares = [row["probability of the label"] for row in worst]
    assert shares == sorted(shares) and len(shares) == 10


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_flags_are_judged_by_ranking_and_f1(
    runs: dict[str, tuple[GraphSource, Path, Path]], tmp_path: Path, task: str
) -> None:
    whole, _, run = runs[task]
    evaluation, truth = _report(run)["evaluation"], whole.y[whole.split == 2]
    shares = _outputs(run, tmp_path / "p.parquet", "probabilities")
    shares = shares[:, 1:] if task == "binary" else shares
    wanted: dict[str, list[float]] = {"rocauc": [], "average_precision": [], "f1": []}
    for y, share in zip(truth.T, shares.T, strict=True):
        y, share = y[~np.isnan(y)], share[~np.isnan(y)]
        wanted["rocauc"].append(sk.roc_auc_score(y, share))
        wanted["average_precision"].append(sk.average_precision_score(y, share))
        wanted["f1"].append(sk.f1_score(y, share > 0.5))
    means = {name: float(np.mean(values)) for name, values in wanted.items()}
    assert evaluation["metrics"]["test"]["network"] == pytest.approx(means, abs=1e-5)
    if task == "binary":
        known = ~np.isnan(truth[:, 0])
        counts = sk.confusion_matrix(truth[known, 0], shares[known, 0] > 0.5).tolist()
        assert evaluation["confusion"] == {"names": ["no", "yes"], "counts": counts}
    else:
        assert [row["column"] for row in evaluation["columns"]] == list(CLASSES)
        assert [row["rocauc"] for row in evaluation["columns"]] == pytest.approx(wanted["rocauc"], abs=1e-5)


def test_baselines_are_scikits_on_the_features_alone(runs: dict[str, tuple[GraphSource, Path, Path]]) -> None:
    whole, _, run = runs["multiclass"]
    train, test = whole.split == 0, whole.split == 2
    found = _report(run)["evaluation"]["metrics"]["test"]
    majority = DummyClassifier().fit(whole.x[train], whole.y[train])
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(whole.x[train], whole.y[train])
    assert found["majority class"]["accuracy"] == pytest.approx(majority.score(whole.x[test], whole.y[test]))
    name = "linear model on the features alone"
    assert found[name]["accuracy"] == pytest.approx(linear.score(whole.x[test], whole.y[test]), abs=0.03)
    whole, _, run = runs["regression"]
    found = _report(run)["evaluation"]["columns"], _report(run)["evaluation"]["metrics"]["test"]
    ridge = make_pipeline(StandardScaler(), Ridge()).fit(whole.x[train], whole.y[train, 1])
    truth = whole.y[test]
    errors = np.concatenate([(truth[:, 1] - ridge.predict(whole.x[test])), np.zeros(0)])
    assert np.sqrt(np.mean(errors**2)) < found[0][1]["rmse"]  # linear labels: no network of 30 epochs is better
    assert found[1][name]["r2"] > 0.99


@pytest.mark.parametrize("task", OUTPUTS)
def test_the_last_line_of_training_sets_the_score_beside_the_baselines(
    runs: dict[str, tuple[GraphSource, Path, Path]], task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[task][2]
    assert main(["report", str(run)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    constant = "mean of the training rows" if task == "regression" else "majority class"
    values = _report(run)["evaluation"]["metrics"]["test"]
    names = ("network", constant, "linear model on the features alone")
    said = ", ".join(f"{name} {figure(PRIMARY[task], values[name][PRIMARY[task]])}" for name in names)
    assert last == f"test {metric_title(PRIMARY[task])}: {said}"


@pytest.mark.parametrize(
    ("task", "setting", "said"),
    [
        ("regression", "train.loss=bce", "loss='bce' does not go with a regression task; choose one of mse"),
        ("multiclass", "train.loss=mse", "loss='mse' does not go with a multiclass task; choose one of cross_entropy"),
        ("regression", "train.class_weight=balanced", "does not go with a regression task, which has no classes"),
        ("regression", "train.labels.reuse=true", "has numbers as labels: labels as an input are classes or flags"),
        ("binary", "dataset.metric=accuracy", "metric='accuracy' does not go with a binary task"),
    ],
)
def test_what_does_not_go_with_the_task_is_an_error_before_training(
    runs: dict[str, tuple[GraphSource, Path, Path]],
    tmp_path: Path,
    task: str,
    setting: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(runs[task][1]), "--out", str(out), *SMALL, "--set", setting]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_run_resumes_with_the_scale_it_was_begun_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = draw_whole(3, nodes=60, edges=90, task="regression", outputs=1)
    words = ["train", str(tmp_path / "graph"), "--out", str(tmp_path / "run"), *SMALL, "--set"]
    write_store(tmp_path / "graph", whole, task="regression")
    assert main([*words, "train.epochs=2"]) == 0
    assert main([*words, "train.epochs=3"]) == 2
    assert f"{tmp_path / 'run'} already holds a run; go on with it by --resume" in capsys.readouterr().err
    before = _report(tmp_path / "run")["result"]["scores"]
    assert main([*words, "train.epochs=2", "--resume"]) == 0
    assert _report(tmp_path / "run")["result"]["scores"] == before
    (tmp_path / "graph").rename(tmp_path / "old")
    whole.y[:] *= 3.0
    write_store(tmp_path / "graph", whole, task="regression")
    assert main([*words, "train.epochs=3", "--resume"]) == 2
    assert "target_scale.std was" in capsys.readouterr().err


def test_balanced_weights_find_the_rare_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = draw_whole(0, nodes=2000, edges=1000, outputs=2)
    whole.y[:] = whole.x[:, 0] + rng.normal(0, 0.7, 2000) > 1.7  # about 1 of 12, not separable
    graph = write_store(tmp_path / "graph", whole)
    weights = class_weights(Store.open(graph))
    counts = np.bincount(whole.y[whole.split == 0])
    assert torch.allclose(weights, torch.tensor(counts.sum() / (2 * counts)).float())
    recall = {}
    for weight in ("none", "balanced"):
        run = tmp_path / weight
        words = ["train", str(graph), "--model", "revsage", "--out", str(run), *SMALL]
        assert main([*words, "--set", f"train.class_weight={weight}", "--set", "train.select=loss"]) == 0
        recall[weight] = _report(run)["evaluation"]["classes"][1]["recall"]
    assert recall["balanced"] > recall["none"] + 0.2
    assert load_latest(tmp_path / "none").config["train"]["class_weight"] == "none"


@pytest.mark.parametrize("task", OUTPUTS)
def test_predictions_are_the_same_in_every_format_and_in_python(
    runs: dict[str, tuple[GraphSource, Path, Path]], tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, graph, run = runs[task]
    words = ["predict", str(run), "--device", "cpu", "--embeddings", "--out"]
    assert main([*words, str(tmp_path / "p.parquet")]) == 0
    for name, more in (("p.arrow", []), ("columns.feather", ["--columns"]), ("p.csv", [])):
        assert main([*words, str(tmp_path / name), *more]) == 0
    table = pq.read_table(tmp_path / "p.parquet")
    assert pa.ipc.open_file(tmp_path / "p.arrow").read_all().equals(table)
    columns = pa.ipc.open_file(tmp_path / "columns.feather").read_all()
    assert columns.equals(flat(table))
    assert sorted(columns["id"].to_pylist()) == sorted(whole.ids)
    names = {"multiclass": CLASSES, "binary": ("no", "yes"), "multilabel": CLASSES, "regression": ("price", "size")}
    prefix = "prediction" if task == "regression" else "probability"
    assert {f"{prefix}_{name}" for name in names[task]} | {"embedding_0", "embedding_15"} <= set(columns.column_names)
    types = dict(zip(columns.column_names, columns.schema.types, strict=True))
    as_read = csv.read_csv(
        tmp_path / "p.csv", convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    )
    assert as_read.equals(columns)
    assert main([*words, str(tmp_path / "p.xlsx")]) == 2
    assert "--out must end in .parquet, .csv, .arrow, .feather" in capsys.readouterr().err
    assert not (tmp_path / "p.xlsx").exists()

    model = revgnn.load(run, device="cpu")
    assert model.info == read_schema(run)
    data = Store.open(graph).load()
    plain = table.drop_columns(["embedding"])
    for same in (data, Store.open(graph), _as_pyg(data)):
        found = model.predict(same)
        ids = plain["id"] if found["id"].type == plain["id"].type else pa.array(range(200))
        assert found.set_column(0, "id", ids).equals(plain.set_column(0, "id", ids))
    wanted = torch.tensor(table["embedding"].to_pylist())
    assert torch.equal(model.embed(data), wanted)
    logits = model(data.x, data.edge_index)
    values = list(
        columns.select([name for name in columns.column_names if name.startswith(prefix)]).to_pydict().values()
    )
    shares = {"multiclass": logits.softmax(1), "regression": logits}.get(task, logits.sigmoid())
    shares = torch.cat([1 - shares, shares], 1) if task == "binary" else shares
    assert torch.allclose(shares, torch.tensor(values).T, rtol=1e-4, atol=1e-6)


def _as_pyg(data: revgnn.Dataset) -> Data:
    masks = {}
    for split, name in (("train", "train_mask"), ("valid", "val_mask"), ("test", "test_mask")):
        masks[name] = torch.zeros(data.num_nodes, dtype=torch.bool)
        masks[name][data.splits[split]] = True
    return Data(x=data.x, edge_index=data.edge_index, y=data.y, **masks)


def test_predictions_of_data_with_weights_are_those_of_its_data_set(tmp_path: Path) -> None:
    make = torch.Generator().manual_seed(0)
    edges = torch.randint(30, (2, 120), generator=make)
    data = Data(x=torch.randn(30, 4, generator=make), edge_index=edges, y=torch.arange(30) % 3)
    data.edge_weight = torch.rand(120, generator=make)
    made = revgnn.dataset_from_pyg(data, splits={"train": torch.arange(20), "valid": torch.arange(20, 30)})
    run = revgnn.Experiment(
        dataset=revgnn.DatasetConfig(name="karate"),
        model=ModelConfig(conv="sage", num_layers=2, hidden_channels=8),
        train=revgnn.TrainConfig(epochs=1),
    )
    revgnn.run_experiment(run, str(tmp_path / "run"), name="run", data_root=str(tmp_path), device="cpu", dataset=made)
    model = revgnn.load(tmp_path / "run", device="cpu")
    assert torch.equal(model.embed(data), model.embed(made))
    assert model.predict(data)["prediction"].equals(model.predict(made)["prediction"])
    with pytest.raises(ValueError, match="device='gpu'"):
        revgnn.load(tmp_path / "run", device="gpu")  # type: ignore[arg-type]


def test_a_model_in_python_says_what_it_cannot_take(runs: dict[str, tuple[GraphSource, Path, Path]]) -> None:
    model = revgnn.load(runs["multiclass"][2], device="cpu")
    bare = Data(x=torch.randn(3, 5), edge_index=torch.tensor([[0, 1], [1, 2]]))
    table = model.predict(bare)
    assert table["split"].null_count == 3
    assert set(table["prediction"].to_pylist()) <= set(CLASSES)
    with pytest.raises(ValueError, match="nodes must have 5 features, got 4"):
        model.predict(Data(x=torch.randn(3, 4), edge_index=bare.edge_index))
    with pytest.raises(ValueError, match="data.edge_index is missing"):
        model.embed(Data(x=torch.randn(3, 5)))
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        revgnn.load(runs["multiclass"][1])


def test_a_model_of_graphs_predicts_one_of_pyg_or_a_batch_of_several() -> None:
    info = GraphInfo(level="graph", num_outputs=2, class_names=("no", "yes"), in_channels=4, undirected=True)
    network = ModelConfig(conv="sage", num_layers=2, hidden_channels=8, norm="layer")
    run = Experiment(
        dataset=DatasetConfig(name="ogbg-molhiv"), model=network, train=TrainConfig(epochs=1), batch_size=2
    )
    model = TrainedModel(run, info, make_model(run, info)).eval()
    graphs = [
        Data(x=torch.randn(size, 4), edge_index=torch.stack([torch.arange(size), (torch.arange(size) + 1) % size]))
        for size in (3, 1, 5)
    ]
    batch = Batch.from_data_list(graphs)
    table = model.predict(batch)
    assert table["id"].to_pylist() == [0, 1, 2] and table["split"].null_count == 3
    hidden = model.embed(batch)
    for number, graph in enumerate(graphs):
        alone = model.predict(graph)
        assert alone["prediction"][0] == table["prediction"][number]
        assert alone["probabilities"][0].as_py() == pytest.approx(table["probabilities"][number].as_py(), abs=1e-5)
        assert torch.allclose(model.embed(graph)[0], hidden[number], atol=1e-6)
    # Edges that lie in another order, and masks and labels of graphs.
    mixed = Batch.from_data_list(graphs)
    mixed.edge_index = mixed.edge_index.flip(1)
    mixed.y, mixed.test_mask = torch.tensor([0, 1, 1]), torch.tensor([False, True, True])
    known = model.predict(mixed)
    assert known["split"].to_pylist() == [None, "test", "test"]
    assert known["prediction"] == table["prediction"]
    mixed.batch = mixed.batch.flip(0)
    with pytest.raises(ValueError, match="data.batch must ascend"):
        model.predict(mixed)


@pytest.mark.slow
def test_two_ranks_describe_what_one_process_describes(
    runs: dict[str, tuple[GraphSource, Path, Path]], tmp_path: Path
) -> None:
    words = ["train", str(runs["regression"][1]), *SMALL, "--set", "loader.kind=random", "--set", "loader.num_parts=4"]
    words += [
        "--set",
        "model.norm=layer",
        "--set",
        "loader.eval_parts=3",
        "--set",
        "loader.eval_views=2",
        "--set",
        "train.epochs=3",
        "--out",
    ]
    assert main([*words, str(tmp_path / "one"), "--set", "train.accumulate=2"]) == 0
    code, said = launch("-m", "revgnn", *words, str(tmp_path / "two"))
    assert code == 0, said
    one, two = _report(tmp_path / "one")["evaluation"], _report(tmp_path / "two")["evaluation"]
    assert read_schema(tmp_path / "two").target_scale == read_schema(tmp_path / "one").target_scale
    assert two["metrics"]["test"]["network"] == pytest.approx(one["metrics"]["test"]["network"], rel=1e-3)
    assert two["rows"] == one["rows"]
    assert [row["id"] for row in two["worst"][:3]] == [row["id"] for row in one["worst"][:3]]
