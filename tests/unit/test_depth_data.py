"""The data sets on which depth pays: fields of Minesweeper, the heterophilous graphs, road networks."""

from __future__ import annotations

import gzip
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv as arrow_csv

from revgnn.data import Dataset, DatasetConfig, load_dataset
from revgnn.data.readers.chain import ChainOptions, make_chains
from revgnn.data.readers.heterophilous import HETEROPHILOUS
from revgnn.data.readers.minefield import MinefieldOptions, make_minefield
from revgnn.data.readers.roads import eccentricities, equal_chunks, road_features
from revgnn.planner import shape_of_config


# ---------------------------------------------------------------------- fields of Minesweeper
@pytest.mark.parametrize(("side", "seed"), [(4, 0), (7, 3), (30, 1)])
def test_a_minefield_is_the_published_rule_cell_by_cell(side: int, seed: int) -> None:
    data = make_minefield(MinefieldOptions(side=side, seed=seed))
    mines = data.y[:, 0].reshape(side, side).int().tolist()
    edges = set(map(tuple, data.edge_index.T.tolist()))
    assert len(edges) == data.num_edges
    wanted = set()
    for i, j in product(range(side), repeat=2):
        around = [
            (a, b)
            for a, b in product(range(i - 1, i + 2), range(j - 1, j + 2))
            if (a, b) != (i, j) and 0 <= a < side and 0 <= b < side
        ]
        wanted |= {(i * side + j, a * side + b) for a, b in around}
        row = data.x[i * side + j].tolist()
        assert sum(row) == 1.0 and set(row) <= {0.0, 1.0}
        if not row[0]:
            assert row[1 + min(sum(mines[a][b] for a, b in around), 5)] == 1.0
    assert edges == wanted
    assert int(data.y.sum()) == round(0.2 * side**2)
    assert int(data.x[:, 0].sum()) == round(0.5 * side**2)


def test_a_minefield_is_drawn_from_its_seed_and_split_again_by_number() -> None:
    data, same, other = (make_minefield(MinefieldOptions(side=20, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(data.x, same.x) and torch.equal(data.y, same.y)
    assert not torch.equal(data.y, other.y)
    again = load_dataset(DatasetConfig(name="minefield", minefield=MinefieldOptions(side=20), split=1), Path())
    assert torch.equal(again.y, data.y)
    for split, rows in data.splits.items():
        assert torch.equal(rows, same.splits[split])
        assert not torch.equal(rows, again.splits[split])
        assert float(data.y[rows].mean()) == pytest.approx(0.2)
    assert [rows.numel() for rows in data.splits.values()] == [200, 100, 100]
    assert torch.cat(list(data.splits.values())).unique().numel() == 400
    with pytest.raises(ValueError, match="side >= 4 and seed >= 0, got side=3"):
        MinefieldOptions(side=3)


def test_only_the_first_node_of_a_chain_tells_the_class_of_all() -> None:
    options = ChainOptions(length=7, chains=3, classes=4, seed=1)
    data = load_dataset(DatasetConfig(name="chain", chain=options), Path())
    assert (data.num_nodes, data.info.num_outputs, data.num_edges) == (84, 4, 12 * 6)
    for chain in range(12):
        nodes = torch.arange(7 * chain, 7 * chain + 7)
        classes = data.y[nodes].unique()
        assert classes.numel() == 1
        assert data.x[nodes].nonzero().tolist() == [[0, int(classes)]]
    src, dst = data.edge_index
    assert torch.equal(dst, src + 1) and not (dst % 7 == 0).any()
    assert data.y.bincount().tolist() == [21] * 4
    assert torch.cat(list(data.splits.values())).sort().values.tolist() == list(range(84))
    assert {name: rows.numel() for name, rows in data.splits.items()} == {"train": 8, "valid": 17, "test": 59}
    other = make_chains(ChainOptions(length=7, chains=3, classes=4, seed=2))
    assert torch.equal(other.x, data.x) and not torch.equal(other.splits["train"], data.splits["train"])
    assert shape_of_config(DatasetConfig(name="chain", chain=options)).info.counts.nodes == 84
    with pytest.raises(ValueError, match="length >= 2, chains >= 1, classes >= 2 and seed >= 0, got 1, 20, 2 and 0"):
        ChainOptions(length=1)


def test_the_planner_knows_the_sizes_of_a_field() -> None:
    for loops in (False, True):
        config = DatasetConfig(name="minefield", minefield=MinefieldOptions(side=9), self_loops=loops)
        assert shape_of_config(config).info.counts == load_dataset(config, Path()).info.counts


# ---------------------------------------------------------------------- heterophilous graphs
def write_published(path: Path, nodes: int, classes: int, **changes: object) -> None:
    """Write a little graph in the authors' form: every edge once, ten masks a split."""
    draw = np.random.default_rng(0)
    part = np.stack([draw.permutation(np.arange(nodes) % 4) for _ in range(10)])
    arrays = {
        "node_features": draw.random((nodes, 3), np.float32),
        "node_labels": np.arange(nodes) % classes,
        "edges": np.array([[0, 1], [1, 2], [0, 3]]),
        "train_masks": part < 2,
        "val_masks": part == 2,
        "test_masks": part == 3,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("minesweeper", "minesweeper.npz"),
        ("tolokers", "tolokers/raw/tolokers.npz"),
        ("roman-empire", "heterophilous/roman_empire/raw/roman_empire.npz"),
    ],
)
def test_a_heterophilous_graph_is_read_with_the_split_that_is_asked_for(tmp_path: Path, name: str, place: str) -> None:
    info = HETEROPHILOUS[name]
    write_published(tmp_path / place, 12, max(info.num_outputs, 2))
    splits = []
    for split in (None, 0, 7):
        data = load_dataset(DatasetConfig(name=name, split=split), tmp_path)
        assert [rows.numel() for rows in data.splits.values()] == [6, 3, 3]
        splits.append(data.splits["train"])
    assert torch.equal(splits[0], splits[1]) and not torch.equal(splits[0], splits[2])
    assert data.edge_index.T.tolist() == [[0, 1], [0, 3], [1, 0], [1, 2], [2, 1], [3, 0]]
    if name == "roman-empire":
        assert (data.y.tolist(), data.info.metric) == (list(range(12)), "accuracy")
    else:
        assert (data.y[:, 0].tolist(), data.info.metric) == ([0.0, 1.0] * 6, "rocauc")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"edges": None}, "must hold .*; it lacks edges"),
        ({"edges": np.array([[0, 12]])}, "edges must be .* numbers of 12 nodes"),
        ({"val_masks": np.ones((9, 12), bool)}, r"val_masks must be \[10, 12\], got \[9, 12\]"),
        ({"node_labels": np.array([{}] * 12)}, "is damaged"),
    ],
)
def test_a_damaged_heterophilous_file_is_refused(tmp_path: Path, changes: dict[str, object], match: str) -> None:
    write_published(tmp_path / "minesweeper.npz", 12, 2, **changes)
    with pytest.raises(ValueError, match=match):
        load_dataset(DatasetConfig(name="minesweeper"), tmp_path)


def test_a_seed_takes_the_split_of_its_number_where_none_is_chosen() -> None:
    config = DatasetConfig(name="minesweeper")
    assert [config.with_seed(seed).split for seed in (0, 3, 12)] == [0, 3, 2]
    for same in (DatasetConfig(name="digits"), DatasetConfig(name="cora"), DatasetConfig(name="minesweeper", split=4)):
        assert same.with_seed(3) == same


# ---------------------------------------------------------------------- roads
def ring_with_chords(nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    draw = np.random.default_rng(1)
    roads = {(i, (i + 1) % nodes) for i in range(nodes)} | {tuple(sorted(draw.integers(0, nodes, 2))) for _ in range(4)}
    pairs = np.array(sorted({(min(a, b), max(a, b)) for a, b in roads if a != b}), np.int64)
    length = draw.integers(1, 50, len(pairs)).astype(np.float32)
    return np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]]), np.tile(length, 2)


@pytest.mark.parametrize("hops", [1, 3, 16])
def test_eccentricity_is_the_longest_shortest_path_inside_the_hops(hops: int) -> None:
    nodes = 25
    src, dst, length = ring_with_chords(nodes)
    steps = np.full((nodes, nodes), math.inf)
    np.fill_diagonal(steps, 0)
    steps[src, dst] = 1
    for k in range(nodes):
        steps = np.minimum(steps, steps[:, k, None] + steps[None, k])
    wanted = []
    for node in range(nodes):
        inside = np.flatnonzero(steps[node] <= hops)
        paths = np.full((nodes, nodes), math.inf)
        np.fill_diagonal(paths, 0)
        keep = np.isin(src, inside) & np.isin(dst, inside)
        paths[src[keep], dst[keep]] = length[keep]
        for k in inside:
            paths = np.minimum(paths, paths[:, k, None] + paths[None, k])
        wanted.append(paths[node, inside].max())
    assert eccentricities(src, dst, length, nodes, hops).tolist() == wanted


def test_chunks_are_of_equal_size_and_ascend() -> None:
    values = np.random.default_rng(0).random(43)
    labels = equal_chunks(values, 10)
    assert np.bincount(labels).tolist() == [5] * 8 + [3]
    assert bool((np.diff(labels[np.argsort(values)]) >= 0).all())


def test_a_road_network_is_labelled_where_the_file_has_no_labels(tmp_path: Path) -> None:
    src, dst, length = ring_with_chords(60)
    np.savez(tmp_path / "bare.npz", src=src, dst=dst, length=length)
    ecc = eccentricities(src, dst, length, 60)
    np.savez(tmp_path / "full.npz", src=src, dst=dst, length=length, ecc=ecc, x=road_features(src, length, 60))
    bare, full = (load_dataset(DatasetConfig(name="roads", path=f"{name}.npz"), tmp_path) for name in ("bare", "full"))
    assert torch.equal(bare.y, full.y) and torch.equal(bare.x, full.x)
    assert [rows.numel() for rows in bare.splits.values()] == [6, 6, 48]
    with pytest.raises(FileNotFoundError, match="name the folder below which it lies with --data-root"):
        load_dataset(DatasetConfig(name="roads", path="none.npz"), tmp_path)
    np.save(tmp_path / "one.npy", length)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="one.npz is damaged"):
        load_dataset(DatasetConfig(name="roads", path="one.npz"), tmp_path)
    np.savez(tmp_path / "still.npz", src=src, dst=dst, length=0 * length)
    with pytest.raises(ValueError, match="length must be a number above 0; that of road 0 is not"):
        load_dataset(DatasetConfig(name="roads", path="still.npz"), tmp_path)


def test_an_edge_list_is_the_same_network_however_it_is_written(tmp_path: Path) -> None:
    src, dst, length = ring_with_chords(60)
    np.savez(tmp_path / "both.npz", src=src, dst=dst, length=length)
    wanted = load_dataset(DatasetConfig(name="roads", path="both.npz"), tmp_path)
    one_way = src < dst
    u, v, once = 10**12 + 7 * src[one_way], 10**12 + 7 * dst[one_way], length[one_way]
    # A longer parallel road, the other direction of a road, and a road to itself change nothing.
    u, v = np.append(u, [u[0], v[1], u[2]]), np.append(v, [v[0], u[1], u[2]])
    once = np.append(once, [once[0] + 1, once[1], 3.0]).astype(np.float32)
    shuffled = np.random.default_rng(0).permutation(len(u))
    table = pa.table({"length": once[shuffled], "u": u[shuffled], "v": v[shuffled]})
    pq.write_table(table, tmp_path / "osm.parquet")
    arrow_csv.write_csv(table, tmp_path / "osm.csv")
    (tmp_path / "osm.csv.gz").write_bytes(gzip.compress((tmp_path / "osm.csv").read_bytes()))
    texts = {name: [f"n{end}" for end in table[name].to_pylist()] for name in ("u", "v")}
    pq.write_table(
        pa.table({"source": texts["u"], "target": texts["v"], "Distance": once[shuffled]}), tmp_path / "texts.pq"
    )
    np.savez(tmp_path / "once.npz", src=u, dst=v, length=once)
    for file in ("osm.parquet", "osm.csv", "osm.csv.gz", "texts.pq", "once.npz"):
        read = load_dataset(DatasetConfig(name="roads", path=file), tmp_path)
        assert torch.equal(read.x, wanted.x) and torch.equal(read.y, wanted.y), file
        assert set(map(tuple, read.edge_index.T.tolist())) == set(map(tuple, wanted.edge_index.T.tolist()))
        assert read.num_edges == wanted.num_edges
        assert read.node_ids is not None
        assert [int(str(end).removeprefix("n")) for end in read.node_ids.to_pylist()] == [
            10**12 + 7 * node for node in range(60)
        ]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("lengthless.csv", "u,v\n1,2\n", "such as src and dst, and of its length; got u, v"),
        ("empty.csv", "u,v,length\n", "one for each of at least one road"),
        ("endless.csv", "u,v,length\n1,,5\n", "every road must have two ends; some of u and v are missing"),
        ("word.csv", "u,v,length\n1,2,5\n2,3,far\n", "length must be a number above 0; that of road 1 is not"),
        ("endless_road.csv", "u,v,length\n1,2,inf\n", "length must be a number above 0; that of road 0 is not"),
        ("few.csv", "u,v,length\n1,2,5\n2,3,5\n", "10 nodes are the fewest; got 3"),
        ("broken.parquet", "PAR1", "cannot be read"),
        ("roads.xlsx", "", "must be a table"),
    ],
)  # fmt: skip
def test_a_list_that_is_no_network_is_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(match)):
        load_dataset(DatasetConfig(name="roads", path=name), tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"src": np.array([0.0, 0.5])}, "src and dst must be integers"),
        ({"dst": np.array([1, 9]), "x": np.ones((3, 1))}, "src and dst must number the 3 rows of x and ecc"),
        ({"src": np.array([-1, 0]), "ecc": np.ones(3)}, "src and dst must number the 3 rows of x and ecc"),
        ({"length": np.ones(3)}, "one for each of at least one road"),
        ({"length": np.array([1.0, np.nan])}, "that of road 1 is not"),
    ],
)
def test_arrays_that_are_no_network_are_refused(tmp_path: Path, changes: dict[str, object], match: str) -> None:
    arrays: dict[str, object] = {"src": np.array([0, 1]), "dst": np.array([1, 2]), "length": np.array([1.0, 2.0])}
    np.savez(tmp_path / "roads.npz", **(arrays | changes))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=match):
        load_dataset(DatasetConfig(name="roads", path="roads.npz"), tmp_path)


def test_a_city_is_read_from_the_tensors_that_pyg_unpacks(tmp_path: Path) -> None:
    folder = tmp_path / "city" / "paris" / "raw" / "paris"
    folder.mkdir(parents=True)
    tensors = {
        "node_features_augmented": torch.ones(20, 2),
        "edge_indices": torch.tensor([[0, 1], [1, 0]]),
        "10-chunk_16-hop_node_labels": torch.arange(20) % 10,
        "train_mask": torch.arange(20) < 2,
        "valid_mask": torch.tensor([3, 2]),
        "test_mask": torch.arange(4, 20),
    }
    for name, tensor in tensors.items():
        torch.save(tensor, folder / f"{name}.pt")
    data: Dataset = load_dataset(DatasetConfig(name="city-paris"), tmp_path)
    assert (data.name, data.num_nodes, data.info.num_outputs) == ("city-paris", 20, 10)
    assert [rows.tolist()[:2] for rows in data.splits.values()] == [[0, 1], [2, 3], [4, 5]]
    torch.save({"x": {1}}, folder / "train_mask.pt")
    with pytest.raises(ValueError, match="holds no tensor|must hold a tensor"):
        load_dataset(DatasetConfig(name="city-paris"), tmp_path)
