"""Prepared graphs from tables: equal to a plain account of the same tables, and every fault said in one report."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather

from revgnn.cli import main
from revgnn.data.hashing import hash_ids, uniform
from revgnn.data.ondisk.part import edge_keys
from revgnn.data.ondisk.store import Store
from revgnn.data.prepare import DropFaulty, GraphConfig, arrow_engine, read_config, stages
from revgnn.data.prepare.daft_engine import DaftEngine
from small_tables import Table, good_edges, good_nodes, make, report, write

MASK = 2**64 - 1

FILL = "set fill (--fill mean, in training --set dataset.columns.fill=mean), or drop them"


def plain_hash(value: int | str, seed: int) -> int:
    """The hash as its docstring tells it, one number at a time."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    base = 0x9E3779B97F4A7C15
    start = mix((seed + base) & MASK)
    if isinstance(value, int):
        return mix((value & MASK) ^ start)
    data = value.encode()
    return mix(sum(byte * pow(base, k, 2**64) for k, byte in enumerate(data)) & MASK ^ mix(len(data) ^ start))


@given(st.lists(st.text(max_size=12)), st.integers(0, 2**63 - 1))
@example(["", "é", "", "a\0b"], 7)
def test_the_hash_of_strings_is_what_it_says(ids: list[str], seed: int) -> None:
    whole = pa.array(["x", *ids], pa.large_string())
    assert hash_ids(whole[1:], seed).tolist() == [plain_hash(one, seed) for one in ids]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_the_hash_of_integers_is_what_it_says(ids: list[int]) -> None:
    assert hash_ids(pa.array(ids, pa.int64()), 3).tolist() == [plain_hash(one, 3) for one in ids]


def test_the_hash_never_changes() -> None:
    """Prepared graphs name the hash; another function needs another name."""
    assert hash_ids(pa.array(["", "node-1", "Ünïcode"], pa.large_string()), 0).tolist() == [
        3746585686858627171,
        18341931918791438125,
        8245146670859667304,
    ]
    assert hash_ids(pa.array([0, 1, -1], pa.int64()), 0).tolist() == [
        5197578548964807871,
        11385487063155714807,
        17492683508065611904,
    ]
    drawn = uniform(hash_ids(pa.array(range(20_000), pa.int64()), 1))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(2_000, rel=0.1)


# ---------------------------------------------------------------- equal to a plain account


@st.composite
def graphs(draw: Any) -> tuple[Table, Table, dict[str, Any]]:
    """Small tables: string or integer ids, repeats, self loops, isolated nodes, empty parts, edge features."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    kind = draw(st.sampled_from([st.integers(-(2**63), 2**63 - 1), texts]))
    ids = draw(st.lists(kind, min_size=2, max_size=8, unique=True))
    ends = draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), max_size=20))
    nodes = good_nodes(ids)
    own = pa.int64() if isinstance(ids[0], int) else pa.string()
    edges: Table = {name: pa.array([end[k] for end in ends], own) for k, name in enumerate(("src", "dst"))}
    edges["w"] = pa.array(np.arange(len(ends), dtype=np.float64))
    attr = draw(st.booleans())
    changes: dict[str, Any] = {
        "direction": draw(st.sampled_from(["directed", "undirected"])),
        "self_loops": not attr and draw(st.booleans()),
        "parts": {"count": draw(st.sampled_from([1, 2, 7])), "seed": draw(st.integers(0, 3))},
        "edges": {"files": "edges.parquet", "features": ["w"] if attr else []},
    }
    return nodes, edges, changes


def account(nodes: Table, edges: Table, changes: dict[str, Any]) -> tuple[list[Any], Counter[Any]]:
    """Ids in order, and edges as (source id, destination id, feature)."""
    parts = changes["parts"]
    part = {one: plain_hash(one, parts["seed"]) % parts["count"] for one in nodes["id"]}
    order = sorted(nodes["id"], key=lambda one: (part[one], one.encode() if isinstance(one, str) else one))
    attr = bool(changes["edges"]["features"])
    ends = zip(*(edges[name].to_pylist() for name in ("src", "dst", "w")), strict=True)
    found = [(src, dst, w if attr else None) for src, dst, w in ends]
    if changes["direction"] == "undirected":
        first: dict[Any, Any] = {}
        for src, dst, w in found + [(dst, src, w) for src, dst, w in found]:
            first.setdefault((src, dst), w)
        found = [(src, dst, w) for (src, dst), w in first.items()]
    if changes["self_loops"]:
        found = [one for one in found if one[0] != one[1]] + [(one, one, None) for one in order]
    return order, Counter(found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_a_prepared_graph_is_what_its_tables_say(drawn: tuple[Table, Table, dict[str, Any]]) -> None:
    nodes, edges, changes = drawn
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(make(write(Path(folder), nodes, edges, **changes)).folder)
        check(store, nodes, edges, changes)


def check(store: Store, nodes: Table, edges: Table, changes: dict[str, Any]) -> None:
    data = store.load()
    order, expected = account(nodes, edges, changes)
    ids = data.node_ids.to_pylist()
    assert ids == order
    place = {one: k for k, one in enumerate(nodes["id"])}
    rows = [place[one] for one in ids]
    assert data.x.tolist() == [[float(row), -float(row)] for row in rows]
    assert data.y.tolist() == [row % 2 for row in rows]
    for code, name in enumerate(("train", "valid", "test")):
        assert [rows[k] % 4 for k in data.splits[name].tolist()] == [code] * len(data.splits[name])
        assert len(data.splits[name]) == sum(row % 4 == code for row in rows) == store.manifest.splits[name]
    attr = [None] * data.num_edges if data.edge_attr is None else data.edge_attr[:, 0].tolist()
    ends = data.edge_index.tolist()
    assert Counter((ids[s], ids[d], w) for s, d, w in zip(*ends, attr, strict=True)) == expected
    assert store.manifest.info.counts.edges + sum(store.manifest.dropped.values()) == len(edges["src"]) * (
        2 if changes["direction"] == "undirected" else 1
    ) + len(ids) * bool(changes["self_loops"])


def test_formats_give_the_same_graph(tmp_path: Path) -> None:
    nodes, edges = good_nodes(["007", "NA", "é", "2020-01-01"]), {"src": ["007", "NA"], "dst": ["é", "2020-01-01"]}
    nodes = {"id": nodes["id"], "x": [0.5, 1.0, 2.0, 3.0], "label": [1, 2, 1, 2], "split": nodes["split"]}
    found = []
    for kind in ("parquet", "csv", "tsv", "arrow"):
        folder = tmp_path / kind
        folder.mkdir()
        config = write(folder, nodes, edges)
        for name in ("nodes", "edges"):
            table = pa.table(nodes if name == "nodes" else edges)
            if kind in ("csv", "tsv"):
                options = csv.WriteOptions(delimiter="," if kind == "csv" else "\t")
                csv.write_csv(table, folder / f"{name}.{kind}", options)
            elif kind == "arrow":
                feather.write_feather(table, str(folder / f"{name}.arrow"))
        config.write_text(config.read_text().replace(".parquet", f".{kind}"))
        data = Store.open(make(config).folder).load()
        found.append([data.node_ids.to_pylist(), data.x.tolist(), data.y.tolist(), data.edge_index.tolist()])
        assert data.info.class_names == ("1", "2")
    assert found[0] == found[1] == found[2] == found[3]


def test_files_by_pattern_and_their_rows(tmp_path: Path) -> None:
    whole = pa.table(good_nodes())
    config = write(
        tmp_path, good_nodes(), good_edges(), nodes={"files": "n/*.parquet", "features": "x", "label": "label"}
    )
    (tmp_path / "n").mkdir()
    pq.write_table(whole.slice(0, 3), tmp_path / "n" / "1.parquet")
    pq.write_table(whole.slice(3), tmp_path / "n" / "2.parquet")
    assert make(config).manifest.info.counts.nodes == 4
    assert [one["name"] for one in make(config).manifest.inputs] == ["n/1.parquet", "n/2.parquet", "edges.parquet"]


def test_categories_targets_and_lists(tmp_path: Path) -> None:
    nodes = {
        "id": [3, 1, 2],
        "colour": pa.array(["red", "blue", "red"]).dictionary_encode(),
        "size": [10, 9, 10],
        "flag": [True, False, True],
        "a": [1.0, None, 0.0],
        "b": [0.0, 1.0, float("nan")],
    }
    features = [{"column": "colour", "encode": "one_hot"}, {"column": "size", "encode": "ordinal"}, "flag"]
    config = write(
        tmp_path,
        nodes,
        {"src": [1], "dst": [2]},
        task="multilabel",
        nodes={"files": "nodes.parquet", "features": features, "label": ["a", "b"]},
        split={"fractions": [1, 0, 0]},
        parts={"count": 1},
    )
    prepared = make(config)
    data = Store.open(prepared.folder).load()
    assert data.x.tolist() == [[1, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert np.array_equal(data.y.numpy(), np.array([[np.nan, 1], [0, np.nan], [1, 0]], np.float32), equal_nan=True)
    assert [(one.name, one.width) for one in prepared.manifest.info.features] == [
        ("colour", 2),
        ("size", 1),
        ("flag", 1),
    ]
    assert prepared.manifest.info.metric == "rocauc"
    assert prepared.manifest.splits == {"train": 3, "valid": 0, "test": 0}


def test_a_binary_label_is_one_column_of_0_1_or_null(tmp_path: Path) -> None:
    nodes = {"id": [1, 2, 3], "x": [0.5, 1.5, 2.5], "paid": [True, False, None], "both": [[0, 1]] * 3}
    places = {"nodes": {"files": "nodes.parquet", "features": "x", "label": "paid"}, "parts": {"count": 1}}
    config = write(tmp_path, nodes, {"src": [1], "dst": [2]}, task="binary", split={"fractions": [1, 0, 0]}, **places)
    data = Store.open(make(config).folder).load()
    assert (data.info.task, data.info.num_outputs, data.info.metric) == ("binary", 1, "rocauc")
    assert np.array_equal(data.y.numpy(), np.array([[1], [0], [np.nan]], np.float32), equal_nan=True)
    assert data.splits["train"].numel() == 2


def test_a_node_stays_in_its_split_when_others_come(tmp_path: Path) -> None:
    found = []
    for count in (200, 400):
        folder = tmp_path / str(count)
        folder.mkdir()
        nodes = good_nodes(list(range(count)))
        config = write(folder, nodes, {"src": [1], "dst": [2]}, split={"fractions": [0.5, 0.25, 0.25], "seed": 4})
        data = Store.open(make(config).folder).load()
        ids = np.array(data.node_ids.to_pylist())
        found.append({name: set(ids[rows.numpy()].tolist()) for name, rows in data.splits.items()})
        assert len(found[-1]["train"]) == pytest.approx(count / 2, rel=0.2)
    for name in ("train", "valid", "test"):
        assert found[0][name] == {one for one in found[1][name] if one < 200}


@pytest.mark.parametrize("method", ["metis", "column"])
def test_parts_of_other_methods(method: str, tmp_path: Path) -> None:
    pytest.importorskip("pymetis", reason="METIS parts need pymetis, which is not installed")
    nodes = good_nodes(list("abcdefgh")) | {"part": [1, 1, 0, 0, 1, 1, 0, 0]}
    pairs = [("a", "b"), ("b", "e"), ("e", "f"), ("f", "a"), ("c", "d"), ("d", "g"), ("g", "h"), ("h", "c"), ("a", "c")]
    edges = {"src": [one for one, _ in pairs], "dst": [one for _, one in pairs]}
    parts = {"count": 2, "method": method} | ({"column": "part"} if method == "column" else {})
    store = Store.open(make(write(tmp_path, nodes, edges, parts=parts)).folder)
    found = [set(store.ids(number).to_pylist()) for number in range(2)]
    assert sorted(map(sorted, found)) == [list("abef"), list("cdgh")]
    assert method == "metis" or found[0] == set("cdgh")
    assert store.load().num_edges == 9


@pytest.mark.parametrize("method", ["hash", "metis", "column"])
def test_both_engines_give_the_same_bytes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("daft", reason="the engine of clusters is not installed")
    pytest.importorskip("pymetis", reason="METIS parts need pymetis, which is not installed")
    rng = np.random.default_rng(3)
    ids = np.array([f"nöde-{k}" for k in range(200)]) if method == "hash" else np.arange(200) - 50
    nodes = good_nodes(ids.tolist()) | {"part": [k % 4 for k in range(200)]}
    edges = {name: ids[rng.integers(0, 200, 900)] for name in ("src", "dst")} | {"w": rng.integers(0, 9, 900)}
    changes: dict[str, Any] = {"parts": {"count": 4, "method": method}, "direction": "undirected"}
    if method == "column":
        changes["parts"]["column"] = "part"
    changes |= {"self_loops": True} if method == "metis" else {"edges": {"files": "edges.parquet", "features": "w"}}
    config = write(tmp_path, nodes, edges, name="graph", **changes)
    monkeypatch.setattr(arrow_engine, "RUN_BYTES", 2_000)
    here = make(config).manifest
    worse = nodes | {"x": [None, *range(199)], "id": [*ids[:199], ids[5]], "part": [*nodes["part"][:199], 1]}
    unknown = edges | {"src": pa.array([None, *edges["src"][1:]])}
    (tmp_path / "worse").mkdir()
    faulty = write(tmp_path / "worse", worse, unknown, **changes)
    said = sorted(report(faulty))
    monkeypatch.setattr(stages, "ArrowEngine", lambda: DaftEngine(None))
    there = make(config, out="daft").manifest
    assert there.parts == here.parts and there.dropped == here.dropped and there.splits == here.splits
    assert "daft" in there.versions and "daft" not in here.versions
    assert sorted(report(faulty)) == said and len(said) >= 3


def test_a_lookup_is_in_order_and_reads_ahead_only_a_little() -> None:
    made = []

    def tables() -> Iterator[pa.Table]:
        for number in range(60):
            made.append(number)
            yield pa.table({"src": ids.take(pa.array([number, 3, 99])), "dst": pa.array(["1", None, "?"], ids.type)})

    ids = pa.array([str(k) for k in range(100)], pa.large_string())
    found = arrow_engine._positions(tables(), ("src", "dst"), ids)
    assert next(found)[1].tolist() == [[0, 3, 99], [1, -1, -1]]
    time.sleep(0.2)
    assert len(made) <= arrow_engine._READ_AHEAD + 2
    assert [rows[0, 0] for _, rows in found] == list(range(1, 60))


def test_keys_of_edges_need_no_room() -> None:
    """Edges whose three numbers take more than 63 bits are sorted and found equal like any others."""
    wide = np.array([2**30, 3, 2**30, 0])
    small, bits, _ = edge_keys(np.array([1, 0, 1, 0]), np.array([5, 6, 5, 7]), np.array([2, 2, 2, 1]))
    large, none, _ = edge_keys(wide * 4, wide * 2, wide)
    assert bits == 3 and none == 0
    assert np.argsort(small, kind="stable").tolist() == [3, 1, 0, 2] and np.argsort(large).tolist()[:2] == [3, 1]
    assert small[0] == small[2] and large[0] == large[2] and len(set(small)) == len(set(large)) == 3


# ---------------------------------------------------------------- faults


def test_all_faults_come_in_one_report(tmp_path: Path) -> None:
    nodes = {
        "id": ["a", "b", "b", None, "c", "d"],
        "x": pa.array([[1.0, 2.0], [1.0], None, [1.0, 2.0], [float("nan"), 1.0], [1.0, float("inf")]]),
        "label": ["ale", "gin", "wine", "wine", "wine", None],
        "split": ["train", "train", "trian", None, None, "test"],
    }
    edges = {"src": ["a", "z", None, "y"], "dst": ["b", "a", "a", "x"], "w": [1.0, 1.0, 1.0, float("nan")]}
    config = write(tmp_path, nodes, edges, classes=["ale", "wine"], edges={"files": "edges.parquet", "features": "w"})
    lines = report(config)
    assert set(lines) == {
        "nodes.parquet, column id: 1 row, first row 3, without an id; give each one",
        "nodes.parquet, column id: 1 row, first row 2 (b), with an id that an earlier row has; give every node "
        "one row, or --drop-duplicate-nodes",
        f"nodes.parquet, column x: 1 row, first row 2, without a value; {FILL}",
        "nodes.parquet, column x: 1 row, first row 1, of another length than 2, that of the first row; make them equal",
        f"nodes.parquet, column x: 2 rows, first row 4, with NaN, null or infinity; {FILL}",
        "nodes.parquet, column label: 1 row, first row 1, outside the classes; name it in classes, or null it",
        "nodes.parquet, column label: 2 rows, first row 1, in a split but without a label; label them or null "
        "their split",
        "nodes.parquet, column split: 1 row, first row 2, outside train, valid, test; rename or null them",
        "edges.parquet, column src: 1 row, first row 2, without an id; give each one",
        "edges.parquet, column src: 2 rows, first row 1 (z), with an id that the nodes do not have; add the node, or "
        "--drop-bad-edges",
        "edges.parquet, column dst: 1 row, first row 3 (x), with an id that the nodes do not have; add the node, or "
        "--drop-bad-edges",
        f"edges.parquet, column w: 1 row, first row 3, with NaN, null or infinity; {FILL}",
    }


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    nodes = good_nodes(["a", "b", "b", "c", "d"])
    nodes["x"] = pa.array([[1.0], [2.0], [9.0], [float("nan")], [4.0]])
    config = write(tmp_path, nodes, {"src": ["a", "z", "c", "a"], "dst": ["b", "a", "a", "d"]})
    drop = DropFaulty(bad_edges=True, duplicate_nodes=True, bad_nodes=True)
    prepared = make(config, drop=drop)
    assert prepared.manifest.dropped == {"bad_edges": 2, "bad_nodes": 1, "duplicate_nodes": 1}
    data = Store.open(prepared.folder).load()
    assert sorted(zip(data.node_ids.to_pylist(), data.x[:, 0].tolist(), strict=True)) == [("a", 1), ("b", 2), ("d", 4)]
    assert data.num_edges == 2
    assert len(report(config, out="other", drop=DropFaulty(bad_nodes=True, bad_edges=True))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"nodes": {"files": "nodes.parquet", "features": "xx", "label": "label"}},
            "column xx: is missing; the columns ",
        ),
        ({"nodes": {"files": "none*.parquet", "features": "x", "label": "label"}}, "none*.parquet: no such file in "),
        (
            {
                "nodes": {
                    "files": "nodes.parquet",
                    "features": [{"column": "text", "encode": "number"}],
                    "label": "label",
                }
            },
            "column text: holds string; it ",
        ),
        (
            {"edges": {"files": "edges.parquet", "src": "number"}},
            "column number: holds bool; ids are integers or strings",
        ),
        ({"edges": {"files": "broken.parquet"}}, "broken.parquet: cannot be read: "),
        (
            {"edges": {"files": "edges.txt"}},
            "edges.txt: cannot be read: its name does not end in .parquet",
        ),
        ({"edges": {"files": "empty.csv"}}, "empty.csv: cannot be read: it is empty, without a line of column names"),
        (
            {"edges": {"files": "damaged.parquet"}},
            "damaged.parquet: 1 row, first row 0, cannot be read from about this",
        ),
        ({"edges": {"files": "twice.parquet"}}, "twice.parquet, column src: occurs 2 times; keep one"),
        ({"nodes": {"files": "nodes.parquet", "features": "x", "label": "one"}}, "column one: has 1 class;"),
        ({"parts": {"count": 2, "method": "column", "column": "text"}}, "column text: holds string; parts are numbers"),
        ({"parts": {"count": 2, "method": "column", "column": "one"}}, "without a part of 0..1; give each node one"),
    ],
)
def test_faults_of_files_and_columns(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    nodes = good_nodes() | {"text": ["p", "q", "r", "s"], "one": [7, 7, 7, 7]}
    config = write(tmp_path, nodes, good_edges() | {"number": [True, False, True, True]}, **change)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    (tmp_path / "edges.txt").write_text("src,dst\n")
    (tmp_path / "empty.csv").write_text("")
    table = pa.table([pa.array(["a"])] * 3, names=["src", "src", "dst"])
    pq.write_table(table, tmp_path / "twice.parquet")
    data = bytearray((tmp_path / "edges.parquet").read_bytes())
    data[4:60] = b"\xff" * 56
    (tmp_path / "damaged.parquet").write_bytes(data)
    lines = report(config)
    assert any(message in line for line in lines), lines
    # Dropping bad rows forgives no bad file or column.
    assert report(config, drop=DropFaulty(bad_edges=True, bad_nodes=True))


@pytest.mark.parametrize("name", ["../../etc", "a/b", "naïve col", "x=1", "part", "row", "bad", "'; drop", "a\nb"])
def test_odd_names_of_columns(name: str, tmp_path: Path) -> None:
    nodes = good_nodes()
    nodes[name] = [1.0, 2.0, 3.0, 4.0]
    edges = good_edges() | {name: [1.0, 2.0, 3.0, 4.0]}
    config = write(
        tmp_path,
        nodes,
        edges,
        nodes={"files": "nodes.parquet", "features": ["x", name], "label": "label"},
        edges={"files": "edges.parquet", "features": name},
    )
    data = Store.open(make(config).folder).load()
    assert tuple(each.name for each in data.info.features) == ("x", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edges.parquet", "graph", "graph.yaml", "nodes.parquet"]


def test_absurd_tables(tmp_path: Path) -> None:
    nodes = good_nodes() | {
        "id": pa.array([2**63, 1, 2, 3], pa.uint64()),
        "x": pa.array([[]] * 4, pa.list_(pa.float32())),
    }
    config = write(tmp_path, nodes, {"src": pa.array([1], pa.uint64()), "dst": pa.array([2**64 - 1], pa.uint64())})
    lines = report(config)
    assert any("column x: has lists of 0 numbers" in line for line in lines)
    nodes["x"] = [1.0, 2.0, 3.0, 4.0]
    lines = report(
        write(tmp_path, nodes, {"src": pa.array([1], pa.uint64()), "dst": pa.array([2**64 - 1], pa.uint64())})
    )
    assert [line for line in lines if "2^63" in line] == [
        "nodes.parquet, column id: 1 row, first row 0, with an id of 2^63 or above; write ids as strings",
        "edges.parquet, column dst: 1 row, first row 0, with an id of 2^63 or above; write ids as strings",
    ]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_text_that_is_not_utf_8(kind: str, tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff\xfe", b"c"]).buffers()
    ids = pa.StringArray.from_buffers(3, raw[1], raw[2])
    table = pa.table({"id": ids, "x": [1.0, 2.0, 3.0], "label": [0, 1, 0], "split": ["train"] * 3})
    config = write(tmp_path, good_nodes(), {"src": ["a"], "dst": ["c"]})
    config.write_text(config.read_text().replace("nodes.parquet", f"odd.{kind}"))
    if kind == "parquet":
        pq.write_table(table, tmp_path / "odd.parquet")
    else:
        feather.write_feather(table, str(tmp_path / "odd.arrow"))
    assert any("cannot be read from about this row on: it is damaged" in line for line in report(config))


def test_an_id_in_two_parts_is_never_dropped(tmp_path: Path) -> None:
    nodes = good_nodes(["a", "a", "b", "c"]) | {"part": [0, 1, 0, 1]}
    parts = {"count": 2, "method": "column", "column": "part"}
    config = write(tmp_path, nodes, {"src": ["b"], "dst": ["c"]}, parts=parts)
    (line,) = report(config, drop=DropFaulty(bad_edges=True, bad_nodes=True, duplicate_nodes=True))
    assert line.startswith("nodes.parquet, column id: 1 row, first row 1 (a), with an id that another part has too")


# ---------------------------------------------------------------- the folder


def test_a_graph_that_is_there(tmp_path: Path) -> None:
    config = write(tmp_path, good_nodes(), good_edges())
    first = make(config)
    assert not first.skipped
    again = make(config)
    assert again.skipped and again.manifest == first.manifest
    write(tmp_path, good_nodes(), good_edges(), parts={"count": 2})
    with pytest.raises(FileExistsError, match="a graph of other tables or settings; choose another --out"):
        make(config)
    assert make(config, overwrite=True).manifest.num_parts == 2
    assert Store.open(tmp_path / "graph").num_parts == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(FileExistsError, match="is no prepared graph"):
        make(config, out="mine", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edges.parquet",
        "graph",
        "graph.yaml",
        "mine",
        "nodes.parquet",
    ]


# ---------------------------------------------------------------- graph.yaml and the command line
def test_a_folder_names_its_tables_or_its_graph_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "nodes.csv").write_text("id,size,label\n" + "".join(f"{n},{n % 5},{n % 2}\n" for n in range(40)))
    (folder / "edges.csv").write_text("src,dst\n" + "".join(f"{n},{(n + 1) % 40}\n" for n in range(40)))
    assert main(["prepare", str(folder), "--out", str(tmp_path / "one"), "--parts", "2"]) == 0
    assert main(["prepare", "--init", str(folder), "--out", str(folder)]) == 0
    assert main(["prepare", str(folder), "--out", str(tmp_path / "two"), "--parts", "2"]) == 0
    capsys.readouterr()
    one, two = (Store.open(tmp_path / name).load() for name in ("one", "two"))
    assert one.num_nodes == 40 and torch.equal(one.x, two.x) and torch.equal(one.edge_index, two.edge_index)
    (folder / "edges.csv").unlink()
    (folder / "graph.yaml").unlink()
    assert main(["prepare", str(folder), "--out", str(tmp_path / "three")]) == 2
    assert f"edges.parquet not found in {folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [", "is not YAML"),
        ("3", "graph.yaml must have fields (name, task"),
        ("{nodez: {}}", "has no field 'nodez' (did you mean 'nodes'?)"),
        (
            "{nodes: {files: n.parquet, features: x, lable: y}}",
            "graph.yaml.nodes has no field 'lable' (did you mean 'label'?)",
        ),
        ("{nodes: {files: n.parquet, features: x}}", "graph.yaml.nodes lacks label; see docs/prepare.md"),
        ("{parts: {count: many}}", "graph.yaml.parts.count must be a whole number; got 'many'"),
        ("{parts: {count: 0}}", "parts.count must be 1 to 100000; got 0"),
        (
            "{task: multi_class}",
            "must be one of multiclass, binary, multilabel, regression; got 'multi_class' (did you mean",
        ),
        ("{split: {fractions: [0.8, 0.3, 0.1]}}", "split.fractions must be three numbers of at most 1 in all"),
        ("{split: {}}", "split needs either column, masks or fractions"),
    ],
)
def test_mistakes_in_graph_yaml(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_config(tmp_path / "graph.yaml")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, good_nodes(), good_edges()).unlink()
    assert main(["prepare", "--init", "nodes.parquet", "edges.parquet"]) == 0
    assert isinstance(read_config(Path("graph.yaml")), GraphConfig)
    assert main(["prepare", "graph.yaml", "--out", "one", "--parts", "2"]) == 0
    assert main(["prepare", "nodes.parquet", "edges.parquet", "--out", "two", "--parts", "2", "--json"]) == 0
    assert '"num_edges": 4' in capsys.readouterr().out
    one, two = (Store.open(Path(name)).load() for name in ("one", "two"))
    assert one.edge_index.tolist() == two.edge_index.tolist() and one.num_edges == 4
    assert main(["prepare", "graph.yaml", "--label", "y", "--out", "three"]) == 2
    assert "--label go with two files" in capsys.readouterr().err
    shutil.rmtree("one")
    assert main(["prepare", "nodes.parquet", "edges.parquet", "--out", "one", "--features", "label"]) == 2
    assert "column label of nodes is used twice" in capsys.readouterr().err
    assert not Path("one").exists()


def test_preparing_imports_nothing_that_only_training_needs(tmp_path: Path) -> None:
    write(tmp_path, good_nodes(), good_edges())
    code = (
        "import sys; from revgnn.cli import main; "
        "assert main(['prepare', 'graph.yaml', '--out', 'one', '--json']) == 0; "
        "assert main(['prepare', '--init', 'nodes.parquet', 'edges.parquet', '--out', 'two.yaml', '--json']) == 0; "
        "assert main(['prepare', 'graph.yaml', '--out', 'two', '--like', 'one']) == 0; "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert {"pyarrow", "numpy", "revgnn"} <= imported
    heavy = {"torch", "sklearn", "scipy", "torch_geometric", "torchmetrics", "accelerate", "pandas", "jsonargparse"}
    assert not heavy & imported


def test_the_example_of_the_document(tmp_path: Path) -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "prepare.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    (tmp_path / "graph.yaml").write_text(text)
    count = 40
    nodes = {
        "sku": [f"a-{k}" for k in range(count)],
        "embedding": pa.array([[0.5, float(k)] for k in range(count)], pa.list_(pa.float32(), 2)),
        "price": list(range(count)),
        "colour": [("red", "blue")[k % 2] for k in range(count)],
        "size": [("S", "M", "L")[k % 3] for k in range(count)],
        "department": [("tools", "music", None)[k % 3] for k in range(count)],
    }
    for k in range(2):
        pq.write_table(pa.table(nodes).slice(k * 20, 20), tmp_path / f"nodes-{k}.parquet")
    csv.write_csv(
        pa.table({"from": ["a-0", "a-1"], "to": ["a-1", "a-2"], "times": [1, 2]}), tmp_path / "bought-together.csv"
    )
    prepared = make(tmp_path / "graph.yaml")
    assert prepared.manifest.info.class_names == ("books", "music", "tools")
    assert prepared.manifest.info.counts.edges == 4
    assert [one.width for one in prepared.manifest.info.features] == [2, 1, 2, 1]
    nodes["sku"][22] = "a-21"
    nodes["price"][20:22] = [None, None]
    pq.write_table(pa.table(nodes).slice(20), tmp_path / "nodes-1.parquet")
    (tmp_path / "bought-together.csv").write_text("from,to,times\na-0,a-1,1\na-1,a-0,1\na-1,a-3,2\na-1,x-1,9\n")
    lines = report(tmp_path / "graph.yaml", out="other")
    shown = document.partition("have 3 faults:\n")[2].partition("```")[0].replace("b-7", "a-21")
    assert sorted(lines) == sorted(line.strip() for line in shown.splitlines())
