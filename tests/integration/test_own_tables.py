"""Ordinary tables of people who bring their own data, through the command line: features and files as they come."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from revgnn.cli import main
from revgnn.data import Columns, Dataset, Store, read_tables
from revgnn.data.encodings import NumberEncoding, TimeEncoding
from revgnn.data.ondisk.manifest import MANIFEST, _digest
from revgnn.data.prepare import read_config
from revgnn.data.prepare.csv_format import CsvFormat

N = 60
INFERRED = Columns()
KIND = np.arange(N) % 3
NUMBERS = np.random.default_rng(0).normal(size=(N, 2)) + np.eye(3, 2)[KIND] * 3
EDGES = {"src": list(range(N - 3)), "dst": list(range(3, N))}
SMALL = ["model.num_layers=2", "model.hidden_channels=8", "train.epochs=2", "train.patience=none"]


def nodes(**columns: Any) -> dict[str, Any]:
    """A table of nodes with two numbers and a label, some columns replaced (``None`` drops one)."""
    table: dict[str, Any] = {
        "id": list(range(N)),
        "a": NUMBERS[:, 0],
        "b": NUMBERS[:, 1],
        "label": np.array(["red", "green", "blue"])[KIND],
        "split": [["train", "train", "valid", "test"][k % 4] for k in range(N)],
    }
    return {name: values for name, values in (table | columns).items() if values is not None}


class Folder:
    """A folder with two tables, prepared and read in memory."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = path, capsys

    def write(self, node_table: Any, edge_table: Any = EDGES) -> Folder:
        """Write tables: columns as Parquet, text as CSV."""
        for name, table in (("nodes", node_table), ("edges", edge_table)):
            if isinstance(table, str | bytes):
                data = table if isinstance(table, bytes) else table.encode()
                (self.path / f"{name}.csv").write_bytes(data)
            else:
                pq.write_table(pa.table(table), self.path / f"{name}.parquet")
        return self

    def prepare(self, *flags: str) -> tuple[Dataset, str]:
        """Prepare the tables; return the graph and what was said."""
        tables = [str(next(self.path.glob(f"{name}*"))) for name in ("nodes", "edges")]
        out = self.path / f"graph{len(list(self.path.iterdir()))}"
        code = main(["prepare", *tables, "--out", str(out), "--parts", "2", *flags])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return Store.open(out).load(), said.err

    def refused(self, *flags: str) -> str:
        """Prepare tables that cannot be; return the message."""
        tables = [str(next(self.path.glob(f"{name}*"))) for name in ("nodes", "edges")]
        assert main(["prepare", *tables, "--out", str(self.path / "none"), *flags]) == 2
        assert not (self.path / "none").exists()
        return self._capsys.readouterr().err.partition("error: ")[2]

    def agreed(self, *flags: str, columns: Columns = INFERRED, task: str | None = None) -> tuple[Dataset, str]:
        """Prepare, and see that training on the folder reads the same graph; return it in the order of the rows."""
        prepared, said = self.prepare(*flags)
        read = read_tables(self.path, columns, task=task)
        order = np.argsort(prepared.node_ids.to_pylist(), kind="stable")
        rows = np.argsort(read.node_ids.to_pylist(), kind="stable")
        assert prepared.info.features == read.info.features
        assert (prepared.info.task, prepared.info.class_names) == (read.info.task, read.info.class_names)
        assert np.array_equal(prepared.x[order], read.x[rows])
        assert np.array_equal(prepared.y[order], read.y[rows], equal_nan=prepared.y.is_floating_point())
        names = [np.array(data.node_ids.to_pylist(), object) for data in (prepared, read)]
        pairs = [
            sorted(zip(*(ids[end].tolist() for end in data.edge_index.numpy()), strict=True))
            for ids, data in zip(names, (prepared, read), strict=True)
        ]
        assert pairs[0] == pairs[1]
        for split in ("train", "valid", "test"):
            assert set(names[0][prepared.splits[split].numpy()]) == set(names[1][read.splits[split].numpy()])
        return read, said


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


def column(data: Dataset, name: str) -> np.ndarray[Any, Any]:
    """The columns of x that a column of the table became."""
    start = 0
    for feature in data.info.features:
        if feature.name == name:
            return data.x[:, start : start + feature.width].numpy()
        start += feature.width
    raise AssertionError(f"{name} is no feature")


# ------------------------------------------------------------------ features as they come
def test_numbers_are_standardised_by_the_training_nodes(folder: Folder) -> None:
    income = np.random.default_rng(1).lognormal(10, 1, N)
    folder.write(nodes(income=income, flag=[k % 5 == 0 for k in range(N)], year=np.arange(N) + 1950))
    data, said = folder.agreed()
    train = data.splits["train"].numpy()
    for name in ("income", "year"):
        assert column(data, name)[train].mean() == pytest.approx(0, abs=1e-5)
        assert column(data, name)[train].std() == pytest.approx(1, abs=1e-5)
    assert set(column(data, "flag").ravel()) == {0, 1}, "flags keep their values"
    assert "are those of the training nodes" in said
    everyone, said = folder.agreed("--statistics", "all", columns=Columns(statistics="all"))
    assert column(everyone, "income").mean() == pytest.approx(0, abs=1e-5)
    assert "are those of all nodes" in said
    plain, _ = folder.agreed("--scale", "none", columns=Columns(scale="none"))
    assert np.allclose(column(plain, "income").ravel(), income)
    robust, _ = folder.agreed("--scale", "robust", columns=Columns(scale="robust"))
    assert np.median(column(robust, "income")[train]) == pytest.approx(0, abs=1e-5)
    ranked, _ = folder.agreed("--scale", "quantile", columns=Columns(scale="quantile"))
    assert np.abs(column(ranked, "income")).max() == pytest.approx(3**0.5, abs=1e-5)
    encoding = data.info.features[0].encoding
    assert isinstance(encoding, NumberEncoding) and encoding.center == (pytest.approx(NUMBERS[train, 0].mean()),)


def test_missing_numbers_are_filled_on_request_and_told(folder: Folder) -> None:
    holes = [None if k % 7 == 3 else float(k) for k in range(N)]
    folder.write(nodes(a=holes))
    assert "column a: 9 rows, first row 3, without a value; set fill (--fill mean, in training" in folder.refused()
    missing = np.array([value is None for value in holes])
    train = np.array([k % 4 < 2 for k in range(N)])
    known = np.array([value for value, use in zip(holes, train, strict=True) if use and value is not None])
    fills = {"mean": known.mean(), "median": np.median(known), "zero": 0.0, "category": known.mean()}
    for fill, value in fills.items():
        data, _ = folder.agreed("--fill", fill, columns=Columns(fill=fill))
        assert column(data, "a").shape == (N, 2)
        assert np.array_equal(column(data, "a")[:, 1] == 1, missing)
        scaled = (value - known.mean()) / known.std()
        assert np.allclose(column(data, "a")[missing, 0], scaled, atol=1e-5), fill
        assert column(data, "b").shape == (N, 1), "nothing is missing there"


def test_booleans_categories_times_and_tags_are_features(folder: Folder) -> None:
    days = [datetime.datetime(2020, 1, 1) + datetime.timedelta(days=k) for k in range(N)]
    folder.write(
        nodes(
            vip=[k % 2 == 0 for k in range(N)],
            country=pa.array([["de", "fr", "it", "never trained"][3 if k == 2 else k % 3] for k in range(N)]),
            created=pa.array(days, pa.timestamp("s")),
            tags=[["x", "y"][: k % 3] for k in range(N)],
            bio=[f"nobody writes this twice, {k}" for k in range(N)],
        )
    )
    data, said = folder.agreed()
    widths = {feature.name: feature.width for feature in data.info.features}
    assert widths == {"a": 1, "b": 1, "vip": 1, "country": 3, "created": 5, "tags": 2}
    assert column(data, "country")[2].tolist() == [0, 0, 0], "a value that no training node has"
    assert column(data, "country")[:2].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert column(data, "tags")[:3].tolist() == [[0, 0], [1, 0], [1, 1]]
    encoding = {feature.name: feature.encoding for feature in data.info.features}["created"]
    assert isinstance(encoding, TimeEncoding)
    age = column(data, "created")[:, 0] * encoding.scale + encoding.center
    assert np.allclose(age[0] - age[10], 10), "the age is in days"
    assert np.allclose(column(data, "created")[::7, 3], column(data, "created")[0, 3], atol=1e-4), "the day of the week"
    assert "column bio is left out: texts, 60 different ones in the first 60 rows; make numbers of them" in said
    assert "column bio: holds texts, " in folder.refused("--features", "bio")


def test_many_tags_are_hashed_and_missing_ones_filled(folder: Folder) -> None:
    folder.write(nodes(tags=[None if k == 5 else [f"t{k}", f"u{k}", f"v{k}", f"w{k}", f"x{k}"] for k in range(N)]))
    data, _ = folder.agreed("--fill", "category", columns=Columns(fill="category"))
    assert column(data, "tags").shape == (N, 129)
    assert column(data, "tags")[5].tolist() == [0] * 128 + [1]
    assert set(column(data, "tags").ravel()) == {0, 1}


def test_large_integers_and_unix_seconds_are_noticed(folder: Folder) -> None:
    folder.write(nodes(created=1_600_000_000 + np.arange(N), serial=2**40 + np.arange(N)))
    data, said = folder.agreed()
    assert "column created: looks like seconds since 1970; encode: time gives the age" in said
    assert len(set(column(data, "created").ravel())) == N, "the seconds are told apart"
    _, said = folder.agreed("--scale", "none", columns=Columns(scale="none"))
    assert "column serial: holds integers above 2^24, of which float32 loses digits" in said


def test_encodings_are_stored_and_applied_to_other_graphs(folder: Folder, tmp_path: Path) -> None:
    folder.write(nodes(country=["de", "fr"] * (N // 2)))
    run, out = tmp_path / "run", tmp_path / "answers.parquet"
    words = ["train", str(tmp_path), "--model", "revsage", "--out", str(run), "--device", "cpu"]
    assert main([*words, *(f"--set={change}" for change in SMALL)]) == 0
    other = tmp_path / "other"
    other.mkdir()
    table = {"id": [0, 1], "a": NUMBERS[:2, 0], "b": NUMBERS[:2, 1], "country": ["fr", "es"]}
    Folder(other, folder._capsys).write(table, {"src": [0], "dst": [1]})
    trained = read_tables(tmp_path)
    data = read_tables(other, like=trained.info)
    assert data.info.features == trained.info.features
    assert np.allclose(data.x[:, :2], trained.x[:2, :2]) and column(data, "country").tolist() == [[0, 1], [0, 0]]
    assert main(["predict", str(run), "--data", str(other), "--out", str(out), "--device", "cpu"]) == 0
    assert pq.read_table(out)["id"].to_pylist() == [0, 1]
    tables = [str(other / "nodes.parquet"), str(other / "edges.parquet"), "--parts", "1", "--undirected"]
    alone = [*tables, "--out", str(other / "alone"), "--features", "a", "country", "--label", "b"]
    assert main(["prepare", *alone]) == 0
    folder._capsys.readouterr()
    assert main(["predict", str(run), "--data", str(other / "alone"), "--out", str(out), "--device", "cpu"]) == 2
    assert "column b is missing" in folder._capsys.readouterr().err
    assert main(["prepare", *tables, "--out", str(other / "alike"), "--like", str(run)]) == 0
    assert Store.open(other / "alike").info.features == trained.info.features
    assert main(["predict", str(run), "--data", str(other / "alike"), "--out", str(out), "--device", "cpu"]) == 0


def test_a_graph_of_before_has_no_encodings_and_is_read(folder: Folder, tmp_path: Path) -> None:
    folder.write(nodes())
    folder.prepare()
    (path,) = tmp_path.glob(f"*/{MANIFEST}")
    whole = json.loads(path.read_text())
    for feature in whole["content"]["features"]:
        del feature["encoding"]
    del whole["content"]["edge_weight"]
    whole["sha256"] = _digest(whole["content"])
    path.write_text(json.dumps(whole))
    assert Store.open(path.parent).info.features[0].encoding is None


def test_weights_of_edges_multiply_messages_and_what_is_ignored_is_said(folder: Folder, tmp_path: Path) -> None:
    weight = [k % 5 / 4 for k in range(N - 3)]
    folder.write(nodes(), EDGES | {"weight": weight, "kind": ["a", "b", "c"] * 19})
    data, said = folder.agreed()
    assert data.info.edge_weight and data.edge_attr is not None and data.edge_attr[:, 0].tolist() == weight
    assert "edge weights: weight (--edge-features makes a feature of it)" in said
    assert "column edges.kind is left out: no feature by default (--edge-features, --weight)" in said
    words = ["train", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu", "--model"]
    few = ["--set=model.num_layers=3", "--set=model.hidden_channels=12", "--set=train.epochs=1"]
    assert main([*words, "revgat", *few]) == 0
    said = folder._capsys.readouterr().err
    assert said.count("edge weights are ignored (weight): conv=gat reads none; gcn, sage and gen do") == 1
    assert "(--set dataset.columns.edge_features= makes a feature of it)" in said
    flags = ["--edge-features", "weight", "kind"]
    columns = Columns(edge_features=("weight", "kind"))
    features, _ = folder.agreed(*flags, columns=columns)
    assert not features.info.edge_weight and features.edge_attr is not None and features.edge_attr.shape == (N - 3, 4)
    assert features.edge_attr[:, 0].mean() == pytest.approx(0, abs=1e-6)
    folder.write(nodes(), EDGES | {"gain": [-1.0, *weight[1:]]})
    assert "column gain: 1 row, first row 0, with a weight below 0" in folder.refused("--weight", "gain")


# ------------------------------------------------------------------ the task
@pytest.mark.parametrize(
    ("columns", "task", "why"),
    [
        ({}, "multiclass", "label holds texts"),
        ({"label": KIND}, "multiclass", "label holds whole numbers, 3 different ones"),
        ({"label": None, "target": NUMBERS[:, 0] * 100}, "regression", "target holds numbers that are not whole"),
        ({"label": np.arange(N) * 7}, "regression", "label holds whole numbers, 60 different ones in 60 rows"),
        ({"label": None, "label_a": KIND == 0, "label_b": KIND == 1}, "multilabel", "label_a, label_b hold 0 and 1"),
        ({"label": None, "y0": NUMBERS[:, 0], "y1": NUMBERS[:, 1]}, "regression", "y0, y1 hold numbers"),
        ({"label": [[int(k), 1 - int(k == 0)] for k in KIND == 0]}, "multilabel", "label hold 0 and 1"),
    ],
)
def test_the_task_follows_from_the_label(folder: Folder, columns: dict[str, Any], task: str, why: str) -> None:
    folder.write(nodes(**columns))
    data, said = folder.agreed()
    assert data.info.task == task
    assert f"task: {task}, because {why}" in said


def test_the_task_can_be_overridden(folder: Folder) -> None:
    folder.write(nodes(label=KIND))
    assert folder.agreed("--task", "regression", task="regression")[0].info.metric == "rmse"
    folder.write(nodes(label=np.where(KIND > 0, "yes", "no")))
    data, _ = folder.agreed("--task", "binary", task="binary")
    assert (data.info.task, data.info.class_names, data.y[:3].tolist()) == ("binary", ("no", "yes"), [[0], [1], [1]])


def test_an_unknown_label_is_a_fault_with_a_flag(folder: Folder) -> None:
    folder.write(nodes(label=np.where(np.arange(N) % 5 == 4, -1, KIND), split=None))
    assert "12 rows have the label -1, which usually means an unknown one" in folder.refused()
    with pytest.raises(ValueError, match="--set dataset.columns.unlabelled=-1"):
        read_tables(folder.path)
    data, said = folder.agreed("--unlabelled", "-1", columns=Columns(unlabelled=("-1",)))
    assert data.info.num_outputs == 3 and int((data.y < 0).sum()) == 12
    assert "80, 10 and 10% are drawn by the hash of the id" in said


# ------------------------------------------------------------------ files as they are
def lines(head: str, row: Any, sep: str = "\n") -> str:
    return sep.join([head, *(row(k) for k in range(N))]) + sep


def test_csv_of_the_continent(folder: Folder) -> None:
    german = "id;größe;geld;label\r\n" + "".join(
        f"{k};{k},5;1.{k:03},25;{['rot', 'grün'][k % 2]}\r\n" for k in range(N)
    )
    folder.write(german.encode("cp1252"), "src;dst\n1;2\n")
    data, said = folder.agreed("--scale", "none", columns=Columns(scale="none"))
    assert "nodes.csv: delimiter ';', decimal sign ',', thousands '.', encoding cp1252, null words none" in said
    assert data.x[:2].tolist() == [[0.5, 1000.25], [1.5, 1001.25]]
    assert data.info.class_names == ("grün", "rot")


def test_the_format_of_csv_can_be_set(folder: Folder) -> None:
    folder.write(
        lines("id|a|label", lambda k: f"{k}|{'missing' if k == 3 else '1,234'}|{'xy'[k % 2]}"), "src|dst\n1|2\n"
    )
    flags = ["--csv", "delimiter=|", "--csv", "decimal=,", "--csv", "null_words=missing", "--fill", "zero"]
    form = CsvFormat(delimiter="|", decimal=",", null_words=("missing",))
    data, _ = folder.agreed(*flags, "--scale", "none", columns=Columns(csv=form, fill="zero", scale="none"))
    assert column(data, "a")[2:4].tolist() == [[pytest.approx(1.234), 0], [0, 1]]
    assert "write FIELD=VALUE" in folder.refused("--csv", "delimeter=;")


@pytest.mark.parametrize("quote", ["", '"'])
def test_ids_keep_their_leading_zeros(folder: Folder, quote: str) -> None:
    folder.write(
        lines("id,a,label", lambda k: f"{quote}{k:03}{quote},{k},{'xy'[k % 2]}"), "src,dst\n001,002\n010,011\n"
    )
    data, _ = folder.agreed()
    assert sorted(data.node_ids.to_pylist())[:2] == ["000", "001"]
    assert data.num_edges == 2


def test_ids_of_two_types_are_cast_where_nothing_is_lost(folder: Folder) -> None:
    folder.write(nodes(), {"src": ["1", "2"], "dst": [3.0, 4.0]})
    data, said = folder.agreed()
    assert data.edge_index.tolist() == [[1, 2], [3, 4]]
    assert "column src: holds string, which is read as integers, like the ids of the nodes" in said
    folder.write(nodes(), {"src": ["1", "02"], "dst": [3, 4]})
    assert "column src: 1 row, first row 1, with an id that is no whole number" in folder.refused()
    folder.write(nodes(id=[str(k) for k in range(N)]), {"src": [1, 2], "dst": [3, 4]})
    assert folder.agreed()[0].edge_index.tolist() == [[1, 2], [3, 4]]


def test_a_null_word_is_a_null_and_late_text_is_one_row(folder: Folder) -> None:
    rows = lines("id,a,b,label", lambda k: f"{k},{'NA' if k == 9 else k},{k % 7},{'NA' if k == 11 else 'xy'[k % 2]}")
    folder.write(rows, "src,dst\n1.0,2.0\n")
    data, said = folder.agreed("--fill", "mean", columns=Columns(fill="mean"))
    assert [feature.name for feature in data.info.features] == ["a", "b"]
    assert column(data, "a")[9, 1] == 1 and "null words NA" in said
    assert data.y[11] == -1 and data.info.class_names == ("x", "y")
    late = "id,a,label\n" + "".join(f"{k},{k % 7},{'xy'[k % 2]}\n" for k in range(40_000)) + "40000,unknown,x\n"
    folder.write(late, "src,dst\n1,2\n")
    assert "nodes.csv, column a: 1 row, first row 40000, that is no number; mend it" in folder.refused()
    folder.write(late.replace("unknown", "3") + "A17,1,y\n", "src,dst\n1,A17\n")
    assert "A17" in folder.agreed()[0].node_ids.to_pylist(), "one textual id makes all of them texts"


def test_classes_that_pandas_widened_and_other_encodings_of_text(folder: Folder) -> None:
    rows = lines("id\ta\tlabel", lambda k: f"{k}\t{k % 7}\t{'' if k == 4 else f'{k % 3}.0'}")
    folder.write(rows.encode("utf-16"), "src\tdst\n1\t2\n")
    data, said = folder.agreed()
    assert (data.info.num_outputs, data.info.class_names, data.y[:5].tolist()) == (3, None, [0, 1, 2, 0, -1])
    assert "delimiter '\\t'" in said and "encoding utf-16" in said


def test_truth_values_and_dates_of_csv(folder: Folder) -> None:
    folder.write(
        lines(
            "id,ok,day,label", lambda k: f"{k},{['true', 'False', 'yes'][k % 3]},2020-01-{k % 28 + 1:02},{'xy'[k % 2]}"
        ),
        "src,dst\n1,2\n",
    )
    data, _ = folder.agreed()
    assert {feature.name: feature.width for feature in data.info.features} == {"ok": 1, "day": 5}
    assert column(data, "ok")[:3].ravel().tolist() == [1, 0, 1]


def test_hive_partitions_are_columns(tmp_path: Path, folder: Folder) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        for year in (2019, 2020):
            place = tmp_path / "nodes" / f"split={split}" / f"year={year}"
            place.mkdir(parents=True)
            rows = [k for k in range(N) if k % 3 == number and k % 2 == year % 2]
            table = {"id": rows, "a": [float(k) for k in rows], "label": ["xy"[k % 4 // 2] for k in rows]}
            pq.write_table(pa.table(table), place / "1.parquet")
    pq.write_table(pa.table(EDGES), tmp_path / "edges.parquet")
    data, _ = folder.agreed()
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 20, "valid": 20, "test": 20}
    assert [feature.name for feature in data.info.features] == ["a", "year"]


def test_the_index_of_pandas_and_masks_are_no_features(folder: Folder) -> None:
    masks = {
        f"{name}_mask": [k % 4 == number for k in range(N)] for number, name in enumerate(("train", "val", "test"))
    }
    folder.write(nodes(split=None, __index_level_0__=list(range(N)), customer_id=list(range(N)), **masks))
    data, said = folder.agreed()
    assert [feature.name for feature in data.info.features] == ["a", "b"]
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {
        name: list(range(number, N, 4)) for number, name in enumerate(("train", "valid", "test"))
    }
    assert "split: the masks train_mask, val_mask, test_mask" in said
    assert "column __index_level_0__ is left out: the index of pandas" in said
    assert "column customer_id is left out: ids, by its name" in said
    folder.write(nodes(split=None, **masks | {"val_mask": [True] * N}))
    assert "30 rows, first row 0, in two splits; leave each in one" in folder.refused()


@pytest.mark.parametrize("end", [".csv.gz", ".tsv.bz2"])
def test_compressed_csv_is_read_like_any_other(folder: Folder, tmp_path: Path, end: str) -> None:
    sign = "\t" if "tsv" in end else ","
    texts = {
        "nodes": lines(sign.join(["id", "a", "label"]), lambda k: sign.join([f"{k:03}", f"{k}.5", "xy"[k % 2]])),
        "edges": f"src{sign}dst\n001{sign}002\n",
    }
    for name, text in texts.items():
        with pa.output_stream(str(tmp_path / f"{name}{end}"), compression="detect") as file:
            file.write(text.encode())
    data, _ = folder.agreed("--scale", "none", columns=Columns(scale="none"))
    assert data.node_ids[:2].to_pylist() == ["000", "001"] and data.x[:2].tolist() == [[0.5], [1.5]]
    content = (tmp_path / f"nodes{end}").read_bytes()
    (tmp_path / f"nodes{end}").write_bytes(content[:-20])
    assert f"nodes{end}" in folder.refused()


def test_signs_of_money_and_percent_are_dropped_and_shown(folder: Folder) -> None:
    rows = lines(
        "id,price,share,fee,target",
        lambda k: f'{k},"$1,{k:03}.50",{k}.5%,{k}.25 €,{"-" if k % 2 else ""}$2{k:02}.125',
    )
    folder.write(rows, "src,dst\n1,2\n")
    data, said = folder.agreed("--scale", "none", columns=Columns(scale="none"))
    assert data.x[7].tolist() == [1007.5, 7.5, 7.25] and data.y[7, 0] == -207.125
    assert "thousands ',', units $%€ dropped" in said
    _, said = folder.agreed("--csv", "units=%", columns=Columns(csv=CsvFormat(units="%")), task="multiclass")
    assert "column price is left out: texts, 60 different ones" in said


def test_spaces_around_fields_are_dropped_and_shown(folder: Folder) -> None:
    rows = lines("id , a, label", lambda k: f'{k}, {k % 7 if k != 9 else ""}, "x {k % 2}"' if k % 5 else f"{k},1,x 0")
    folder.write(rows, "src dst weight\n1 2 0.5\n3 4 0.5\n")
    data, said = folder.agreed("--fill", "zero", "--scale", "none", columns=Columns(fill="zero", scale="none"))
    assert "spaces around fields dropped" in said and "edges.csv: delimiter ' '" in said
    assert data.x[8:10].tolist() == [[1, 0], [0, 1]] and data.num_edges == 2
    assert data.info.class_names == ("x 0", "x 1")
    assert folder.write(rows, "id, label\n1, 2\n").refused("--csv", "spaces=false").count("column src: is missing")


def test_a_table_that_says_something_else_is_told_so(folder: Folder, tmp_path: Path) -> None:
    cities = [f"city {k % 9}" for k in range(N)]
    weight = [-1.0] * (N - 3)
    folder.write(nodes(city=cities, label=["NA", "x", "y"] * 20), EDGES | {"weight": weight})
    _, said = folder.agreed()
    assert "column label: NA is a class, of 20 rows; unlabelled: NA makes it an unknown label" in said
    assert "column edges.weight is left out: a weight by its name, but some are below 0" in said
    ids = {"id": [f"k{k} " for k in range(N)]}
    assert "column src: 57 rows, first row 0 (0), with an id that the nodes" in folder.write(nodes(**ids)).refused()
    folder.write(nodes(id=[f"k{k}" for k in range(N)]), {"source_id": ["k1 "], "target_id": ["k2"]})
    assert "column source_id: 1 row, first row 0 ('k1 '), with an id that the nodes do not have" in folder.refused()
    folder.write(nodes(label=["x"] * N))
    assert "column label: has 1 class; classification needs 2 to" in folder.refused()
    folder.write(nodes(label=[datetime.date(2020, 1, 1)] * N))
    assert "column label: holds date32[day]; classes and categories are integers or strings" in folder.refused()
    (tmp_path / "nodes.parquet").unlink()
    folder.write("id,a,label\n")
    assert "nodes.csv has no rows; a graph needs at least one node" in folder.refused()
    (tmp_path / "nodes.csv").unlink()
    table = pa.table([pa.array(range(N)), *[pa.array(NUMBERS[:, 0])] * 2], names=["id", "a", "a"])
    pq.write_table(table, tmp_path / "nodes.parquet")
    with pytest.raises(ValueError, match=r"nodes.parquet, column a: occurs 2 times; keep one"):
        read_tables(tmp_path)


def test_many_categories_are_the_most_frequent_ones(folder: Folder) -> None:
    """Each of 120 has ten rows: the first hundred get a column, and the others are all 0."""
    rows = 1200
    folder.write(
        {
            "id": list(range(rows)),
            "shop": [f"s{k % 120:03}" for k in range(rows)],
            "label": ["xy"[k % 2] for k in range(rows)],
        }
    )
    data, said = folder.agreed()
    assert data.info.features[0].width == 100
    assert "column shop: of 120 categories the 100 most frequent ones get a column each" in said


def test_splits_are_read_in_the_words_that_people_use(folder: Folder) -> None:
    words = ["Train", "training ", "VAL", "validation", "dev", "testing"]
    folder.write(nodes(split=None, Split=[words[k % 6] for k in range(N)]))
    data, _ = folder.agreed()
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 20, "valid": 30, "test": 10}
    assert [feature.name for feature in data.info.features] == ["a", "b"]
    masks = {f"is_{name}": [k % 3 == at for k in range(N)] for at, name in enumerate(("train", "valid", "test"))}
    data, said = folder.write(nodes(split=None, **masks)).agreed()
    assert "split: the masks is_train, is_valid, is_test" in said
    assert [feature.name for feature in data.info.features] == ["a", "b"]


def test_numbers_of_databases_and_of_pandas(folder: Folder) -> None:
    """Decimals are numbers, and ids that a missing value or a database made 1.0 are 1."""
    prices = pa.array([decimal.Decimal(k) / 4 for k in range(N)], pa.decimal128(12, 2))
    ids, ends = pa.array(range(N), pa.decimal128(12, 2)), {"src": [1.0, 2.0], "dst": [3, 4]}
    folder.write(nodes(id=ids, a=prices, b=NUMBERS[:, 1].astype(np.float16)), ends)
    data, said = folder.agreed("--scale", "none", columns=Columns(scale="none"))
    assert data.x[:3, 0].tolist() == [0, 0.25, 0.5] and data.node_ids.type == pa.int64()
    assert "column id: holds decimal128(12, 2), which is read as integers\n" in said
    folder.write(nodes(id=[k + 0.5 * (k == 3) for k in range(N)]), ends)
    assert "column id: 1 row, first row 3, with an id that is no whole number; write ids as" in folder.refused()
    folder.write(nodes(id=[None if k == 3 else float(k) for k in range(N)]), ends)
    assert "column id: 1 row, first row 3, without an id" in folder.refused()


def test_what_cannot_be_read_is_named_with_the_remedy(folder: Folder, tmp_path: Path) -> None:
    days = [f"{k % 28 + 1:02}.{k % 12 + 1:02}.2020" for k in range(N)]
    folder.write(nodes(day=days))
    _, said = folder.agreed()
    assert "column day is left out: texts, 60 different ones in the first 60 rows; they look like dates: write" in said
    (tmp_path / "edges.parquet").unlink()
    (tmp_path / "edges.csv").write_text("7,3\n1,2\n")
    assert "edges.csv: cannot be read: its first line, 7,3, has numbers in place of names" in folder.refused()
    (tmp_path / "edges.csv").rename(tmp_path / "edges.jsonl")
    with pytest.raises(FileNotFoundError, match=r"edges.parquet not found in .* \(edges.jsonl: of no format that is"):
        read_tables(tmp_path)
    (tmp_path / "edges.jsonl").unlink()
    with pa.ipc.new_stream(str(tmp_path / "edges.arrow"), pa.table(EDGES).schema) as file:
        file.write_table(pa.table(EDGES))
    assert "edges.arrow: cannot be read: it is no Arrow file, perhaps a stream" in folder.refused()


@pytest.mark.parametrize("command", ["train", "plan"])
def test_an_error_of_the_tables_names_what_the_command_can_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "nodes.csv").write_text("id,label\n1,a\n2,b\n3,a\n")
    (tmp_path / "edges.csv").write_text("src,dst\n1,2\n2,3\n")
    assert main([command, str(tmp_path)]) == 2
    assert "no column of features: name some by --set dataset.columns.features=" in capsys.readouterr().err


# ------------------------------------------------------------------ --init
def test_init_takes_every_flag_and_writes_relative_paths(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = nodes(bio=[f"text {k}" for k in range(N)], other=list(range(N)))
    table = {"key": table.pop("id"), "topic": table.pop("label"), "fold": table.pop("split"), **table}
    folder.write(table, {"u": [1], "v": [2], "strength": [0.5], "age": [3]})
    (tmp_path / "work").mkdir()
    flags = ["--id", "key", "--label", "topic", "--split", "fold", "--src", "u", "--dst", "v", "--weight", "strength"]
    flags += ["--scale", "robust", "--fill", "mean", "--statistics", "all", "--parts", "3", "--undirected"]
    tables = [str(tmp_path / "nodes.parquet"), str(tmp_path / "edges.parquet")]
    assert main(["prepare", "--init", *tables, "--out", str(tmp_path / "work" / "graph.yaml"), *flags]) == 0
    path = tmp_path / "work" / "graph.yaml"
    text, config = path.read_text(), read_config(path)
    assert (config.nodes.id, config.nodes.label, config.edges.src, config.edges.weight) == (
        "key", ("topic",), "u", "strength",
    )  # fmt: skip
    assert (config.scale, config.fill, config.statistics, config.parts.count, config.direction) == (
        "robust", "mean", "all", 3, "undirected",
    )  # fmt: skip
    assert config.nodes.files == ("../nodes.parquet",)
    assert "# left out: bio: texts, 60 different ones in the first 60 rows" in text
    assert "# task: multiclass, because topic holds texts" in text
    assert main(["prepare", str(path), "--out", str(tmp_path / "one")]) == 0
    assert main(["prepare", *tables, "--out", str(tmp_path / "two"), *flags]) == 0
    one, two = (Store.open(tmp_path / name) for name in ("one", "two"))
    assert one.info.features == two.info.features and one.load().x.equal(two.load().x)
    (tmp_path / "graph.yaml").write_text(text.replace("../", ""))
    assert read_tables(tmp_path).info.features == one.info.features
    with pytest.raises(ValueError, match=r"goes with tables without graph.yaml"):
        read_tables(tmp_path, Columns(id="key"))


def test_the_default_settings_learn_from_unscaled_columns(folder: Folder) -> None:
    """An income in full and a year stand beside standardised columns; the neighbours tell more than the features."""
    rng = np.random.default_rng(0)
    kind = np.arange(240) % 3
    ends = rng.integers(0, 80, (2, 480)) * 3
    ends = ends + kind[rng.integers(0, 240, 480)]
    table = {
        "id": np.arange(240),
        "a": rng.normal(size=240) + kind,
        "income": rng.lognormal(10, 1, 240),
        "year": 1960 + rng.integers(0, 45, 240),
        "label": np.array(["red", "green", "blue"])[kind],
        "split": rng.choice(["train", "valid", "test"], 240, p=[0.5, 0.25, 0.25]),
    }
    folder.write(table, {"src": ends[0], "dst": ends[1]})
    run = folder.path / "run"
    assert main(["train", str(folder.path), "--out", str(run), "--device", "cpu"]) == 0
    report = json.loads((run / "report.json").read_text())
    scores = {name: found["accuracy"] for name, found in report["evaluation"]["metrics"]["test"].items()}
    assert scores["network"] > max(0.8, *(score for name, score in scores.items() if name != "network"))
