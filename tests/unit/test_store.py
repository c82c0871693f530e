"""Prepared graphs on disk: what is written comes back, merged parts are induced subgraphs, hostile ones are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prepared_graphs import draw_whole, write_store
from revgnn.data.induced import induce
from revgnn.data.ondisk.folder import is_store, new_store
from revgnn.data.ondisk.manifest import StoreError, read_manifest
from revgnn.data.ondisk.store import Store
from revgnn.graph import Graph


@pytest.mark.parametrize("edge_features", [0, 2])
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_what_is_written_comes_back(tmp_path: Path, task: str, edge_features: int) -> None:
    whole = draw_whole(1, task=task, edge_features=edge_features)
    folder = write_store(tmp_path / "graph", whole, task=task)
    store = Store.open(folder)
    data = store.load()
    assert is_store(folder) and not is_store(tmp_path)
    assert torch.equal(data.x, torch.from_numpy(whole.x))
    assert np.array_equal(data.y.numpy(), whole.y, equal_nan=task == "multilabel")
    assert data.node_ids.to_pylist() == whole.ids
    graph = Graph.from_edge_index(torch.from_numpy(np.stack([whole.src, whole.dst])), len(whole.x))
    assert torch.equal(data.edge_index, graph.edge_index)
    if whole.edge_attr is not None:
        assert data.edge_attr is not None
        assert torch.equal(data.edge_attr, graph.sort_edges(torch.from_numpy(whole.edge_attr)))
    assert {name: rows.numel() for name, rows in data.splits.items()} == store.info.split_sizes
    assert (store.num_nodes, store.num_edges, store.info.in_channels) == (60, 300, 5)
    assert store.info.edge_channels == data.info.edge_channels


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    nodes=st.integers(1, 40),
    edges=st.integers(0, 200),
    num_parts=st.integers(1, 6),
    chosen=st.sets(st.integers(0, 5), min_size=1),
)
def test_merged_parts_are_the_induced_subgraph(
    tmp_path: Path, seed: int, nodes: int, edges: int, num_parts: int, chosen: set[int]
) -> None:
    parts = sorted(number for number in chosen if number < num_parts) or [0]
    whole = draw_whole(seed, nodes=nodes, edges=edges, num_parts=num_parts, edge_features=1)
    folder = tmp_path / "graph"
    shutil.rmtree(folder, ignore_errors=True)
    batch = Store.open(write_store(folder, whole, num_parts=num_parts)).batch(parts)
    graph = Graph.from_edge_index(torch.from_numpy(np.stack([whole.src, whole.dst])), nodes)
    members = torch.from_numpy(np.flatnonzero(np.isin(whole.part, parts)))
    piece = induce(graph, members)
    assert whole.edge_attr is not None
    edge_attr = graph.sort_edges(torch.from_numpy(whole.edge_attr))[piece.edges]
    assert batch.ids is not None and torch.equal(batch.ids, members)
    assert torch.equal(batch.x, torch.from_numpy(whole.x)[members])
    assert torch.equal(batch.y, torch.from_numpy(whole.y)[members])
    assert torch.equal(batch.graph.indptr, piece.graph.indptr)
    assert torch.equal(batch.graph.indices, piece.graph.indices)
    assert batch.edge_attr is not None and torch.equal(batch.edge_attr, edge_attr)
    for code, name in enumerate(("train", "valid", "test")):
        assert batch.rows[name].tolist() == np.flatnonzero(whole.split[members.numpy()] == code).tolist()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features must be finite"):
        write_store(tmp_path / "graph", replace(draw_whole(), x=np.full((60, 5), np.nan, np.float32)))
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_graph_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no prepared graph"), new_store(tmp_path / "graph"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "graph", draw_whole())
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        write_store(folder, draw_whole(1))
    assert (folder / "manifest.json").read_bytes() == before


Change = Callable[[dict[str, Any]], None]


def _set(path: str, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for step in way:
            content = content[int(step) if isinstance(content, list) else step]
        content[int(last) if isinstance(content, list) else last] = value

    return change


def _rename(content: dict[str, Any]) -> None:
    files = content["parts"][0]["files"]
    files["../../../outside.npy"] = files.pop("x.npy")


HOSTILE: list[tuple[Change, str]] = [
    (_rename, "must have the files"),
    (_set("parts/0/nodes", 10**15), "parts\\[0\\].nodes must be at most"),
    (_set("parts/0/nodes", 2**30), "num_nodes must be the"),
    (_set("parts/0/nodes", -1), "parts\\[0\\].nodes must be a whole number"),
    (_set("parts/0/nodes", True), "parts\\[0\\].nodes must be a whole number"),
    (_set("parts/0/edges", 1e9), "parts\\[0\\].edges must be a whole number"),
    (_set("parts/0/files/x.npy/bytes", 10**18), "x.npy has .* bytes where the manifest says"),
    (_set("parts", []), "parts must be 1 to"),
    (_set("parts", {}), "parts must be a list"),
    (_set("parts/0", "../x"), "parts\\[0\\] must be an object"),
    (_set("features/0/width", 0), "must be 1 to"),
    (_set("features/0/width", 10**12), "must be 1 to"),
    (_set("features", []), "features must name"),
    (_set("task", "anything"), "task must be one of"),
    (_set("level", "graph"), "level must be 'node'"),
    (_set("num_outputs", 10**12), "num_outputs must be 0 to"),
    (_set("class_names", ["a"]), "class_names must be one for each"),
    (_set("class_names", [1, 2, 3]), "class_names must be a list of text"),
    (_set("splits", {"train": 1}), "splits must count"),
    (_set("num_edges", 7), "num_edges must be the 300"),
    (_set("surprise", 1), "unknown fields: 'surprise'"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_a_hostile_manifest_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    folder = write_store(tmp_path / "graph", draw_whole())
    _rewrite(folder, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=message):
        Store.open(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_newer_format_a_wrong_checksum_and_no_json_are_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "graph", draw_whole()) / "manifest.json"
    text = path.read_text(encoding="utf-8")
    for changed, message in (
        (text.replace('"format": 1', '"format": 2'), "must have format 1, got 2; use the revgnn that wrote it"),
        (text.replace('"drawn"', '"other"'), "does not match its checksum"),
        (text[:-20], "cannot be read"),
        (text.replace("300", "NaN"), "NaN is not a number of JSON"),
        ("[]", "it must be one JSON object, got list"),
        ('{"format": 1, "format": 1}', "an object has a name twice"),
    ):
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(StoreError, match=message):
            read_manifest(path.parent)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "graph", draw_whole())
    path = folder / "parts" / "00001" / "x.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StoreError, match="x.npy has"):
        Store.open(folder)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "graph", draw_whole())
    path = folder / "parts" / "00001" / "x.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store = Store.open(folder)
    store.batch([0])
    with pytest.raises(StoreError, match="x.npy does not match its checksum"):
        store.batch([0, 1])


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x.npy", lambda x: x.astype(np.float64), "must hold float32"),
        ("x.npy", lambda x: x.T, "must hold float32"),
        ("x.npy", lambda x: np.full_like(x, np.nan), "must be finite"),
        ("y.npy", lambda y: y + 3, "must hold 0..2"),
        ("split.npy", lambda s: s + 9, "must hold -1..2"),
        ("src.npy", lambda s: s + 2**20, "must lie in 0.."),
        ("dst.npy", lambda d: d - 2**20, "must lie in 0.."),
        ("dst.npy", lambda d: d[::-1], "must ascend within a block"),
        ("block_ptr.npy", lambda p: p[::-1], "must ascend from 0"),
        ("block_ptr.npy", lambda p: p + 10**9, "must ascend from 0"),
        ("split.npy", lambda s: np.array([{}] * len(s)), "must hold int8"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, name: str, array: Callable[[Any], Any], message: str
) -> None:
    folder = write_store(tmp_path / "graph", draw_whole())
    path = folder / "parts" / "00000" / name
    np.save(path, array(np.load(path)), allow_pickle=True)
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    _rewrite(folder, _set(f"parts/0/files/{name}", facts))
    with pytest.raises(StoreError, match=message):
        Store.open(folder).batch([0, 1])


def test_a_link_is_no_part(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "graph", draw_whole())
    part = folder / "parts" / "00000"
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="must be a plain file"):
        Store.open(folder)


def _rewrite(folder: Path, change: Change) -> None:
    """Change a manifest and give it its checksum again, as an attacker would."""
    path = folder / "manifest.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    change(whole["content"])
    digest = hashlib.sha256(json.dumps(whole["content"], sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps({**whole, "sha256": digest}), encoding="utf-8")
