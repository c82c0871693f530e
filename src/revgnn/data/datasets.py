"""Loads a data set by name: the table of data sets, their configuration and the function that reads them.

A new data set needs one entry in `DATASETS`, which the configuration, the planner and the documents read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from ..by_name import find_object, is_name
from .dataset import Dataset
from .edges import prepare_edges
from .info import GraphInfo
from .ondisk.store import Store
from .prepare.inference import Columns
from .readers.chain import ChainOptions, make_chains
from .readers.city import CITIES, read_city
from .readers.embedded import DIGITS, KARATE, read_digits, read_karate
from .readers.heterophilous import HETEROPHILOUS, NUM_SPLITS, read_heterophilous
from .readers.minefield import MinefieldOptions, make_minefield
from .readers.ogb import OGB, ProteinsFeatures, read_ogb
from .readers.pyg import PLANETOID, read_planetoid
from .readers.roads import read_roads
from .readers.tables import read_tables
from .task import Task, find_task


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """The choice of a data set and the changes to its edges before training.

    Examples:
        >>> import revgnn
        >>> config = revgnn.DatasetConfig(name="karate", self_loops=True, metric="macro_f1")
    """

    name: str
    """A key of `DATASETS`, or ``package.module:NAME`` of a `NamedDataset` of one's own."""
    path: str | None = None
    """For ``tables``: the folder with nodes and edges, or graph.yaml; for ``prepared``: the folder that
    ``revgnn prepare`` wrote; for ``roads``: the table of roads. Absolute, or below the data root."""
    columns: Columns = field(default_factory=Columns)
    """For ``tables`` only: what is known of the columns; the rest is inferred."""
    split: int | Literal["public", "full"] | None = None
    """The split, for data sets with several: 0 to 9 for the heterophilous graphs and ``minefield``; "public" or "full"
    (train on all nodes outside valid and test) for Cora, CiteSeer and PubMed. ``None``: the first of these; with
    ``--runs``, the number of each seed."""
    undirected: bool = False
    """Add the reverse of every edge and drop repeats."""
    self_loops: bool = False
    """Add one self loop to every node and replace existing ones. Not available with edge features."""
    edge_features: bool = True
    """Whether edges keep their features; False drops them after node features are computed from them."""
    proteins: ProteinsFeatures = field(default_factory=ProteinsFeatures)
    """For ``ogbn-proteins`` only: which node features are computed from its edges."""
    minefield: MinefieldOptions = field(default_factory=MinefieldOptions)
    """For ``minefield`` only: size and seed of the generated field."""
    chain: ChainOptions = field(default_factory=ChainOptions)
    """For ``chain`` only: length, number and seed of the generated chains."""

    task: str | None = None
    """Overrides the task of the data: "binary" turns two classes into one binary label, with the second class as
    positive. ``None``: the task of the data."""
    metric: str | None = None
    """Metric that selects the best epoch; must fit the task. ``None``: the data set's own."""

    def __post_init__(self) -> None:
        if find_dataset(self.name).has_path != (self.path is not None):
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
        for field_name, options, owner in (
            ("proteins", ProteinsFeatures(), "ogbn-proteins"),
            ("minefield", MinefieldOptions(), "minefield"),
            ("chain", ChainOptions(), "chain"),
        ):
            if self.name != owner and getattr(self, field_name) != options:
                raise ValueError(f"dataset.{field_name} is about {owner}; leave it out for {self.name}")

    @property
    def splits(self) -> tuple[int | str, ...]:
        """The published splits, the default first; empty if there is only one."""
        return find_dataset(self.name).splits

    def with_seed(self, seed: int) -> DatasetConfig:
        """Return the configuration of one of several runs, with the split of its number if none is chosen."""
        numbered = [split for split in self.splits if isinstance(split, int)]
        return replace(self, split=numbered[seed % len(numbered)]) if numbered and self.split is None else self


def load_dataset(
    config: DatasetConfig | str, root: Path | str, *, download: bool = False, like: GraphInfo | None = None
) -> Dataset:
    """Read a data set and prepare its edges.

    Args:
        config: the data set and the changes to its edges, or its name alone.
        root: the data folder (``--data-root``); only downloads are written to it.
        download: download missing files if possible (OGB through the ogb package, others through PyG).
        like: for tables only: metadata of the graph that a model was trained on, whose encodings and classes are taken
            over; ``None``: they are fitted to the tables.
    Returns: the data set.
    Raises:
        FileNotFoundError: files are missing; the message lists the searched folders and says how to get the data.
        ValueError: if its files are damaged or contradict each other.
    Cost: the whole data set is in memory.

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> data.x.shape, data.edge_index.shape
        (torch.Size([34, 34]), torch.Size([2, 156]))
    """
    root = Path(root).expanduser()
    config = DatasetConfig(name=config) if isinstance(config, str) else config
    if config.name == "tables" and like is not None:
        dataset = _tables(config, root, download, like)
    else:
        dataset = find_dataset(config.name).read(config, root, download)
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset.name={config.name} must read a revgnn.Dataset, got {type(dataset).__name__}")
    if not config.edge_features and dataset.edge_attr is not None:
        dataset = replace(dataset, edge_attr=None)
    dataset = prepare_edges(dataset, undirected=config.undirected, self_loops=config.self_loops)
    if config.task is not None:
        dataset = _as_task(dataset, find_task(dataset.info.level, config.task))
    return dataset if config.metric is None else replace(dataset, info=replace(dataset.info, metric=config.metric))


def _as_task(dataset: Dataset, wanted: Task) -> Dataset:
    """Return the data set with its labels converted to another task.

    Raises: ValueError: the labels do not allow this task.
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
        config: its name is ``prepared``.
        root: folder for a relative path.
    Raises:
        ValueError: another data set is configured, or the prepared graph is damaged.
        FileNotFoundError: the folder is not a prepared graph.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import open_store
        >>> open_store(revgnn.DatasetConfig(name="prepared", path="graph"), root=".").num_nodes
        60
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


def _tables(config: DatasetConfig, root: Path, download: bool, like: GraphInfo | None = None) -> Dataset:
    assert config.path is not None, "DatasetConfig checks that tables have a path"
    return read_tables(root / Path(config.path).expanduser(), config.columns, task=config.task, like=like)


def _planetoid(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_planetoid(_PLANETOID[config.name], root, full=config.split == "full", download=download)


def _heterophilous(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_heterophilous(config.name, root, split=_number(config), download=download)


def _number(config: DatasetConfig) -> int:
    return config.split if isinstance(config.split, int) else 0


def _city(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    return read_city(config.name.removeprefix("city-"), root, download=download)


def _roads(config: DatasetConfig, root: Path, download: bool) -> Dataset:
    assert config.path is not None, "DatasetConfig checks that roads have a path"
    return read_roads(root / Path(config.path).expanduser())


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """A data set by name: how it is read, and what is known of it without its files.

    Examples:
        >>> from revgnn.data import DATASETS, NamedDataset
        >>> chains = NamedDataset(read=DATASETS["chain"].read, asks="a node: the class of its chain", splits=(0, 1))
        >>> chains.has_path, chains.info is None
        (False, True)
    """

    read: Callable[[DatasetConfig, Path, bool], Dataset]
    """Reads it, of (configuration, data root, whether to download)."""
    asks: str
    """What a node is and what is predicted, for readers."""
    info: GraphInfo | None = None
    """Its metadata as published, under its first split; ``None``: it depends on the files or the configuration."""
    splits: tuple[int | str, ...] = ()
    """The published splits, the default first; empty if there is only one."""
    has_path: bool = False
    """Whether ``dataset.path`` names its file or folder."""
    download: str = ""
    """Who fetches it with ``--download``; empty: nobody."""


_NUMBERED = tuple(range(NUM_SPLITS))
_PLANETOID = {info.name: folder for folder, info in PLANETOID.items()}
"""Name -> name of Planetoid's folder."""
_ASKS = {
    "minesweeper": "a cell of a field: does it hold a mine?",
    "tolokers": "a worker of a platform, joined by common tasks: was the worker banned?",
    "questions": "a user of a forum, joined by answers: will the user stay?",
    "roman-empire": "a word of an article: its role in the sentence",
    "amazon-ratings": "a product, joined by common purchases: its mean rating, in five classes",
    "ogbn-arxiv": "a paper, joined by citations: its subject",
    "ogbn-products": "a product, joined by common purchases: its category",
    "ogbn-proteins": "a protein, joined by associations of eight kinds: its 112 functions",
    "ogbg-molhiv": "a molecule: does it inhibit HIV?",
}

DATASETS: dict[str, NamedDataset] = {
    "digits": NamedDataset(
        read=lambda config, root, download: read_digits(),
        asks="a handwritten digit, joined with those that look like it: which one is it?",
        info=DIGITS,
    ),
    "karate": NamedDataset(
        read=lambda config, root, download: read_karate(),
        asks="a member of a karate club: the community",
        info=KARATE,
    ),
    "minefield": NamedDataset(
        read=lambda config, root, download: make_minefield(config.minefield, _number(config)),
        asks="a cell of a field that is generated by the rule of Minesweeper: does it hold a mine?",
        splits=_NUMBERED,
    ),
    "chain": NamedDataset(
        read=lambda config, root, download: make_chains(config.chain),
        asks="a node of a generated chain: the class that its first node alone tells",
    ),
    **{
        name: NamedDataset(
            read=_planetoid,
            asks="a paper, joined by citations: its subject",
            info=PLANETOID[folder],
            splits=("public", "full"),
            download="PyG",
        )
        for name, folder in _PLANETOID.items()
    },
    **{
        name: NamedDataset(read=_heterophilous, asks=_ASKS[name], info=info, splits=_NUMBERED, download="PyG")
        for name, info in HETEROPHILOUS.items()
    },
    **{
        info.name: NamedDataset(
            read=_city,
            asks="a junction of a city's roads: the tenth of the nodes that it is in by its eccentricity",
            info=info,
            download="PyG",
        )
        for info in CITIES.values()
    },
    "roads": NamedDataset(read=_roads, asks="a junction of your road network: as for the cities", has_path=True),
    **{name: NamedDataset(read=_ogb, asks=_ASKS[name], info=facts.info, download="ogb") for name, facts in OGB.items()},
    "tables": NamedDataset(read=_tables, asks="a row of your own tables: what its label says", has_path=True),
    "prepared": NamedDataset(
        read=lambda config, root, download: open_store(config, root).load(),
        asks="what `revgnn prepare` wrote",
        has_path=True,
    ),
}
"""Name -> what the name stands for.

Examples:
    >>> from revgnn.data import DATASETS
    >>> "minefield" in DATASETS and "tables" in DATASETS
    True
"""


def find_dataset(name: str) -> NamedDataset:
    """Find a data set in `DATASETS`, or import it by ``package.module:NAME``.

    Raises:
        ValueError: there is none of this name, or the object is no `NamedDataset`.
        ImportError: the module cannot be imported.

    Examples:
        >>> from revgnn.data import find_dataset
        >>> find_dataset("minesweeper").splits
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    """
    if not is_name(name):
        if name not in DATASETS:
            raise ValueError(f"dataset.name={name!r} is unknown; choose one of {', '.join(DATASETS)}")
        return DATASETS[name]
    found = find_object(name)
    if not isinstance(found, NamedDataset):
        raise ValueError(f"dataset.name={name} must name a revgnn.data.NamedDataset, got {found!r}")
    return found
