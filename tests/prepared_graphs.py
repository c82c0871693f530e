"""Small prepared graphs on disk for tests, and what they hold in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from revgnn.data import GraphInfo
from revgnn.data.ondisk.folder import new_store
from revgnn.data.ondisk.manifest import Feature, Manifest, write_manifest
from revgnn.data.ondisk.part import PartArrays, write_part


@dataclass(frozen=True, kw_only=True)
class GraphSource:
    """What was written: nodes by number, edges in an order of their own."""

    x: NDArray[np.float32]
    y: NDArray[Any]
    split: NDArray[np.int8]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    edge_attr: NDArray[np.float32] | None
    part: NDArray[np.int64]
    ids: list[Any]


def draw_whole(
    seed: int = 0,
    *,
    nodes: int = 60,
    edges: int = 300,
    num_parts: int = 4,
    features: int = 5,
    edge_features: int = 0,
    task: str = "multiclass",
    outputs: int = 3,
    integer_ids: bool = False,
) -> GraphSource:
    """Draw a graph whose labels can be learnt from its features; nodes stand in order of their part."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((nodes, features)).astype(np.float32)
    scores = (x @ rng.standard_normal((features, outputs))).astype(np.float32)
    y: NDArray[Any] = scores.argmax(1)
    if task in ("multilabel", "binary"):
        y = (scores > 0).astype(np.float32)
        y[rng.random(y.shape) < 0.1] = np.nan
    elif task == "regression":
        y = scores
    names = rng.permutation(nodes)
    return GraphSource(
        x=x,
        y=y,
        split=rng.choice(np.array([0, 0, 1, 2, -1], np.int8), nodes),
        src=rng.integers(0, nodes, edges),
        dst=rng.integers(0, nodes, edges),
        edge_attr=rng.random((edges, edge_features)).astype(np.float32) if edge_features else None,
        part=np.sort(rng.integers(0, num_parts, nodes)),
        ids=[int(name) * 7 for name in names] if integer_ids else [f"node-{name}" for name in names],
    )


def write_store(
    out: Path,
    whole: GraphSource,
    *,
    num_parts: int = 4,
    task: Any = "multiclass",
    name: str = "drawn",
    class_names: tuple[str, ...] | None = None,
) -> Path:
    """Write a graph as `revgnn prepare` does."""
    starts = np.searchsorted(whole.part, np.arange(num_parts + 1))
    outputs = int(whole.y.max()) + 1 if task == "multiclass" else whole.y.shape[1]
    with new_store(out) as folder:
        parts = []
        for number in range(num_parts):
            rows = slice(starts[number], starts[number + 1])
            into = whole.part[whole.dst] == number
            source = whole.src[into]
            parts.append(
                write_part(
                    folder,
                    number,
                    PartArrays(
                        ids=pa.array(whole.ids[rows], None if whole.ids[rows] else pa.string()),
                        x=whole.x[rows],
                        y=whole.y[rows],
                        split=whole.split[rows],
                        src_part=whole.part[source],
                        src=source - starts[whole.part[source]],
                        dst=whole.dst[into] - starts[number],
                        edge_attr=None if whole.edge_attr is None else whole.edge_attr[into],
                    ),
                    num_parts=num_parts,
                )
            )
        manifest = Manifest(
            info=GraphInfo(
                name=name,
                task=task,
                num_outputs=outputs,
                features=(Feature(name="x", width=whole.x.shape[1]),),
                edge_features=() if whole.edge_attr is None else (Feature(name="w", width=whole.edge_attr.shape[1]),),
                class_names=class_names,
            ),
            splits={each: int((whole.split == code).sum()) for code, each in enumerate(("train", "valid", "test"))},
            partition={"method": "given"},
            parts=tuple(parts),
        )
        write_manifest(folder, manifest)
    return out
