"""Finds the sizes of a data set without its data, and makes synthetic data of these sizes, also scaled down.

Memory depends on sizes only. Those of a published data set are in `DATASETS`; a folder's are read from its tables or
from its manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..data import Columns, Counts, Dataset, DatasetConfig, GraphInfo, Store, find_dataset, is_store, load_dataset
from ..data.prepare.config import FeatureConfig
from ..data.prepare.inference import width_of
from ..data.prepare.inputs import num_rows
from ..data.readers.ogb import OGB
from ..data.readers.tables import described_tables
from ..data.task import find_task

CLASSES = 40
"""Assumed of tables, whose labels are not read."""
READ_PARTS = 16
"""Parts of a prepared graph whose blocks of edges are looked at."""


@dataclass(frozen=True, kw_only=True)
class GraphShape:
    """Sizes of a data set with prepared edges, and its partition."""

    info: GraphInfo
    """Of the data set; ``self_loops`` says whether N of its edges are self loops, one of every node."""
    parts: int = 1
    """Parts of a prepared graph on disk."""
    kept: float | None = None
    """Share of the edges, loops apart, that batches of METIS clusters keep, or that a part on disk has within itself;
    ``None``: not known."""
    assumed: tuple[str, ...] = ()
    """Assumptions about unknown sizes, one sentence each."""

    @property
    def nodes(self) -> int:
        """N, over all graphs."""
        return self.info.counts.nodes

    @property
    def edges(self) -> int:
        """E directed edges, self loops included."""
        return self.info.counts.edges

    @property
    def graphs(self) -> int:
        """B, 1 at node level."""
        return self.info.counts.graphs

    @property
    def train(self) -> int:
        """Rows with a label to train on; 0: 60 percent of all."""
        return self.info.split_sizes.get("train", 0)

    @property
    def rows(self) -> int:
        """Rows of labels: nodes, or graphs."""
        return self.info.num_rows

    def scaled(self, factor: float) -> GraphShape:
        """Return the shape with nodes, edges, graphs and labels multiplied by a factor above 0."""
        return replace(self, info=self.info.scaled(factor))

    def counted(self, **counts: int) -> GraphShape:
        """Return the shape with other counts of ``nodes``, ``edges``, or rows to ``train`` on."""
        old = self.info.counts
        splits = (("train", counts.pop("train")),) if "train" in counts else old.splits
        return replace(self, info=replace(self.info, counts=replace(old, splits=splits, **counts)))


def shape_of_dataset(dataset: Dataset) -> GraphShape:
    """Return the shape of a loaded data set."""
    src, dst = dataset.edge_index
    self_loops = int((src == dst).sum()) == dataset.num_nodes
    return GraphShape(info=replace(dataset.info, self_loops=self_loops))


def shape_of_config(config: DatasetConfig, data_root: Path | str = Path()) -> GraphShape:
    """Return the shape of a data set from its configuration, without its data.

    Args:
        config: the configuration of a data set.
        data_root: folder for a relative ``config.path``, of which sizes are read.
    Raises:
        FileNotFoundError: the folder has neither tables nor a manifest, or there is no file of roads.
    """
    shape = _read_shape(config, Path(data_root).expanduser())
    if config.task is None:
        return shape
    task = find_task(shape.info.level, config.task)
    num_outputs = task.num_outputs or shape.info.num_outputs
    info = replace(shape.info, task=task.name, metric="", num_outputs=num_outputs, class_names=None)
    return replace(shape, info=info)


def _read_shape(config: DatasetConfig, data_root: Path) -> GraphShape:
    if config.name in {"tables", "prepared"}:
        assert config.path is not None, "DatasetConfig checks that tables have a path"
        return _with_edges(shape_of_folder(data_root / Path(config.path).expanduser(), config.columns), config)
    info = find_dataset(config.name).info
    if info is None:
        # It is generated, or one small file: it is read.
        return shape_of_dataset(load_dataset(config, data_root))
    info = replace(info, undirected=config.undirected, self_loops=config.self_loops)
    if config.name in OGB:
        return _with_edge_features(_ogb_shape(info, config), config)
    if config.split == "full":
        held_out = [(name, rows) for name, rows in info.counts.splits if name != "train"]
        train = info.counts.nodes - sum(rows for _, rows in held_out)
        info = replace(info, counts=replace(info.counts, splits=(("train", train), *held_out)))
    # Every edge of these is there in both directions, and no self loop.
    return GraphShape(info=info).counted(edges=info.counts.edges + (info.counts.nodes if config.self_loops else 0))


def _ogb_shape(info: GraphInfo, config: DatasetConfig) -> GraphShape:
    facts, edges = OGB[config.name], info.counts.edges
    if config.name == "ogbn-proteins":
        info = replace(info, in_channels=16 if config.proteins.species else 8)
    if config.undirected:
        edges = facts.both_ways
    if config.self_loops:
        edges = facts.both_ways - facts.loops + info.counts.nodes
    return GraphShape(info=info).counted(edges=edges)


def _with_edge_features(shape: GraphShape, config: DatasetConfig) -> GraphShape:
    if config.edge_features:
        return shape
    return replace(shape, info=replace(shape.info, edge_channels=None, edge_features=(), edge_categories=None))


def shape_of_folder(folder: Path, columns: Columns | None = None) -> GraphShape:
    """Read the counts of a folder: from the manifest of a prepared graph, or from its two tables.

    Args:
        folder: with ``manifest.json``, with ``graph.yaml``, or with the tables nodes and edges.
        columns: what is known of the columns; ``None``: all is inferred.
    Raises:
        FileNotFoundError: the folder has neither.
        ValueError: the manifest lacks a count, or the tables have no column of numbers.
    """
    if is_store(folder):
        return _from_manifest(folder)
    try:
        config, nodes, edges = described_tables(folder, columns or Columns())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has neither manifest.json nor tables: {error}") from None
    if not config.nodes.features:
        raise ValueError(f"{nodes.names[0]} must have a column of numbers; got {nodes.schema.names}")
    weight = [FeatureConfig(column=config.edges.weight, encode="number")] if config.edges.weight else []
    outputs = CLASSES if config.spec.has_classes else config.spec.num_outputs or len(config.nodes.label)
    info = GraphInfo(
        name=config.name or folder.resolve().name,
        task=config.task,
        num_outputs=outputs,
        in_channels=sum(width_of(nodes, feature) for feature in config.nodes.features),
        edge_channels=sum(width_of(edges, feature) for feature in (*config.edges.features, *weight)) or None,
        edge_weight=bool(weight),
        counts=Counts(nodes=num_rows(nodes), edges=num_rows(edges)),
    )
    assumed = f"The columns do not tell how many classes there are: {CLASSES} are assumed."
    return GraphShape(info=info, assumed=(assumed,) if config.spec.has_classes else ())


def _with_edges(shape: GraphShape, config: DatasetConfig) -> GraphShape:
    """Count the edges of tables after preparation; duplicates are unknown, so each edge counts in both directions."""
    edges, assumed = shape.edges, list(shape.assumed)
    if config.undirected:
        edges *= 2
        assumed.append("Edges are counted both ways, as if no edge had its reverse in the table.")
    if config.self_loops:
        edges += shape.nodes
    info = replace(shape.info, undirected=config.undirected, self_loops=config.self_loops)
    shape = replace(shape, info=info, assumed=tuple(assumed))
    return _with_edge_features(shape.counted(edges=edges), config)


def _from_manifest(folder: Path) -> GraphShape:
    store = Store.open(folder)
    return GraphShape(info=store.info, parts=store.num_parts, kept=_within_parts(store))


def _within_parts(store: Store) -> float:
    """Estimate the share of the edges with both ends in one part, from some of the parts."""
    within = edges = 0
    for number in range(0, store.num_parts, -(-store.num_parts // READ_PARTS)):
        ptr = store.array(number, "block_ptr.npy")
        within, edges = within + int(ptr[number + 1] - ptr[number]), edges + int(ptr[-1])
    return round(within / max(edges, 1), 3)


# ------------------------------------------------------------------ data of a shape
def made_up(shape: GraphShape, seed: int = 0, *, runs: int = 1, kept: float = 1.0) -> Dataset:
    """Make a synthetic data set of a shape: random features, labels and edges, every edge in both directions.

    Args:
        shape: its shape; an odd number of edges is rounded down.
        seed: seed of the random numbers.
        runs: number of equal runs of consecutive nodes, at node level.
        kept: share of the edges, without self loops, with both ends in one run; equally many in each run.
    Cost: the whole data set in memory.
    """
    rng, info = np.random.default_rng(seed), shape.info
    node_ptr, edge_ptr, edge_index = _edges(shape, rng, runs, kept)
    edges = edge_index.shape[1]
    if info.task_spec.has_classes:
        y = torch.from_numpy(np.arange(shape.rows) % info.num_outputs)
    else:
        y = torch.from_numpy(rng.integers(0, 2, (shape.rows, info.num_outputs)).astype(np.float32))
        y[::2], y[1::2] = 0.0, 1.0
    order = torch.from_numpy(rng.permutation(shape.rows))
    train = min(shape.train or round(0.6 * shape.rows), shape.rows - 4)
    valid = (shape.rows - train) // 2
    stored = info.edge_channels if info.edge_categories is None else len(info.edge_categories)
    return Dataset(
        info=info,
        x=_features(rng, shape.nodes, info.in_channels, info.categories),
        edge_index=torch.from_numpy(edge_index),
        edge_attr=None if stored is None else _features(rng, edges, stored, info.edge_categories),
        y=y,
        splits={"train": order[:train], "valid": order[train : train + valid], "test": order[train + valid :]},
        node_ptr=node_ptr,
        edge_ptr=edge_ptr,
    )


def _features(rng: np.random.Generator, rows: int, columns: int, categories: tuple[int, ...] | None) -> torch.Tensor:
    if categories is not None:
        codes = [rng.integers(0, size, rows, dtype=np.uint8) for size in categories]
        return torch.from_numpy(np.stack(codes, 1))
    return torch.from_numpy(rng.random((rows, columns), np.float32))


def _edges(
    shape: GraphShape, rng: np.random.Generator, runs: int, kept: float
) -> tuple[torch.Tensor | None, torch.Tensor | None, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    if shape.info.task_spec.has_many_graphs:
        return _small_graphs(shape, rng)
    loops = np.arange(shape.nodes) if shape.info.self_loops else np.empty(0, np.int64)
    pairs = max(shape.edges - len(loops), 0) // 2
    ends = -(-np.arange(runs + 1) * shape.nodes // runs)
    run = np.arange(pairs) % runs
    # Of pairs that leave their run the other end lies in one of the others.
    other = np.where(np.arange(pairs) < round(kept * pairs), run, (run + rng.integers(1, max(runs, 2), pairs)) % runs)
    a, b = (ends[of] + (rng.random(pairs) * (ends[of + 1] - ends[of])).astype(np.int64) for of in (run, other))
    b = np.where(a == b, ends[run] + (b + 1 - ends[run]) % (ends[run + 1] - ends[run]), b)
    return None, None, np.stack([np.concatenate([a, b, loops]), np.concatenate([b, a, loops])])


def _small_graphs(
    shape: GraphShape, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """Make graphs whose sizes differ by at most one node and one edge."""
    node_ptr = np.arange(shape.graphs + 1) * shape.nodes // shape.graphs
    pair_ptr = np.arange(shape.graphs + 1) * (shape.edges // 2) // shape.graphs
    of = np.repeat(np.arange(shape.graphs), np.diff(pair_ptr))
    size, first = np.diff(node_ptr)[of], node_ptr[:-1][of]
    a, b = (first + (rng.random(len(of)) * size).astype(np.int64) for _ in range(2))
    both = np.stack([np.stack([a, b]), np.stack([b, a])], 2).reshape(2, -1)
    return torch.from_numpy(node_ptr), torch.from_numpy(2 * pair_ptr), both
