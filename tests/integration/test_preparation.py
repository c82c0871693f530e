"""Preparing ogbn-proteins: a made-up folder is read as it was written, and no Python runs once per edge."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.preparation import measure, write_raw

from revgnn.data import FullBatch
from revgnn.data.readers.csv_gz import read_csv_gz
from revgnn.data.readers.ogb import read_ogb
from tolerances import assert_close


def test_the_folder_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.preparation._BLOCK", 700)
    write_raw(tmp_path, nodes=100, edges=2_000)
    data = read_ogb("ogbn-proteins", tmp_path)
    raw = tmp_path / "ogbn_proteins" / "raw"
    ends, feats = read_csv_gz(raw / "edge.csv.gz", np.int64), read_csv_gz(raw / "edge-feat.csv.gz", np.float64)
    assert (data.num_nodes, data.num_edges, data.in_channels, data.edge_channels) == (100, 4_000, 16, 8)
    expected = np.zeros((100, 8))
    np.add.at(expected, ends[:, 0], feats)
    np.add.at(expected, ends[:, 1], feats)
    assert_close(data.x[:, :8], torch.from_numpy(expected.astype(np.float32)))


def test_a_process_of_its_own_is_measured(tmp_path: Path) -> None:
    write_raw(tmp_path, nodes=50, edges=300)
    found = measure(tmp_path)
    assert (found["num_nodes"], found["num_edges"]) == (50, 600)
    assert found["peak_bytes"] >= found["read_peak_bytes"] > 50e6, "the interpreter and torch alone are more"
    with pytest.raises(RuntimeError, match="exit code 1"):
        measure(tmp_path / "nowhere")


def test_no_line_of_python_runs_once_per_edge(tmp_path: Path) -> None:
    """Twenty times the edges take no more calls of the package's own functions."""
    calls = []
    for edges in (500, 10_000):
        root = tmp_path / str(edges)
        write_raw(root, nodes=40, edges=edges)
        calls.append(_lines(root))
    assert calls[1] <= 1.2 * calls[0]


def _lines(root: Path) -> int:
    counted: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if "revgnn" not in frame.f_code.co_filename:
            return None
        counted[event] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        FullBatch(read_ogb("ogbn-proteins", root))
    finally:
        sys.settrace(before)
    return counted["line"]
