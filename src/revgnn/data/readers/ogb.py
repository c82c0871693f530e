"""Reader of OGB's raw folders: compressed CSV and the binary form, node and graph level, splits included.

The ogb package is only needed to download. A folder contains files such as ``ogbn_arxiv/raw/edge.csv.gz`` and
``ogbn_arxiv/split/time/train.csv.gz``. The facts of each data set are from OGB's own table. Source: Hu et al. 2020
(arXiv:2005.00687).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...files import DAMAGED_ARRAY
from ...run_lock import claimed
from ..dataset import Dataset
from ..edges import interleave_inverse
from ..info import Counts, GraphInfo
from ..task import SPLITS
from .csv_gz import read_csv_gz

_URL = "http://snap.stanford.edu/ogb/data"
ATOM_CATEGORIES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Codes of OGB's atom columns: atomic number, chirality, degree, charge, hydrogens, radicals, hybridisation, aromatic,
in a ring."""
BOND_CATEGORIES = (5, 6, 2)
"""Codes of OGB's bond columns: type, stereo, conjugated."""


@dataclass(frozen=True, kw_only=True)
class OgbFacts:
    """Facts of a data set from OGB's table and pages that its folder does not contain."""

    info: GraphInfo
    """Of the published data set as `read_ogb` gives it: edges with their inverse where the files leave it out."""
    scheme: str
    """Folder under ``split`` of the leaderboard's split."""
    url: str
    """URL of the archive, which unpacks into a folder of the archive's name."""
    one_way: bool
    """Whether the CSV form has each undirected edge once, so that the reader adds its inverse."""
    both_ways: int
    """Edges after the reverse of every edge is added and repeats are dropped; self loops that exist stay."""
    loops: int = 0
    """Self loops among those."""


OGB = {
    facts.info.name: facts
    for facts in (
        OgbFacts(
            info=GraphInfo(
                name="ogbn-arxiv",
                num_outputs=40,
                in_channels=128,
                counts=Counts(nodes=169_343, edges=1_166_243, splits=(("train", 90_941),)),
            ),
            scheme="time",
            url=f"{_URL}/nodeproppred/arxiv.zip",
            one_way=False,
            both_ways=2_315_598,
        ),
        OgbFacts(
            info=GraphInfo(
                name="ogbn-products",
                num_outputs=47,
                in_channels=100,
                counts=Counts(nodes=2_449_029, edges=123_718_280, splits=(("train", 196_615),)),
            ),
            scheme="sales_ranking",
            url=f"{_URL}/nodeproppred/products.zip",
            one_way=True,
            both_ways=123_718_152,
            loops=128,
        ),
        OgbFacts(
            info=GraphInfo(
                name="ogbn-proteins",
                task="multilabel",
                num_outputs=112,
                edge_channels=8,
                counts=Counts(nodes=132_534, edges=79_122_504, splits=(("train", 86_619),)),
            ),
            scheme="species",
            url=f"{_URL}/nodeproppred/proteins.zip",
            one_way=True,
            both_ways=79_122_504,
        ),
        OgbFacts(
            info=GraphInfo(
                name="ogbg-molhiv",
                level="graph",
                task="multilabel",
                num_outputs=1,
                in_channels=len(ATOM_CATEGORIES),
                categories=ATOM_CATEGORIES,
                edge_channels=sum(BOND_CATEGORIES),
                edge_categories=BOND_CATEGORIES,
                counts=Counts(nodes=1_049_163, edges=2_259_376, graphs=41_127, splits=(("train", 32_901),)),
            ),
            scheme="scaffold",
            url=f"{_URL}/graphproppred/csv_mol_download/hiv.zip",
            one_way=True,
            both_ways=2_259_376,
        ),
    )
}
"""OGB's names -> what its table and pages say of them. Features of ogbn-proteins are made of its edges: 0 columns."""


@dataclass(frozen=True, kw_only=True)
class ProteinsFeatures:
    """How node features are computed for ogbn-proteins, which has none.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import ProteinsFeatures
        >>> config = revgnn.DatasetConfig(name="ogbn-proteins", proteins=ProteinsFeatures(species=False))
    """

    reduce: Literal["sum", "mean", "max"] = "sum"
    """How the features of a node's edges are reduced to node features."""
    species: bool = True
    """Whether to append one column per species."""


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """The files of a raw folder as arrays; node numbers count from 0 in every graph."""

    edge_index: NDArray[np.int64]
    node_counts: NDArray[np.int64]
    edge_counts: NDArray[np.int64]
    node_feat: NDArray[Any] | None
    edge_feat: NDArray[Any] | None
    species: NDArray[np.int64] | None
    labels: NDArray[Any]


def read_ogb(
    name: str, root: Path, *, download: bool = False, proteins: ProteinsFeatures = ProteinsFeatures()
) -> Dataset:
    """Read an OGB data set from its raw folder.

    Node features that OGB does not give (ogbn-proteins) are the sum of the edge features over a node's edges, followed
    by one column per species, unless ``proteins`` says otherwise. Atom and bond codes stay codes.

    Args:
        name: one of `OGB`.
        root: holds the folder, as ogb's own loaders lay it: ``root/ogbn_arxiv/raw``.
        download: fetch it through the ogb package where the folder is missing.
        proteins: which node features ogbn-proteins is given; nothing to the others.
    Returns: the data set, inverse edges added where OGB's own loader adds them.
    Raises:
        FileNotFoundError: if the folder or a file of it is missing.
        ValueError: if a file is damaged or does not fit the others, naming file and row.
        ModuleNotFoundError: if a download is wanted and ogb is not installed.
    Cost: one pass over each file; the memory of the result and one copy of its edges.
    """
    facts = OGB[name]
    folder = root / name.replace("-", "_")
    if not folder.is_dir():
        if not download:
            raise FileNotFoundError(
                f"{name} is not at {folder}; name the folder that holds {folder.name} with --data-root, or fetch it "
                "with --download, which needs pip install 'revgnn[ogb]'"
            )
        # Other ranks and processes wait for the first one to download.
        with claimed(folder, beside=True, patience=math.inf):
            if not folder.is_dir():
                _download(facts.url, folder)
    binary = (folder / "raw" / "data.npz").is_file()
    raw = _read_binary(folder / "raw", facts) if binary else _read_csv(folder / "raw", facts)
    _check_edges(raw, folder / "raw")
    splits = _read_splits(folder / "split", facts)
    return _assemble(name, facts, raw, splits, inverse=facts.one_way and not binary, proteins=proteins)


def _download(url: str, folder: Path) -> None:
    try:
        from ogb.utils.url import download_url, extract_zip
    except ImportError as error:
        raise ModuleNotFoundError(
            f"downloading {folder.name} needs the ogb package: pip install 'revgnn[ogb]'; or put the folder at {folder}"
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = Path(download_url(url, str(folder.parent)))
    extract_zip(str(archive), str(folder.parent))
    archive.unlink()
    archive.with_suffix("").rename(folder)


def _read_csv(raw: Path, facts: OgbFacts) -> _Raw:
    label_file = raw / f"{facts.info.level}-label.csv.gz"
    required = [raw / "edge.csv.gz", raw / "num-node-list.csv.gz", raw / "num-edge-list.csv.gz", label_file]
    _require(required, raw)
    node_counts = read_csv_gz(required[1], np.int64, columns=1)[:, 0]
    edge_counts = read_csv_gz(required[2], np.int64, columns=1)[:, 0]
    num_nodes, num_edges = int(node_counts.sum()), int(edge_counts.sum())

    def optional(names: tuple[str, ...], dtype: type[np.generic], rows: int) -> NDArray[Any] | None:
        found = next((raw / name for name in names if (raw / name).is_file()), None)
        return None if found is None else read_csv_gz(found, dtype, rows=rows)

    return _Raw(
        edge_index=read_csv_gz(required[0], np.int64, rows=num_edges, columns=2).T,
        node_counts=node_counts,
        edge_counts=edge_counts,
        node_feat=optional(("node-feat.csv.gz",), np.uint8 if facts.info.categories else np.float32, num_nodes),
        edge_feat=optional(("edge-feat.csv.gz",), np.uint8 if facts.info.edge_categories else np.float32, num_edges),
        species=optional(("node_species.csv.gz", "species.csv.gz"), np.int64, num_nodes),
        labels=read_csv_gz(
            label_file,
            np.float32,
            rows=len(node_counts) if facts.info.task_spec.has_many_graphs else num_nodes,
            columns=1 if facts.info.task_spec.has_classes else facts.info.num_outputs,
        ),
    )


def _read_binary(raw: Path, facts: OgbFacts) -> _Raw:
    label_file = raw / f"{facts.info.level}-label.npz"
    _require([raw / "data.npz", label_file], raw)
    data, labels = _load_npz(raw / "data.npz"), _load_npz(label_file)
    label_key = f"{facts.info.level}_label"
    missing = [key for key in ("edge_index", "num_nodes_list", "num_edges_list") if key not in data]
    if missing or label_key not in labels:
        at = raw / "data.npz" if missing else label_file
        raise ValueError(f"{at} must hold {', '.join(missing) or label_key}; replace it by a fresh copy")

    def features(key: str, categories: tuple[int, ...] | None) -> NDArray[Any] | None:
        return np.asarray(data[key], np.uint8 if categories else np.float32) if key in data else None

    return _Raw(
        edge_index=data["edge_index"].astype(np.int64, copy=False),
        node_counts=data["num_nodes_list"].astype(np.int64).reshape(-1),
        edge_counts=data["num_edges_list"].astype(np.int64).reshape(-1),
        node_feat=features("node_feat", facts.info.categories),
        edge_feat=features("edge_feat", facts.info.edge_categories),
        species=data.get("node_species"),
        labels=labels[label_key].astype(np.float32).reshape(len(labels[label_key]), -1),
    )


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except DAMAGED_ARRAY as error:
        raise ValueError(f"{path} cannot be read as arrays: {error}; replace it by a fresh copy") from error


def _read_splits(folder: Path, facts: OgbFacts) -> dict[str, Tensor]:
    schemes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    scheme = schemes[0] if len(schemes) == 1 else facts.scheme
    files = {split: folder / scheme / f"{split}.csv.gz" for split in SPLITS}
    _require(list(files.values()), folder / scheme)
    return {split: torch.from_numpy(read_csv_gz(file, np.int64, columns=1)[:, 0]) for split, file in files.items()}


def _require(files: list[Path], folder: Path) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; delete the folder and fetch it with --download")


def _check_edges(raw: _Raw, folder: Path) -> None:
    if raw.edge_index.shape != (2, int(raw.edge_counts.sum())) or len(raw.node_counts) != len(raw.edge_counts):
        raise ValueError(
            f"{folder}: {list(raw.edge_index.shape)} edges do not fit the counts of {len(raw.node_counts)} graphs with "
            f"{int(raw.edge_counts.sum())} edges; replace the folder by a fresh copy"
        )
    one_graph = len(raw.node_counts) == 1
    limit = raw.node_counts if one_graph else np.repeat(raw.node_counts, raw.edge_counts)
    bad = ((raw.edge_index < 0) | (raw.edge_index >= limit)).any(axis=0)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{folder}, edges: row {row} joins {raw.edge_index[0, row]} and {raw.edge_index[1, row]} in a graph of "
            f"{limit[0 if one_graph else row]} nodes ({int(bad.sum())} such rows); replace the folder by a fresh copy"
        )


def _assemble(
    name: str, facts: OgbFacts, raw: _Raw, splits: dict[str, Tensor], *, inverse: bool, proteins: ProteinsFeatures
) -> Dataset:
    node_ptr, edge_ptr = _pointers(raw.node_counts), _pointers(raw.edge_counts)
    edge_index = torch.from_numpy(np.ascontiguousarray(raw.edge_index))
    edge_attr = None if raw.edge_feat is None else torch.from_numpy(raw.edge_feat)
    if facts.info.task_spec.has_many_graphs:
        edge_index = edge_index + torch.repeat_interleave(node_ptr[:-1], edge_ptr.diff())
    if inverse:
        edge_index, edge_attr = interleave_inverse(edge_index, edge_attr)
        edge_ptr = 2 * edge_ptr
    if raw.node_feat is not None:
        x = torch.from_numpy(raw.node_feat)
    else:
        species = raw.species if proteins.species else None
        x = _features_from_edges(name, edge_index, edge_attr, int(node_ptr[-1]), species, proteins.reduce)
    return Dataset(
        info=facts.info,
        x=x,
        edge_index=edge_index,
        edge_attr=edge_attr,
        y=_labels(name, facts, raw.labels),
        splits=splits,
        node_ptr=node_ptr if facts.info.task_spec.has_many_graphs else None,
        edge_ptr=edge_ptr if facts.info.task_spec.has_many_graphs else None,
    )


def _pointers(counts: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _features_from_edges(
    name: str,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    num_nodes: int,
    species: NDArray[np.int64] | None,
    reduce: Literal["sum", "mean", "max"],
) -> Tensor:
    """Reduce edge features over each node's outgoing edges, then append the species as one-hot columns.

    A node without edges has zeros.

    Cost: one pass over the E x K features; nothing of their size is made.
    Source: the node features of DeeperGCN (arXiv:2006.07739) on ogbn-proteins, unnormalised.
    """
    if edge_attr is None:
        raise ValueError(f"{name} has neither node features nor edge features to make them of; replace the folder")
    x = edge_attr.new_zeros(num_nodes, edge_attr.size(1))
    if reduce == "max":
        rows = edge_index[0].unsqueeze(1).expand_as(edge_attr)
        x.scatter_reduce_(0, rows, edge_attr, "amax", include_self=False)
    else:
        x.index_add_(0, edge_index[0], edge_attr)
    if reduce == "mean":
        x /= torch.bincount(edge_index[0], minlength=num_nodes).clamp(min=1).unsqueeze(1)
    if species is None:
        return x
    _, kind = np.unique(species.reshape(-1), return_inverse=True)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(kind)).to(x.dtype)
    return torch.cat([x, one_hot], dim=1)


def _labels(name: str, facts: OgbFacts, labels: NDArray[Any]) -> Tensor:
    if not facts.info.task_spec.has_classes:
        return torch.from_numpy(labels)
    classes = np.where(np.isnan(labels[:, 0]), -1, labels[:, 0])
    broken = classes != np.round(classes)
    if broken.any():
        row = int(broken.argmax())
        raise ValueError(
            f"{name}: labels must be whole numbers: row {row} has {classes[row]} ({int(broken.sum())} such rows)"
        )
    return torch.from_numpy(classes.astype(np.int64))
