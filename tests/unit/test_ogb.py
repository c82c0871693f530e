"""The reader of OGB's raw folders, on small folders written here: layout, inverse edges, splits, labels, faults."""

from __future__ import annotations

import gzip
import sys
import types
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from revgnn.data import DatasetConfig, ProteinsFeatures, load_dataset
from revgnn.data.readers.csv_gz import read_csv_gz
from revgnn.data.readers.ogb import ATOM_CATEGORIES, BOND_CATEGORIES, read_ogb
from tolerances import assert_close


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)


def write_splits(folder: Path, train: Sequence[int], valid: Sequence[int], test: Sequence[int]) -> None:
    for name, ids in (("train", train), ("valid", valid), ("test", test)):
        write_csv(folder / f"{name}.csv.gz", [[number] for number in ids])


@pytest.fixture
def arxiv(tmp_path: Path) -> Path:
    """Five papers that cite each other, one way."""
    raw = tmp_path / "ogbn_arxiv" / "raw"
    write_csv(raw / "edge.csv.gz", [(0, 1), (3, 1), (1, 4)])
    write_csv(raw / "num-node-list.csv.gz", [[5]])
    write_csv(raw / "num-edge-list.csv.gz", [[3]])
    write_csv(raw / "node-feat.csv.gz", [(0.5 * i, -1, 2.25) for i in range(5)])
    write_csv(raw / "node-label.csv.gz", [[3], [39], [0], [1], [2]])
    write_splits(raw.parent / "split" / "time", [4, 0], [1], [2, 3])
    return raw


@pytest.fixture
def proteins(tmp_path: Path) -> Path:
    """Three proteins of two species, two undirected edges with 8 features each."""
    raw = tmp_path / "ogbn_proteins" / "raw"
    write_csv(raw / "edge.csv.gz", [(0, 1), (2, 1)])
    write_csv(raw / "edge-feat.csv.gz", [[0.125 * i for i in range(8)], [1.5] * 8])
    write_csv(raw / "num-node-list.csv.gz", [[3]])
    write_csv(raw / "num-edge-list.csv.gz", [[2]])
    write_csv(raw / "node_species.csv.gz", [[9606], [3702], [9606]])
    write_csv(raw / "node-label.csv.gz", [[(i + j) % 2 for j in range(112)] for i in range(3)])
    write_splits(raw.parent / "split" / "species", [0], [1], [2])
    return raw


@pytest.fixture
def molhiv(tmp_path: Path) -> Path:
    """Three molecules of 2, 1 and 3 atoms; the second has no bond, the third no label."""
    raw = tmp_path / "ogbg_molhiv" / "raw"
    write_csv(raw / "edge.csv.gz", [(0, 1), (0, 2), (1, 2)])
    write_csv(raw / "edge-feat.csv.gz", [(0, 0, 1), (4, 5, 0), (3, 1, 1)])
    write_csv(raw / "num-node-list.csv.gz", [[2], [1], [3]])
    write_csv(raw / "num-edge-list.csv.gz", [[1], [0], [2]])
    write_csv(raw / "node-feat.csv.gz", [(5 + i, 0, 4, 5, 3, 0, 2, 0, 1) for i in range(6)])
    write_csv(raw / "graph-label.csv.gz", [[1], [0], [""]])
    write_splits(raw.parent / "split" / "scaffold", [1], [0], [2])
    return raw


def test_csv_node_level_is_read_as_it_stands(arxiv: Path, tmp_path: Path) -> None:
    data = read_ogb("ogbn-arxiv", tmp_path)
    assert (data.level, data.task, data.metric, data.num_outputs) == ("node", "multiclass", "accuracy", 40)
    assert data.edge_index.tolist() == [[0, 3, 1], [1, 1, 4]]
    assert data.edge_attr is None
    assert data.x.dtype == torch.float32
    assert data.x.tolist() == [[0.5 * i, -1.0, 2.25] for i in range(5)]
    assert data.y.tolist() == [3, 39, 0, 1, 2]
    assert {name: ids.tolist() for name, ids in data.splits.items()} == {"train": [4, 0], "valid": [1], "test": [2, 3]}


def test_proteins_make_node_features_of_edges_and_species(proteins: Path, tmp_path: Path) -> None:
    data = read_ogb("ogbn-proteins", tmp_path)
    first, second = [0.125 * i for i in range(8)], [1.5] * 8
    assert data.edge_index.tolist() == [[0, 1, 2, 1], [1, 0, 1, 2]]
    assert data.edge_attr is not None
    assert data.edge_attr.tolist() == [first, first, second, second]
    both = [a + b for a, b in zip(first, second, strict=True)]
    assert data.x.tolist() == [[*first, 0, 1], [*both, 1, 0], [*second, 0, 1]]
    assert data.y.dtype == torch.float32
    assert data.y.tolist() == [[float((i + j) % 2) for j in range(112)] for i in range(3)]
    assert (data.task, data.metric, data.num_outputs, data.edge_channels) == ("multilabel", "rocauc", 112, 8)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_node_features_of_proteins_are_the_per_node_loop(tmp_path: Path, reduce: Literal["sum", "mean", "max"]) -> None:
    nodes, edges, rng = 63, 400, np.random.default_rng(1)
    ends = rng.integers(0, nodes - 1, (edges, 2))  # the last node has no edge
    feats = rng.random((edges, 8), dtype=np.float32)
    raw = tmp_path / "ogbn_proteins" / "raw"
    write_csv(raw / "edge.csv.gz", ends.tolist())
    write_csv(raw / "edge-feat.csv.gz", feats.tolist())
    write_csv(raw / "num-node-list.csv.gz", [[nodes]])
    write_csv(raw / "num-edge-list.csv.gz", [[edges]])
    write_csv(raw / "node_species.csv.gz", [[9606 + number % 8] for number in range(nodes)])
    write_csv(raw / "node-label.csv.gz", [[0] * 112] * nodes)
    write_splits(raw.parent / "split" / "species", [0], [1], [2])
    data = read_ogb("ogbn-proteins", tmp_path, proteins=ProteinsFeatures(reduce=reduce))

    incident: dict[int, list[np.ndarray]] = {}
    for (source, destination), feat in zip(ends.tolist(), feats, strict=True):
        incident.setdefault(source, []).append(feat)
        incident.setdefault(destination, []).append(feat)
    loop = {"sum": np.sum, "mean": np.mean, "max": np.max}[reduce]
    expected = np.zeros((nodes, 8), np.float32)
    for node, rows in incident.items():
        expected[node] = loop(np.stack(rows).astype(np.float64), axis=0)
    assert_close(data.x[:, :8], torch.from_numpy(expected))
    assert bool((data.x[-1, :8] == 0).all())
    assert torch.equal(data.x[:, 8:].argmax(1), torch.arange(nodes) % 8)
    assert bool((data.x[:, 8:].sum(1) == 1).all())

    alone = read_ogb("ogbn-proteins", tmp_path, proteins=ProteinsFeatures(reduce=reduce, species=False))
    assert torch.equal(alone.x, data.x[:, :8])


def test_edges_can_lose_their_features_once_nodes_have_them(proteins: Path, tmp_path: Path) -> None:
    with_features = load_dataset(DatasetConfig(name="ogbn-proteins"), tmp_path)
    without = load_dataset(DatasetConfig(name="ogbn-proteins", edge_features=False), tmp_path)
    assert with_features.edge_channels == 8 and without.edge_attr is None
    assert torch.equal(without.x, with_features.x)
    with pytest.raises(ValueError, match=r"dataset\.proteins is about ogbn-proteins; leave it out for ogbn-arxiv"):
        DatasetConfig(name="ogbn-arxiv", proteins=ProteinsFeatures(species=False))


def test_arxiv_is_made_bidirected_with_one_self_loop_each(arxiv: Path, tmp_path: Path) -> None:
    write_csv(arxiv / "edge.csv.gz", [(0, 1), (1, 0), (3, 3)])
    data = load_dataset(DatasetConfig(name="ogbn-arxiv", undirected=True, self_loops=True), tmp_path)
    pairs = sorted(zip(*data.edge_index.tolist(), strict=True))
    assert pairs == sorted([(0, 1), (1, 0), *((node, node) for node in range(5))])


def test_species_file_of_older_releases_is_read(proteins: Path, tmp_path: Path) -> None:
    (proteins / "node_species.csv.gz").rename(proteins / "species.csv.gz")
    assert read_ogb("ogbn-proteins", tmp_path).in_channels == 10


def test_graph_level_numbers_nodes_over_all_graphs(molhiv: Path, tmp_path: Path) -> None:
    data = read_ogb("ogbg-molhiv", tmp_path)
    assert data.node_ptr is not None
    assert data.edge_ptr is not None
    assert data.node_ptr.tolist() == [0, 2, 3, 6]
    assert data.edge_ptr.tolist() == [0, 2, 2, 6]
    assert data.edge_index.tolist() == [[0, 1, 3, 5, 4, 5], [1, 0, 5, 3, 5, 4]]
    assert data.edge_attr is not None
    assert data.edge_attr.tolist() == [[0, 0, 1]] * 2 + [[4, 5, 0]] * 2 + [[3, 1, 1]] * 2
    assert data.x.dtype == data.edge_attr.dtype == torch.uint8
    assert data.x[:, 0].tolist() == [5, 6, 7, 8, 9, 10]
    assert (data.categories, data.edge_categories) == (ATOM_CATEGORIES, BOND_CATEGORIES)
    assert (sum(ATOM_CATEGORIES), sum(BOND_CATEGORIES), data.edge_channels) == (174, 13, 13)
    assert data.y.shape == (3, 1)
    assert data.y[:2, 0].tolist() == [1.0, 0.0]
    assert bool(data.y[2, 0].isnan())


def test_binary_form_holds_both_directions_already(tmp_path: Path) -> None:
    folder = tmp_path / "ogbn_products"
    (folder / "raw").mkdir(parents=True)
    x = np.arange(8, dtype=np.float16).reshape(4, 2)
    np.savez_compressed(
        folder / "raw" / "data.npz",
        edge_index=np.array([[0, 1, 2], [1, 0, 3]]),
        node_feat=x,
        num_nodes_list=np.array([4]),
        num_edges_list=np.array([3]),
    )
    np.savez_compressed(folder / "raw" / "node-label.npz", node_label=np.array([[4.0], [np.nan], [46.0], [0.0]]))
    write_splits(folder / "split" / "sales_ranking", [0], [2], [3])
    data = read_ogb("ogbn-products", tmp_path)
    assert data.edge_index.tolist() == [[0, 1, 2], [1, 0, 3]]
    assert data.x.tolist() == x.astype(float).tolist()
    assert data.y.tolist() == [4, -1, 46, 0]


def test_binary_form_names_what_it_lacks(tmp_path: Path) -> None:
    raw = tmp_path / "ogbn_products" / "raw"
    raw.mkdir(parents=True)
    np.savez(raw / "data.npz", edge_index=np.zeros((2, 0), np.int64))
    np.savez(raw / "node-label.npz", node_label=np.zeros((0, 1)))
    with pytest.raises(ValueError, match=r"data\.npz must hold num_nodes_list, num_edges_list"):
        read_ogb("ogbn-products", tmp_path)
    (raw / "data.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"data\.npz cannot be read as arrays"):
        read_ogb("ogbn-products", tmp_path)


def test_csv_form_adds_the_inverse_where_ogb_does(tmp_path: Path) -> None:
    raw = tmp_path / "ogbn_products" / "raw"
    write_csv(raw / "edge.csv.gz", [(0, 1), (1, 1)])
    write_csv(raw / "num-node-list.csv.gz", [[2]])
    write_csv(raw / "num-edge-list.csv.gz", [[2]])
    write_csv(raw / "node-feat.csv.gz", [[1], [2]])
    write_csv(raw / "node-label.csv.gz", [[1], [2]])
    write_splits(raw.parent / "split" / "sales_ranking", [0], [1], [])
    assert read_ogb("ogbn-products", tmp_path).edge_index.tolist() == [[0, 1, 1, 1], [1, 0, 1, 1]]


def test_a_single_split_scheme_is_taken_whatever_its_name(arxiv: Path, tmp_path: Path) -> None:
    split = arxiv.parent / "split"
    (split / "time").rename(split / "mine")
    assert read_ogb("ogbn-arxiv", tmp_path).splits["train"].tolist() == [4, 0]
    write_splits(split / "time", [0], [1], [2])
    assert read_ogb("ogbn-arxiv", tmp_path).splits["train"].tolist() == [0]


def test_a_graph_without_edges_is_read(arxiv: Path, tmp_path: Path) -> None:
    write_csv(arxiv / "edge.csv.gz", [])
    write_csv(arxiv / "num-edge-list.csv.gz", [[0]])
    assert read_ogb("ogbn-arxiv", tmp_path).edge_index.shape == (2, 0)


def test_missing_folder_says_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ogbn_arxiv; name .* --data-root.*--download.*revgnn\[ogb\]"):
        read_ogb("ogbn-arxiv", tmp_path)


@pytest.mark.parametrize("name", ["raw/edge.csv.gz", "raw/node-label.csv.gz", "split/time/valid.csv.gz"])
def test_missing_file_is_named(arxiv: Path, tmp_path: Path, name: str) -> None:
    (arxiv.parent / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {Path(name).name}"):
        read_ogb("ogbn-arxiv", tmp_path)


def test_edges_outside_their_graph_are_named(molhiv: Path, tmp_path: Path) -> None:
    write_csv(molhiv / "edge.csv.gz", [(0, 1), (0, 3), (1, 2)])
    with pytest.raises(ValueError, match=r"row 1 joins 0 and 3 in a graph of 3 nodes \(1 such rows\)"):
        read_ogb("ogbg-molhiv", tmp_path)


def test_codes_outside_their_category_are_named(molhiv: Path, tmp_path: Path) -> None:
    write_csv(molhiv / "edge-feat.csv.gz", [(0, 0, 1), (4, 5, 0), (3, 6, 1)])
    with pytest.raises(ValueError, match="edge_attr must hold codes below 6 in column 1: row 4 has 6"):
        read_ogb("ogbg-molhiv", tmp_path)


def test_row_counts_are_checked(arxiv: Path, tmp_path: Path) -> None:
    write_csv(arxiv / "node-feat.csv.gz", [(1, 2)] * 6)
    with pytest.raises(ValueError, match=r"node-feat\.csv\.gz must have 5 rows.*got 6"):
        read_ogb("ogbn-arxiv", tmp_path)
    write_csv(arxiv / "node-feat.csv.gz", [(1, 2)] * 4)
    with pytest.raises(ValueError, match=r"node-feat\.csv\.gz must have 5 rows.*got 4"):
        read_ogb("ogbn-arxiv", tmp_path)


def test_nan_in_features_is_named(arxiv: Path, tmp_path: Path) -> None:
    write_csv(arxiv / "node-feat.csv.gz", [(1, 2), (1, "nan"), (1, 2), (3, "inf"), (1, 2)])
    with pytest.raises(ValueError, match="ogbn-arxiv: x must be finite: row 1 is the first of 2"):
        read_ogb("ogbn-arxiv", tmp_path)


def test_labels_must_be_classes(arxiv: Path, tmp_path: Path) -> None:
    write_csv(arxiv / "node-label.csv.gz", [[0], [1.5], [0], [1], [2]])
    with pytest.raises(ValueError, match=r"labels must be whole numbers: row 1 has 1\.5"):
        read_ogb("ogbn-arxiv", tmp_path)
    write_csv(arxiv / "node-label.csv.gz", [[0], [1], [0], [40], [2]])
    with pytest.raises(ValueError, match=r"split test must have labels in 0\.\.39: node 3 has 40"):
        read_ogb("ogbn-arxiv", tmp_path)
    write_csv(arxiv / "node-label.csv.gz", [[0, 1]] * 5)
    with pytest.raises(ValueError, match=r"node-label\.csv\.gz must have 1 columns, got 2"):
        read_ogb("ogbn-arxiv", tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"not gzip", "cannot be read as numbers"),
        (gzip.compress(b"1,2\n" * 9, mtime=0)[:-12], "cannot be read as numbers"),
        (gzip.compress(b"1,2\n3,x\n", mtime=0), "CSV column #1.*invalid value 'x'"),
        (gzip.compress(b"1,2\n3\n", mtime=0), "Expected 2 columns, got 1"),
        (gzip.compress(b"1,2\n3,\n", mtime=0), "row 1, column 1 is empty"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "edge.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"edge\.csv\.gz.*{match}"):
        read_csv_gz(tmp_path / "edge.csv.gz", np.int64)


@pytest.mark.parametrize("rows", [None, 4000])
def test_long_files_are_read_over_block_borders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    monkeypatch.setattr("revgnn.data.readers.csv_gz._BLOCK_BYTES", 1000)
    wanted = np.random.default_rng(0).integers(-(2**40), 2**40, (4000, 3))
    write_csv(tmp_path / "a.csv.gz", wanted.tolist())
    assert np.array_equal(read_csv_gz(tmp_path / "a.csv.gz", np.int64, rows=rows), wanted)


def test_download_goes_through_ogb(arxiv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, asked = tmp_path / "fresh" / "root", []

    def download_url(url: str, folder: str) -> str:
        asked.append(url)
        archive = Path(folder) / url.rpartition("/")[2]
        with zipfile.ZipFile(archive, "w") as file:
            for path in (path for path in arxiv.parent.rglob("*") if path.is_file()):
                file.write(path, Path("arxiv") / path.relative_to(arxiv.parent))
        return str(archive)

    def extract_zip(path: str, folder: str) -> None:
        with zipfile.ZipFile(path) as file:
            file.extractall(folder)

    module = types.ModuleType("ogb.utils.url")
    module.download_url, module.extract_zip = download_url, extract_zip  # type: ignore[attr-defined]
    for name in ("ogb", "ogb.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ogb.utils.url", module)
    data = read_ogb("ogbn-arxiv", target, download=True)
    assert asked == ["http://snap.stanford.edu/ogb/data/nodeproppred/arxiv.zip"]
    assert data.num_nodes == 5
    assert [path.name for path in target.iterdir()] == ["ogbn_arxiv"]


def test_download_without_ogb_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogb", None)
    monkeypatch.setitem(sys.modules, "ogb.utils.url", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'revgnn\[ogb\]'"):
        read_ogb("ogbn-proteins", tmp_path, download=True)
