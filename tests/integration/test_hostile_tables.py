"""Tables and graph.yaml of strangers: an error that names the file, and nothing is written anywhere."""

from __future__ import annotations

import datetime
import decimal
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather, ipc

from revgnn.data.ondisk.store import Store
from revgnn.data.prepare import DropFaulty, read_config
from small_tables import good_edges, good_nodes, make, report, write

DAYS = [datetime.datetime(2020, 1, day) for day in (1, 2, 3, 4)]
COLUMNS: dict[str, tuple[str, Any, str]] = {
    "bytes as ids": ("id", [b"a", b"b", b"c", b"d"], "holds binary; ids are integers or strings"),
    "decimals as ids": (
        "id",
        [decimal.Decimal(k) / 2 for k in range(4)],
        "2 rows, first row 1, with an id that is no whole",
    ),
    "times as ids": ("id", DAYS, "holds timestamp[us]; ids are"),
    "NaN as an id": ("id", [1.0, math.nan, 2.0, 3.0], "1 row, first row 1, without an id"),
    "lists as ids": ("id", [[1], [2], [3], [4]], "; ids are"),
    "lists of lists": ("x", [[[1.0]], [[2.0]], [[1.0], [2.0]], []], "it must hold numbers or lists of numbers"),
    "lists of many lengths": ("x", [[1.0], [1.0, 2.0], [], [1.0]], "2 rows, first row 1, of another length than 1"),
    "structs": ("x", [{"a": 1}] * 4, "holds struct<a: int64>; it must hold numbers"),
    "durations": ("x", [datetime.timedelta(days=k) for k in range(4)], "holds duration[us]; it must hold numbers"),
    "bytes as labels": ("label", [b"a", b"b", b"a", b"b"], "holds binary; classes and categories are"),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_the_wrong_kind_is_named(tmp_path: Path, kind: str) -> None:
    column, values, message = COLUMNS[kind]
    lines = report(write(tmp_path, good_nodes() | {column: pa.array(values)}, good_edges()))
    assert any(f"nodes.parquet, column {column}: " in line and message in line for line in lines), lines


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scribbled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 8] = b"\xff" * 8
    path.write_bytes(data)


def _stream(path: Path) -> None:
    table = feather.read_table(str(path), memory_map=False)
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "half of a Parquet file": ("e.parquet", _halved, "cannot be read: Parquet magic bytes not found"),
    "an empty Parquet file": (
        "e.parquet",
        lambda path: path.write_bytes(b""),
        "cannot be read: Parquet file size is 0",
    ),
    "half of an Arrow file": ("e.arrow", _halved, "cannot be read: Not an Arrow file"),
    "a scribbled Arrow file": ("e.arrow", _scribbled, "cannot be read"),
    "an Arrow stream": ("e.arrow", _stream, "cannot be read: it is no Arrow file, perhaps a stream"),
    "ragged rows": ("e.csv", lambda path: path.write_text("src,dst\na,b\na,b,c\n"), "Expected 2 columns, got 3: a,b,c"),
    "an open quote": ("e.csv", lambda path: path.write_text('src,dst\n"a,b\n'), "cannot be read: CSV parse error"),
    "no text": ("e.csv", lambda path: path.write_bytes(b"\x00\xff" * 50), "cannot be read: "),
    "a folder": ("folder", lambda path: path.mkdir(), "no such file in "),
    "nothing": ("none-*.parquet", lambda path: None, "no such file in "),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_what_it_seems_is_named(tmp_path: Path, kind: str) -> None:
    name, spoil, message = FILES[kind]
    if name == "e.parquet":
        pq.write_table(pa.table(good_edges()), tmp_path / name)
    if name == "e.arrow":
        feather.write_feather(pa.table(good_edges()), str(tmp_path / name), compression="uncompressed")
    spoil(tmp_path / name)
    (line,) = report(write(tmp_path, good_nodes(), good_edges(), edges={"files": name}))
    assert line.startswith(f"{name}: ") and message in line


@pytest.mark.parametrize("claimed", [b"\xfe\xff\x7f", b"\x81\x80\x00"], ids=["a million rows", "fewer than none"])
def test_a_footer_that_lies_about_its_rows_is_seen(tmp_path: Path, claimed: bytes) -> None:
    count = 70_000
    config = write(tmp_path, good_nodes(), good_edges(), edges={"files": "e.parquet"})
    ends = {name: pa.array(["a", "b"]).take(pa.array(np.arange(count) % 2)) for name in ("src", "dst")}
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table(ends), path, use_dictionary=False)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    # Thrift writes a whole number doubled, seven bits at a time.
    written = bytes([2 * count & 127 | 128, 2 * count >> 7 & 127 | 128, 2 * count >> 14])
    footer = data[-8 - length : -8]
    assert footer.count(written) > 1
    path.write_bytes(data[: -8 - length] + footer.replace(written, claimed) + data[-8:])
    assert any("e.parquet: 1 row" in line and "it is damaged; write it again" in line for line in report(config))


@pytest.mark.parametrize(
    ("column", "values"), [("id", ["e", "f", "g", "h"]), ("x", [1.0, 2.0, 3.0, 4.0]), ("label", [[1], [2], [1], [2]])]
)
def test_files_of_one_table_that_differ_in_kind_are_named(tmp_path: Path, column: str, values: list[Any]) -> None:
    nodes = {"files": ["nodes.parquet", "more.parquet"], "features": "x", "label": "label"}
    config = write(tmp_path, good_nodes([1, 2, 3, 4]), {"src": [1], "dst": [2]}, nodes=nodes)
    pq.write_table(pa.table(good_nodes([5, 6, 7, 8]) | {column: values}), tmp_path / "more.parquet")
    said = rf"more.parquet, column {column}: holds .*, but in nodes.parquet .*; make them alike"
    assert any(re.match(said, line) for line in report(config))


BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases (*a) are not understood; write the value out"),
        ("nodes: !!python/object/apply:os.system [touch executed]", "could not determine a constructor for the tag"),
        ("nodes: " + "[" * 4000 + "]" * 4000, "is nested too deep"),
        ("parts: {count: " + "9" * 6000 + "}", "Exceeds the limit (4300 digits)"),
        ("parts: {count: 1}\nparts: {count: 2}", "'parts' occurs 2 times; keep one"),
        ("a: \x01", "special characters are not allowed"),
        ("#" * 2**20 + "\n", "has 1048577 bytes; at most 1048576 are read"),
        ("{split: {fractions: [.nan, .inf, 0.1]}}", "split.fractions must be three numbers"),
        ("{name: [" + "x, " * 5000 + "]}", "must be a text; got ['x', 'x'"),
    ],
    ids=["bomb", "object", "deep", "digits", "twice", "control", "huge", "NaN", "long"],
)
def test_a_hostile_graph_yaml_is_one_short_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_config(tmp_path / "graph.yaml")
    assert len(str(error.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["graph.yaml"]


IDS = st.sampled_from(["a", " a", "a ", "", "\u200ba", "a\u0301", "\t", "../../etc", "\U0001f600", "NaN", "1", None])
ROWS = st.tuples(
    IDS,
    st.sampled_from([0.5, -1.0, math.nan, math.inf, None]),
    st.sampled_from(["../up", "a/b", None]),
    st.sampled_from(["train", "valid", "test", None]),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, max_size=12), pairs=st.lists(st.tuples(IDS, IDS), max_size=12))
def test_what_is_left_of_bad_tables_is_what_a_plain_account_leaves(
    rows: list[tuple[Any, ...]], pairs: list[tuple[Any, Any]]
) -> None:
    rows = [("first", 1.0, "../up", "train"), ("second", 2.0, "a/b", None), *rows]
    kept: dict[str, tuple[Any, ...]] = {}
    faulty = twice = 0
    for row in rows:
        name, x, label, split = row
        if name is None or x is None or not math.isfinite(x) or (split is not None and label is None):
            faulty += 1
        elif name in kept:
            twice += 1
        else:
            kept[name] = row
    edges = [pair for pair in pairs if set(pair) <= kept.keys()]
    kinds = {"id": pa.string(), "x": pa.float64(), "label": pa.string(), "split": pa.string()}
    nodes = {
        name: pa.array(list(column), kind)
        for (name, kind), column in zip(kinds.items(), zip(*rows, strict=True), strict=True)
    }
    ends = {name: pa.array([pair[end] for pair in pairs], pa.string()) for end, name in enumerate(("src", "dst"))}
    with tempfile.TemporaryDirectory() as folder:
        config = write(Path(folder), nodes, ends)
        before = {*Path(folder).iterdir(), Path(folder, "graph")}
        prepared = make(config, drop=DropFaulty(bad_edges=True, duplicate_nodes=True, bad_nodes=True))
        assert set(Path(folder).iterdir()) == before
        data = Store.open(prepared.folder).load()
    dropped = {"bad_nodes": faulty, "duplicate_nodes": twice, "bad_edges": len(pairs) - len(edges)}
    assert prepared.manifest.dropped == {name: count for name, count in dropped.items() if count}
    assert data.info.class_names == ("../up", "a/b")
    ids = data.node_ids.to_pylist()
    found = {
        name: (x, None if y < 0 else data.info.class_names[y])
        for name, x, y in zip(ids, data.x[:, 0].tolist(), data.y.tolist(), strict=True)
    }
    assert found == {name: (row[1], row[2]) for name, row in kept.items()}
    for split, members in data.splits.items():
        assert {ids[row] for row in members.tolist()} == {name for name, row in kept.items() if row[3] == split}
    src, dst = data.edge_index.tolist()
    assert Counter((ids[s], ids[d]) for s, d in zip(src, dst, strict=True)) == Counter(edges)
