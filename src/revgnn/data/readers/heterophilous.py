"""Reader of the heterophilous graphs: minesweeper, tolokers, questions, roman-empire and amazon-ratings.

A data set is one ``.npz`` file as published by its authors, with ten splits. It is read without pickle.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...run_lock import claimed
from ..dataset import Dataset
from ..edges import make_undirected
from ..info import Counts, GraphInfo
from .npz import read_npz
from .pyg import quiet_pyg

NUM_SPLITS = 10
"""Published splits of each data set: half train, a quarter valid, a quarter test."""


def _info(name: str, *, nodes: int, edges: int, features: int, classes: int) -> GraphInfo:
    is_binary = classes == 2
    return GraphInfo(
        name=name,
        task="binary" if is_binary else "multiclass",
        metric="rocauc" if is_binary else "accuracy",
        num_outputs=1 if is_binary else classes,
        in_channels=features,
        counts=Counts(nodes=nodes, edges=2 * edges, splits=(("train", nodes // 2),)),
    )


HETEROPHILOUS = {
    info.name: info
    for info in (
        _info("minesweeper", nodes=10_000, edges=39_402, features=7, classes=2),
        _info("tolokers", nodes=11_758, edges=519_000, features=10, classes=2),
        _info("questions", nodes=48_921, edges=153_540, features=301, classes=2),
        _info("roman-empire", nodes=22_662, edges=32_927, features=300, classes=18),
        _info("amazon-ratings", nodes=24_492, edges=93_050, features=300, classes=5),
    )
}
"""Name -> what its authors say of it, every edge counted in both directions. Source: arXiv:2302.11640, table 3."""
_KEYS = ("node_features", "node_labels", "edges", "train_masks", "val_masks", "test_masks")


def read_heterophilous(name: str, root: Path, *, split: int = 0, download: bool = False) -> Dataset:
    """Read a heterophilous graph with one of its ten splits, every edge in both directions.

    The task of the graphs with two classes is one yes-or-no label a node, measured by ROC-AUC; that of the others is
    one class of several, measured by accuracy.

    Args:
        name: one of `HETEROPHILOUS`.
        root: looked into at ``NAME.npz``, and in PyG's layout at ``NAME/raw`` and ``heterophilous/NAME/raw``, the name
            with underscores.
        split: 0 to 9.
        download: let PyG fetch it into ``root/heterophilous`` where it is in none of these.
    Raises:
        FileNotFoundError: it is missing.
        ValueError: the file is damaged, or lacks an array.
    Source: Platonov et al. 2023 (arXiv:2302.11640).
    """
    path = _find(name.replace("-", "_"), root, download)
    arrays = _read(path)
    info, y = HETEROPHILOUS[name], torch.from_numpy(arrays["node_labels"]).long()
    x = torch.from_numpy(arrays["node_features"]).float()
    edge_index, _ = make_undirected(torch.from_numpy(arrays["edges"]).long().T, None, x.size(0))
    return Dataset(
        info=info,
        x=x,
        edge_index=edge_index,
        y=y if info.task_spec.labels == "classes" else y[:, None].float(),
        splits={
            ours: torch.from_numpy(np.flatnonzero(arrays[f"{theirs}_masks"][split]))
            for ours, theirs in (("train", "train"), ("valid", "val"), ("test", "test"))
        },
    )


def _find(name: str, root: Path, download: bool) -> Path:
    folder = root / "heterophilous"
    file = f"{name}.npz"
    looked = (root / file, root / name / "raw" / file, folder / name / "raw" / file)
    found = next((path for path in looked if path.is_file()), None)
    if found is None and not download:
        raise FileNotFoundError(
            f"{file} is none of {', '.join(map(str, looked))}; name the folder that holds it with --data-root, or let "
            "PyG fetch it with --download"
        )
    if found is None:
        with quiet_pyg():
            from torch_geometric.datasets import HeterophilousGraphDataset

            # Other ranks and processes wait for the first one to download.
            with claimed(folder / name, beside=True, patience=math.inf):
                HeterophilousGraphDataset(str(folder), name)
        found = looked[-1]
    return found


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    arrays = read_npz(path, _KEYS)
    nodes, edges = len(arrays["node_features"]), arrays["edges"]
    if edges.ndim != 2 or edges.shape[1] != 2 or (edges.size and not 0 <= edges.min() <= edges.max() < nodes):
        raise ValueError(f"{path}: edges must be [E, 2] numbers of {nodes} nodes, got {list(edges.shape)}")
    for key in _KEYS[3:]:
        if arrays[key].shape != (NUM_SPLITS, nodes):
            raise ValueError(f"{path}: {key} must be [{NUM_SPLITS}, {nodes}], got {list(arrays[key].shape)}")
    return arrays
