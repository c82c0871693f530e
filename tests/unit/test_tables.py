"""A user's own tables: what is read of good ones, and that every fault of bad ones is said at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revgnn.data import Columns, Dataset, read_tables

Table = dict[str, Any]

FILL = "set fill (--fill mean, in training --set dataset.columns.fill=mean), or drop them"


def good_nodes() -> Table:
    return {
        "id": [10, 30, 20, 40],
        "x": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], pa.list_(pa.float32(), 2)),
        "label": [0, 1, 1, 0],
        "split": ["train", "valid", "test", "train"],
    }


def good_edges() -> Table:
    return {"src": [10, 40, 10, 10], "dst": [30, 20, 30, 10]}


def read(folder: Path, nodes: Table, edges: Table, columns: Columns | None = None) -> Dataset:
    pq.write_table(pa.table(nodes), folder / "nodes.parquet")
    pq.write_table(pa.table(edges), folder / "edges.parquet")
    return read_tables(folder, Columns(scale="none") if columns is None else columns)


def faults(folder: Path, nodes: Table, edges: Table, columns: Columns | None = None) -> list[str]:
    """Read tables that must not be readable; return the lines of the complaint after its first."""
    with pytest.raises(ValueError, match=r"the tables in .* have \d+ faults?:") as caught:
        read(folder, nodes, edges, columns)
    head, *lines = str(caught.value).split("\n")
    assert f" {len(lines)} fault" in head
    return [line.strip() for line in lines]


def test_integer_ids_become_rows(tmp_path: Path) -> None:
    data = read(tmp_path, good_nodes(), good_edges())
    assert data.edge_index.tolist() == [[0, 3, 0, 0], [1, 2, 1, 0]]
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert data.x.dtype == torch.float32
    assert data.y.tolist() == [0, 1, 1, 0]
    assert (data.info.num_outputs, data.info.class_names, data.edge_attr) == (2, None, None)
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {"train": [0, 3], "valid": [1], "test": [2]}
    assert data.node_ids.to_pylist() == [10, 30, 20, 40]
    assert (data.info.level, data.info.task, data.info.metric, data.name) == (
        "node",
        "multiclass",
        "accuracy",
        tmp_path.name,
    )


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_ids_labels_and_splits(tmp_path: Path, kind: pa.DataType) -> None:
    nodes = good_nodes() | {
        "id": pa.array(["a", "b", "c", "d"], kind),
        "label": pa.array(["wine", None, "ale", "ale"], kind),
        "split": pa.array(["train", None, "test", "valid"], kind),
    }
    data = read(tmp_path, nodes, {"src": pa.array(["d", "a"], kind), "dst": pa.array(["a", "c"], kind)})
    assert data.edge_index.tolist() == [[3, 0], [0, 2]]
    assert data.info.class_names == ("ale", "wine")
    assert data.y.tolist() == [1, -1, 0, 0]
    assert data.splits["train"].tolist() == [0]


@pytest.mark.parametrize(
    ("labels", "y", "names"),
    [
        ([1, -1, -1, 1], [1, 0, 0, 1], ("-1", "1")),
        (pa.array([0, 1, 2, 2], pa.int16()), [0, 1, 2, 2], None),
        (pa.array([1.0, None, 0.0, 0.0]), [1, -1, 0, 0], None),
        ([1.0, float("nan"), 3.0, 1.0], [0, -1, 1, 0], ("1", "3")),
        ([True, False, True, True], [1, 0, 1, 1], ("false", "true")),
    ],
)
def test_labels_are_numbered_in_ascending_order(
    tmp_path: Path, labels: Any, y: list[int], names: tuple[str, ...] | None
) -> None:
    nodes = good_nodes() | {"label": labels, "split": ["train", None, "test", "valid"]}
    data = read(tmp_path, nodes, good_edges())
    assert data.y.tolist() == y
    assert data.info.class_names == names


def test_features_default_to_x_alone(tmp_path: Path) -> None:
    data = read(tmp_path, good_nodes() | {"year": [2001, 2002, 2003, 2004]}, good_edges())
    assert tuple(each.name for each in data.info.features) == ("x",)


def test_without_x_every_free_numeric_column_is_taken_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = good_nodes()
    del nodes["x"]
    nodes |= {"age": [1, 2, 3, 4], "tall": [True, False, True, False], "word": ["a", "b", "c", "d"]}
    nodes |= {"more": [[0.5, 1.5]] * 4}
    with caplog.at_level(logging.INFO, logger="revgnn"):
        data = read(tmp_path, nodes, good_edges())
    assert tuple(each.name for each in data.info.features) == ("age", "tall", "more")
    assert data.x.tolist() == [[1, 1, 0.5, 1.5], [2, 0, 0.5, 1.5], [3, 1, 0.5, 1.5], [4, 0, 0.5, 1.5]]
    assert "nodes.parquet: features age, tall, more (2 columns)" in caplog.text


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    nodes = {
        "paper": [1, 2],
        "topic": ["a", "b"],
        "part": ["train", "valid"],
        "p": [0.5, 1.5],
        "q": [2, 3],
        "x": [9, 9],
    }
    edges = {"cites": [1], "cited": [2], "weight": [0.25], "age": pa.array([3], pa.uint8())}
    columns = Columns(
        id="paper", label=("topic",), split="part", features=("q", "p"), src="cites", dst="cited",
        edge_features=("weight", "age"), scale="none",
    )  # fmt: skip
    data = read(tmp_path, nodes, edges, columns)
    assert data.x.tolist() == [[2, 0.5], [3, 1.5]]
    assert data.edge_attr is not None
    assert data.edge_attr.tolist() == [[0.25, 3.0]]
    assert tuple(each.name for each in data.info.features) == ("q", "p")


def test_edge_attr_is_taken_by_default_and_follows_its_edge(tmp_path: Path) -> None:
    edges = good_edges() | {"edge_attr": [[float(i), -float(i)] for i in range(4)], "other": [1, 2, 3, 4]}
    data = read(tmp_path, good_nodes(), edges)
    assert data.edge_attr is not None
    assert data.edge_attr.tolist() == [[i, -i] for i in range(4)]


def test_no_edges_are_legal(tmp_path: Path) -> None:
    assert read(tmp_path, good_nodes(), {"src": [], "dst": []}).edge_index.shape == (2, 0)
    nothing = pa.array([], pa.int64())
    assert read(tmp_path, good_nodes(), {"src": nothing, "dst": nothing}).num_edges == 0


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nodes\.parquet and edges\.parquet not found in .*dataset\.path"):
        read_tables(tmp_path / "nowhere", Columns())


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    nodes: Table = {
        "id": [1, 2, 2, 1, 5],
        "x": [[1.0], [float("nan")], [2.0], [float("inf")], [None]],
        "label": ["a", "b", None, "a", "b"],
        "split": ["train", "hold-out", "test", "train", "valid"],
    }
    assert faults(tmp_path, nodes, {"src": [1, 9, 8], "dist": [1, 1, 1]}) == [
        "edges.parquet, column dst: is missing; the columns are src, dist; did you mean dist?; name another "
        "(--dst NAME, in training --set dataset.columns.dst=NAME)",
    ]
    assert set(faults(tmp_path, nodes, {"src": [1, 9, 8], "to": [1, 1, None]})) == {
        "nodes.parquet, column id: 2 rows, first row 2 (2), with an id that an earlier row has; "
        "give every node one row",
        f"nodes.parquet, column x: 3 rows, first row 1, with NaN, null or infinity; {FILL}",
        "nodes.parquet, column label: 1 row, first row 2, in a split but without a label; label them or null their "
        "split",
        "nodes.parquet, column split: 1 row, first row 1, outside train, valid, test; rename or null them",
        "edges.parquet, column src: 2 rows, first row 1 (9), with an id that the nodes do not have; add the node or "
        "drop the edge",
        "edges.parquet, column to: 1 row, first row 2, without an id; give each one",
    }


@pytest.mark.parametrize(
    ("nodes", "edges", "line"),
    [
        ({"id": [1, None, 3, None]}, {}, "column id: 2 rows, first row 1, without an id"),
        ({"id": [0.5, 1.5, 2.0, 3.5]}, {}, "column id: 3 rows, first row 0, with an id that is no whole number; write"),
        ({"id": [True, False, True, False]}, {}, "column id: holds bool; ids are integers or strings"),
        (
            {"id": pa.array([2**63, 10, 20, 30], pa.uint64())},
            {"src": [10], "dst": [20]},
            "column id: 1 row, first row 0, with an id of 2^63 or above",
        ),
        ({"label": [None, 1, 1, 0]}, {}, "column label: 1 row, first row 0, in a split but without a label"),
        ({"label": [b"a", b"b", b"a", b"b"]}, {}, "column label: holds binary; classes and categories are"),
        ({"label": [3, 3, 3, 3]}, {}, "column label: has 1 class; classification needs 2 to"),
        ({"label": [-1, 0, 1, 2]}, {}, "column label: 1 rows have the label -1, which usually means an unknown one"),
        ({"split": ["test", "valid", "test", None]}, {}, "column split: no row says train"),
        ({"split": [None, None, None, "train"], "label": [0, 1, 1, None]}, {}, "first row 3, in a split but without"),
        ({"x": [b"a", b"b", b"c", b"d"]}, {}, "column x: holds binary; it must hold numbers or lists of numbers"),
        ({"x": [[1.0], [1.0, 2.0], [1.0], []]}, {}, "column x: 2 rows, first row 1, of another length than 1"),
        ({"x": [[1.0], None, [1.0], None]}, {}, "column x: 2 rows, first row 1, without a value"),
        (
            {"x": pa.array([[1.0, 2.0], None, [1.0, 2.0], None], pa.list_(pa.float64(), 2))},
            {},
            "column x: holds fixed_size_list<element: double>[2] with missing lists, which Arrow cannot",
        ),
        ({"x": [1.0, 1e300, 0.0, 0.0]}, {}, "column x: 1 row, first row 1, with NaN, null or infinity"),
        (
            {},
            {"src": ["10", "40", "010", "ten"]},
            "column src: 2 rows, first row 2, with an id that is no whole number, as the ids of the nodes are",
        ),
        ({}, {"dst": [10, None, 10, 10]}, "edges.parquet, column dst: 1 row, first row 1, without an id"),
        ({}, {"edge_attr": [0.0, 1.0, None, 2.0]}, "edges.parquet, column edge_attr: 1 row, first row 2, without"),
    ],
)
def test_each_fault_names_file_column_row_and_number(tmp_path: Path, nodes: Table, edges: Table, line: str) -> None:
    lines = faults(tmp_path, good_nodes() | nodes, good_edges() | edges)
    assert len(lines) == 1
    assert line in lines[0]


def test_missing_and_doubled_columns_are_faults(tmp_path: Path) -> None:
    nodes = good_nodes()
    del nodes["label"], nodes["x"]
    lines = faults(tmp_path, nodes, good_edges(), Columns(features=("height",)))
    assert [line.split(";")[0] for line in lines] == [
        "nodes.parquet, column label: is missing",
        "nodes.parquet, column height: is missing",
    ]
    with pytest.raises(ValueError, match=r"nodes.parquet has no column of features: .*\(label_id: ids"):
        read(tmp_path, {"id": [1, 2], "label_id": [1, 2], "label": [0, 1]}, {"src": [1], "dst": [2]})
    doubled = pa.Table.from_arrays([pa.array([10]), pa.array([10]), pa.array([20])], names=["src", "dst", "dst"])
    pq.write_table(pa.table(good_nodes()), tmp_path / "nodes.parquet")
    pq.write_table(doubled, tmp_path / "edges.parquet")
    with pytest.raises(ValueError, match=r"edges\.parquet, column dst: occurs 2 times"):
        read_tables(tmp_path, Columns())


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"PAR1" + bytes(100) + b"PAR1"])
def test_unreadable_files_are_one_fault_each(tmp_path: Path, content: bytes) -> None:
    for name in ("nodes.parquet", "edges.parquet"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="have 2 faults") as caught:
        read_tables(tmp_path, Columns())
    assert str(caught.value).count("cannot be read: ") == 2


def test_damage_within_a_file_is_a_fault(tmp_path: Path) -> None:
    read(tmp_path, good_nodes(), good_edges())
    path = tmp_path / "nodes.parquet"
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"nodes\.parquet: 1 row, first row 0, cannot be read from about"):
        read_tables(tmp_path, Columns())


_IDS = st.one_of(st.none(), st.integers(0, 6))
_NUMBER = st.one_of(st.none(), st.floats(allow_nan=True, width=32))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            _IDS, _NUMBER, st.one_of(st.none(), st.integers(0, 2)), st.sampled_from(["train", "valid", "later", None])
        ),
        max_size=6,
    ),
    pairs=st.lists(st.tuples(_IDS, _IDS), max_size=6),
)
def test_tables_are_refused_exactly_when_a_rule_is_broken(
    tmp_path: Path, rows: list[tuple[Any, Any, Any, Any]], pairs: list[tuple[Any, Any]]
) -> None:
    ids, x, labels, split = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    sources, targets = ([pair[end] for pair in pairs] for end in (0, 1))
    broken = {
        "column id": None in ids or len(set(ids)) < len(ids),
        "column x": any(value is None or not np.isfinite(value) for value in x),
        "column label": len({label for label in labels if label is not None}) < 2
        or any(a is None and b in ("train", "valid") for a, b in zip(labels, split, strict=True)),
        "column split": "later" in split or "train" not in split,
        "column src": None in sources or (None not in ids and not set(sources) <= set(ids)),
        "column dst": None in targets or (None not in ids and not set(targets) <= set(ids)),
    }
    nodes = {
        "id": pa.array(ids, pa.int64()),
        "x": pa.array(x, pa.float32()),
        "label": pa.array(labels, pa.int64()),
        "split": pa.array(split, pa.string()),
    }
    edges = {"src": pa.array(sources, pa.int64()), "dst": pa.array(targets, pa.int64())}
    if any(broken.values()):
        lines = faults(tmp_path, nodes, edges)
        assert {key for key in broken if any(key + ":" in line for line in lines)} == {
            k for k, bad in broken.items() if bad
        }
    else:
        data = read(tmp_path, nodes, edges)
        assert [(ids[a], ids[b]) for a, b in data.edge_index.T.tolist()] == pairs
        assert data.num_nodes == len(rows)
