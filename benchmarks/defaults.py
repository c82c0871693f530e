"""What `revgnn train FOLDER` reaches with several settings on ordinary tables, beside its baselines without a graph.

python -m benchmarks.defaults --shared data                      every setting on every table; appends its rows
python -m benchmarks.defaults --shared data --table digits --candidate default

Every run goes the way of the command: tables are written to a temporary folder, read, and trained on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from revgnn.data import Dataset, load_dataset, make_batches, with_target_scale
from revgnn.data.readers.embedded import read_digits
from revgnn.data.readers.pyg import read_planetoid
from revgnn.data.tabular import take_rows
from revgnn.experiment import Experiment, make_model
from revgnn.overrides import override
from revgnn.paper.recipes.tables import MODELS
from revgnn.report.baselines import fit_baselines
from revgnn.train import METRICS, Goal, fit

from .machine import ROOT, facts

RESULTS = ROOT / "benchmarks" / "results" / "defaults.jsonl"

Table = Mapping[str, Any]
"""Column -> values."""
Settings = Mapping[str, object]
"""Dotted name of a field of the experiment -> value."""

COMMON: Settings = {
    "model.conv": "sage",
    "model.num_layers": 4,
    "model.hidden_channels": 64,
    "model.norm": "batch",
    "model.dropout": 0.2,
    "train.lr": 0.01,
    "train.schedule": "constant",
    "train.epochs": 200,
    "train.patience": 30,
}
LAYER_NORM: Settings = {**COMMON, "model.norm": "layer"}
"""The default of `tables.MODELS`."""
CANDIDATES: dict[str, Settings] = {
    "common": COMMON,
    "GCN, 7 layers, 128 channels, dropout 0.3, rate 0.003, patience 100": {
        **COMMON,
        "model.conv": "gcn",
        "model.num_layers": 7,
        "model.hidden_channels": 128,
        "model.dropout": 0.3,
        "train.lr": 0.003,
        "train.patience": 100,
    },
    "no norm": {**COMMON, "model.norm": "none"},
    "layer norm": LAYER_NORM,
    "layer norm, 128 channels": {**LAYER_NORM, "model.hidden_channels": 128},
    "layer norm, dropout 0.5": {**LAYER_NORM, "model.dropout": 0.5},
    "layer norm, 128 channels, dropout 0.5": {**LAYER_NORM, "model.hidden_channels": 128, "model.dropout": 0.5},
    "layer norm, GCN": {**LAYER_NORM, "model.conv": "gcn"},
    "no dropout": {**COMMON, "model.dropout": 0.0},
    "rate 0.003": {**COMMON, "train.lr": 0.003},
    "8 layers": {**COMMON, "model.num_layers": 8},
    "8 layers, layer norm": {**COMMON, "model.num_layers": 8, "model.norm": "layer"},
    "cosine": {**COMMON, "train.schedule": "cosine"},
}
"""Settings of the comparison; all but the first are named by what they change of it."""


# ---------------------------------------------------------------------- tables


def _split(count: int) -> NDArray[np.str_]:
    """Draw the split column: half to train, a quarter each to select and to test."""
    return np.random.default_rng(1).choice(["train", "valid", "test"], count, p=[0.5, 0.25, 0.25])


def _part(kept: NDArray[np.int64], src: NDArray[np.int64], dst: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Table]:
    """Return which edges join two of the kept nodes, and the table of these edges."""
    found = np.isin(src, kept) & np.isin(dst, kept)
    return found, {"src": src[found], "dst": dst[found]}


def _of_dataset(dataset: Dataset, *, own_split: bool) -> tuple[Table, Table]:
    assert isinstance(dataset.x, torch.Tensor)
    split = _split(len(dataset.x))
    if own_split:
        split = np.full(len(split), None, dtype=object)
        for name, rows in dataset.splits.items():
            split[rows.numpy()] = name
    nodes = {
        "id": np.arange(len(split)),
        "x": pa.array(list(dataset.x.numpy())),
        "label": [f"class {k}" for k in dataset.y.tolist()],
        "split": pa.array(split.tolist()),
    }
    src, dst = dataset.edge_index.numpy()
    return nodes, {"src": src, "dst": dst}


def _digits(shared: Path) -> tuple[Table, Table]:
    return _of_dataset(read_digits(), own_split=False)


def _cora(shared: Path) -> tuple[Table, Table]:
    return _of_dataset(read_planetoid("Cora", shared), own_split=True)


def _citeseer(shared: Path) -> tuple[Table, Table]:
    return _of_dataset(read_planetoid("CiteSeer", shared), own_split=False)


def _papers(shared: Path) -> tuple[Table, Table]:
    """Citations up to 2003, 40 classes."""
    nodes = pq.read_table(
        shared / "arxiv_text/nodes.parquet", columns=["id", "x", "label"], filters=[("year", "<=", 2003)]
    )
    edges = pq.read_table(shared / "arxiv_text/edges.parquet")
    _, ends = _part(nodes["id"].to_numpy(), edges["src"].to_numpy(), edges["dst"].to_numpy())
    label = [f"class {k}" for k in nodes["label"].to_pylist()]
    return {"id": nodes["id"], "x": nodes["x"].combine_chunks(), "label": label, "split": _split(len(nodes))}, ends


def _minesweeper(shared: Path) -> tuple[Table, Table]:
    """The first 1,000 squares."""
    arrays = np.load(shared / "minesweeper.npz")
    kept = np.arange(1_000)
    columns = {f"x{k}": values for k, values in enumerate(arrays["node_features"][kept].T)}
    src, dst = arrays["edges"].astype(np.int64).T
    label = np.array(["free", "mine"])[arrays["node_labels"][kept]]
    return {"id": kept, **columns, "label": label, "split": _split(len(kept))}, _part(kept, src, dst)[1]


def _roads(shared: Path, label: str) -> tuple[Table, Table]:
    arrays = np.load(shared / "california_roads.npz")
    kept = np.arange(1_000)
    columns = dict(zip(("degree", "mean_length", "longest"), arrays["x"][kept].T, strict=True))
    found, edges = _part(kept, arrays["src"].astype(np.int64), arrays["dst"].astype(np.int64))
    target = arrays["ecc"][kept] if label == "ecc" else [f"decile {k}" for k in arrays["y"][kept]]
    return {"id": kept, **columns, "label": target, "split": _split(len(kept))}, {
        **edges,
        "weight": 1000.0 / arrays["length"][found],
    }


def _road_deciles(shared: Path) -> tuple[Table, Table]:
    """The first 1,000 crossings; weight: 1000 over the length."""
    return _roads(shared, "y")


def _road_distance(shared: Path) -> tuple[Table, Table]:
    return _roads(shared, "ecc")


def _neighbours(group: NDArray[np.int64], each: int, same: float, rng: np.random.Generator) -> Table:
    """Draw edges, a share ``same`` of which stay within the group."""
    src = np.repeat(np.arange(len(group)), each)
    dst = rng.integers(0, len(group), len(src))
    for value in np.unique(group):
        stays = (group[src] == value) & (rng.random(len(src)) < same)
        dst[stays] = rng.choice(np.flatnonzero(group == value), stays.sum())
    return {"src": src, "dst": dst}


def _customers(shared: Path) -> tuple[Table, Table]:
    """Three classes; an income and a year beside standardised columns."""
    rng = np.random.default_rng(2)
    group = rng.integers(0, 3, 1_000)
    base = rng.normal(size=(1_000, 4)) + np.eye(3, 4)[group]
    income = np.round(rng.lognormal(10 + 0.4 * (group == 2), 0.8), 2)
    nodes = {"id": [f"c{k:05d}" for k in range(1_000)], **{f"x{k}": base[:, k] for k in range(4)}}
    nodes |= {
        "income": income,
        "year": 1960 + rng.integers(0, 45, 1_000),
        "label": np.array(["gold", "new", "lost"])[group],
    }
    edges = _neighbours(group, 3, 0.5, rng)
    return {**nodes, "split": _split(1_000)}, {key: [f"c{k:05d}" for k in ends] for key, ends in edges.items()}


def _fraud(shared: Path) -> tuple[Table, Table]:
    """One of twenty is positive; weak features, neighbours alike."""
    rng = np.random.default_rng(3)
    positive = (rng.random(1_000) < 0.05).astype(np.int64)
    columns = {f"x{k}": rng.normal(size=1_000) + 0.6 * positive * (k < 3) for k in range(6)}
    nodes = {"id": np.arange(1_000), **columns, "label": np.array(["no", "yes"])[positive], "split": _split(1_000)}
    return nodes, _neighbours(positive, 3, 0.4, rng)


def _prices(shared: Path) -> tuple[Table, Table]:
    """400 rows; the number depends on the own columns and on those of the neighbours."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 5))
    src, dst = rng.integers(0, 400, (2, 1_200))
    total = np.zeros(400)
    np.add.at(total, dst, x[src, 0])
    np.add.at(total, src, x[dst, 0])
    degree = np.bincount(np.concatenate([src, dst]), minlength=400)
    price = 200 + 30 * x[:, 1] + 15 * x[:, 2] + 40 * total / np.maximum(degree, 1) + rng.normal(scale=10, size=400)
    nodes = {"id": np.arange(400), **{f"x{k}": x[:, k] for k in range(5)}, "target": price, "split": _split(400)}
    return nodes, {"src": src, "dst": dst}


def _linear(shared: Path) -> tuple[Table, Table]:
    """400 rows; the number is linear in one column, with little noise, and edges at random tell nothing."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 4))
    src, dst = rng.integers(0, 400, (2, 1_200))
    target = 100 + 30 * x[:, 0] + rng.normal(size=400)
    nodes = {"id": np.arange(400), **{f"x{k}": x[:, k] for k in range(4)}, "target": target, "split": _split(400)}
    return nodes, {"src": src, "dst": dst}


TABLES: dict[str, Callable[[Path], tuple[Table, Table]]] = {
    "customers": _customers,
    "fraud": _fraud,
    "prices": _prices,
    "linear": _linear,
    "digits": _digits,
    "papers": _papers,
    "minesweeper": _minesweeper,
    "road deciles": _road_deciles,
    "road distance": _road_distance,
    "Cora": _cora,
    "CiteSeer": _citeseer,
}
"""Name -> writes the nodes and the edges."""


# ---------------------------------------------------------------------- runs


def measure(data: Dataset, run: Experiment, candidate: str, seed: int) -> dict[str, Any]:
    """Train on a data set with the settings of a candidate.

    Returns: the scores of the selected weights, split -> value of the metric, and what they took.
    """
    words = [f"{name}={value}" for name, value in CANDIDATES[candidate].items()]
    info = with_target_scale(data)
    run = override(run, [*words, f"train.seed={seed}"]).for_data(info)
    goal = Goal(metric=info.metric, num_outputs=info.num_outputs, scale=info.target_scale)
    started = time.perf_counter()
    batches = make_batches(data, run.batch_size, seed, run.loader)
    result = fit(make_model(run, info), batches, run.train, metric=goal, device="cpu")
    return {
        "scores": {split: score["metric"] for split, score in result.scores.items()},
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": time.perf_counter() - started,
    }


def baselines(data: Dataset) -> dict[str, Any]:
    """Return the metric, and the scores of the constant and of the linear model on the test split."""
    rows = data.splits["test"]
    features, y = take_rows(data, rows.numpy())
    scores = [METRICS[data.info.metric].compute(each.predict(features), y) for each in fit_baselines(data)]
    found = dict(zip(("constant", "linear"), scores, strict=True))
    return {"metric": data.info.metric, "num_nodes": data.num_nodes, "test_rows": len(rows), "baselines": found}


def write(name: str, shared: Path, folder: Path) -> Path:
    """Write the two tables of a name below a folder."""
    place = folder / name.replace(" ", "_")
    place.mkdir()
    for what, table in zip(("nodes", "edges"), TABLES[name](shared), strict=True):
        pq.write_table(pa.table(dict(table)), place / f"{what}.parquet")
    return place


def main() -> None:
    """Measure, print, and append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--table", action="append", choices=TABLES, help="only these")
    parser.add_argument("--candidate", action="append", choices=CANDIDATES, help="only these")
    parser.add_argument("--seed", type=int, action="append", help="default: 0")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that rows are appended to")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: MODELS["revsage"](write(name, options.shared, Path(folder))) for name in options.table or TABLES}
        data = {name: load_dataset(run.dataset, folder) for name, run in runs.items()}
    known = {name: baselines(each) for name, each in data.items()}
    for candidate, seed in itertools.product(options.candidate or CANDIDATES, options.seed or (0,)):
        for name, run in runs.items():
            row = {"table": name, "candidate": candidate, "seed": seed, "settings": CANDIDATES[candidate]}
            row |= known[name] | measure(data[name], run, candidate, seed) | facts("cpu")
            print(name, "|", candidate, seed, row["scores"], row["baselines"], f"{row['seconds']:.1f} s", flush=True)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
