"""Every data set by its name: one table, one configuration, one function.

Hides which reader a name belongs to and where under the data root its files lie. Adding a data set is one line of
`DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from .dataset import Dataset
from .edges import prepare_edges
from .ondisk.store import Store
from .readers.city import CITIES, read_city
from .readers.embedded import read_digits, read_karate
from .readers.heterophilous import HETEROPHILOUS, NUM_SPLITS, read_heterophilous
from .readers.minefield import MinefieldOptions, make_minefield
from .readers.ogb import ProteinsFeatures, read_ogb
from .readers.pyg import PLANETOID, read_planetoid
from .readers.roads import read_roads
from .readers.tables import Columns, read_tables
from .task import Task, find_task


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which data set, and what is done to its edges before training."""

    name: str
    """One of `DATASETS`."""
    path: str | None = None
    """For ``tables``: the folder with nodes.parquet and edges.parquet; for ``prepared``: the folder that
    ``revgnn prepare`` wrote; for ``roads``: the ``.npz`` file. Absolute, or below the data root."""
    columns: Columns = field(default_factory=Columns)
    """For ``tables`` alone: what the columns are called."""
    split: int | Literal["public", "full"] | None = None
    """Which split, where several are published: 0 to 9 of the heterophilous graphs and of ``minefield``; "public" or
    "full" (all that neither select nor test) of Cora, CiteSeer and PubMed. ``None``: the first of these; with
    ``--runs``, the number of each seed."""
    undirected: bool = False
    """Add the reverse of every edge and drop repeats."""
    self_loops: bool = False
    """Give every node exactly one self loop; those that exist are replaced. Not with edge features."""
    edge_features: bool = True
    """Whether edges keep their features; False drops them once node features are made of them."""
    proteins: ProteinsFeatures = field(default_factory=ProteinsFeatures)
    """For ``ogbn-proteins`` alone: which node features are made of its edges."""
    minefield: MinefieldOptions = field(default_factory=MinefieldOptions)
    """For ``minefield`` alone: which field is generated."""

    task: str | None = None
    """What is predicted, where it is another than the data say: "binary" makes one yes-or-no label of two classes, the
    second being yes. ``None``: as the data say."""
    metric: str | None = None
    """What selects the best epoch, one of those that go with the task; ``None``: the data set's own."""

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise ValueError(f"dataset.name={self.name!r} is unknown; choose one of {', '.join(DATASETS)}")
        if (self.name in {"tables", "prepared", "roads"}) != (self.path is not None):
            raise ValueError(
                f"dataset.path={self.path!r} with dataset.name={self.name!r}: the folder of a graph of your own goes "
                "with the name tables or prepared, the file of a road network with roads, and none with another"
            )
        splits = self.splits
        if self.split is not None and self.split not in splits:
            raise ValueError(
                f"dataset.split={self.split!r}: {self.name} has "
                + (f"the splits {', '.join(map(str, splits))}; choose one" if splits else "one split; leave it out")
            )
        if self.name == "prepared" and (self.undirected or self.self_loops or not self.edge_features or self.task):
            raise ValueError(
                "dataset.undirected, self_loops, edge_features and task of a prepared graph are what revgnn prepare "
                "made them: leave them out, or prepare it anew"
            )
        if self.name != "tables" and self.columns != Columns():
            raise ValueError(f"dataset.columns names columns of your own tables; leave it out for {self.name}")
        if self.name != "ogbn-proteins" and self.proteins != ProteinsFeatures():
            raise ValueError(f"dataset.proteins is about ogbn-proteins; leave it out for {self.name}")
        if self.name != "minefield" and self.minefield != MinefieldOptions():
            raise ValueError(f"dataset.minefield is about minefield; leave it out for {self.name}")

    @property
    def splits(self) -> tuple[int | str, ...]:
        """The published splits, the first of them the usual one; empty where there is only one."""
        if self.name in _FOLDERS:
            return ("public", "full")
        return tuple(range(NUM_SPLITS)) if self.name in HETEROPHILOUS or self.name == "minefield" else ()

    def with_seed(self, seed: int) -> DatasetConfig:
        """Give what one of several runs trains on: split ``seed % 10`` where splits have numbers and none is chosen."""
        is_open = self.split is None and 0 in self.splits
        return replace(self, split=seed % NUM_SPLITS) if is_open else self


def load_dataset(config: DatasetConfig, root: Path | str, *, download: bool = False) -> Dataset:
    """Read a data set and prepare its edges.

    Args:
        config: which one, and what to do to its edges.
        root: the folder under which data lies or goes (``--data-root``); nothing is written there but downloads.
        download: fetch what is missing where its source allows it (OGB through the ogb package, others through PyG).
    Returns: the data set.
    Raises:
        FileNotFoundError: if it is not there, saying where was looked and how to get it.
        ValueError: if its files are damaged or contradict each other.
    Cost: the whole data set is held in memory.
    """
    dataset = DATASETS[config.name](config, Path(root).expanduser(), download)
    if not config.edge_features and dataset.edge_attr is not None:
        dataset = replace(dataset, edge_attr=None)
    dataset = prepare_edges(dataset, undirected=config.undirected, self_loops=config.self_loops)
    if config.task is not None:
        dataset = _as_task(dataset, find_task(dataset.info.level, config.task))
    return dataset if config.metric is None else replace(dataset, info=replace(dataset.info, metric=config.metric))


def _as_task(dataset: Dataset, wanted: Task) -> Dataset:
    """Give a data set whose labels are read as another task's.

    Raises: ValueError: they cannot be.
    """
    info, own, y = dataset.info, dataset.info.task_spec, dataset.y
    if wanted is own:
        return dataset
    num_outputs = info.num_outputs
    if own.has_classes and info.num_outputs == wanted.num_names:
        y = torch.where(own.labelled(y), y.float(), torch.nan)[:, None]
        num_outputs = 1
    elif own.labels != wanted.labels or wanted.num_outputs not in (None, num_outputs):
        raise ValueError(
            f"dataset.task={wanted.name} cannot be made of {info.name}, a {own} task of {num_outputs} outputs; leave "
            "dataset.task out"
        )
    return replace(dataset, y=y, info=replace(info, task=wanted.name, metric="", num_outputs=num_outputs))


def open_store(config: DatasetConfig, root: Path | str) -> Store:
    """Open a prepared graph without reading it.

    Args:
        config: of the name ``prepared``.
        root: what its path is below, unless it is absolute.
    Raises:
        ValueError: another data set, which is no folder of parts; or a damaged one.
        FileNotFoundError: the folder is no prepared graph.
    """
    if config.name != "prepared" or config.path is None:
        raise ValueError(
            f"loader.kind=ondisk reads the parts of a prepared graph, got dataset.name={config.name}; make one with "
            "revgnn prepare, or choose another loader.kind"
        )
    store = Store.open(Path(root).expanduser() / Path(config.path).expanduser())
    return store if config.metric is None else store.judged_by(config.metric)


def _ogb(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_ogb(config.name, root, download=download, proteins=config.proteins)


def _tables(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    assert config.path is not None, "DatasetConfig checks that tables have a path"
    return read_tables(root / Path(config.path).expanduser(), config.columns)


def _planetoid(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_planetoid(_FOLDERS[config.name], root, full=config.split == "full", download=download)


def _heterophilous(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_heterophilous(config.name, root, split=_number(config), download=download)


def _number(config: DatasetConfig) -> int:
    return config.split if isinstance(config.split, int) else 0


def _city(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_city(config.name.removeprefix("city-"), root, download=download)


def _roads(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    assert config.path is not None, "DatasetConfig checks that roads have a path"
    return read_roads(root / Path(config.path).expanduser())


_FOLDERS = {info.name: folder for folder, info in PLANETOID.items()}
"""Name -> how Planetoid's folder is called."""

DATASETS: Mapping[str, Callable[[DatasetConfig, Path, bool], Dataset]] = {
    "digits": lambda config, root, download: read_digits(),
    "karate": lambda config, root, download: read_karate(),
    "minefield": lambda config, root, download: make_minefield(config.minefield, _number(config)),
    **dict.fromkeys(_FOLDERS, _planetoid),
    **dict.fromkeys(HETEROPHILOUS, _heterophilous),
    **dict.fromkeys((f"city-{city}" for city in CITIES), _city),
    "roads": _roads,
    "ogbn-arxiv": _ogb,
    "ogbn-products": _ogb,
    "ogbn-proteins": _ogb,
    "ogbg-molhiv": _ogb,
    "tables": _tables,
    "prepared": lambda config, root, download: open_store(config, root).load(),
}
"""Name -> reader of (configuration, data root, whether to download)."""
