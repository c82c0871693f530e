"""The readers on real data, where it exists: published sizes, splits and edge counts."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from revgnn.data import Dataset, DatasetConfig, load_dataset, make_batches
from revgnn.data.readers.minefield import count_neighbours, grid_edges
from revgnn.planner import shape_of_config


def need(place: Path) -> None:
    if not place.exists():
        pytest.skip(f"there is no {place}")


@cache
def molhiv(root: Path) -> Dataset:
    return load_dataset(DatasetConfig(name="ogbg-molhiv"), root)


def test_arxiv_text_as_tables(real_data: Path) -> None:
    need(real_data / "arxiv_text")
    config = DatasetConfig(name="tables", path="arxiv_text")
    data = load_dataset(config, real_data)
    assert (data.num_nodes, data.num_edges, data.info.in_channels, data.info.num_outputs) == (
        169_343,
        1_166_243,
        128,
        40,
    )
    assert data.info.class_names is None
    assert [data.splits[name].numel() for name in ("train", "valid", "test")] == [90_941, 29_799, 48_603]
    (batch,) = make_batches(data).train(1)
    in_degree = batch.in_order(batch.graph.in_degree[:, None])[:, 0]
    assert torch.equal(in_degree, torch.bincount(data.edge_index[1], minlength=data.num_nodes))


def test_arxiv_text_made_undirected_has_the_published_edges(real_data: Path) -> None:
    need(real_data / "arxiv_text")
    config = DatasetConfig(name="tables", path="arxiv_text", undirected=True, self_loops=True)
    data = load_dataset(config, real_data)
    assert data.num_edges == 2_315_598 + 169_343
    (batch,) = make_batches(data).evaluate()
    assert batch.graph.is_symmetric


def test_molhiv_from_its_raw_folder(real_data: Path) -> None:
    need(real_data / "ogbg_molhiv")
    data = molhiv(real_data)
    assert (data.info.counts.graphs, data.info.num_outputs, int(data.y.sum())) == (41_127, 1, 1_443)
    assert [data.splits[name].numel() for name in ("train", "valid", "test")] == [32_901, 4_113, 4_113]
    src, dst = data.edge_index
    pairs = torch.unique(src * data.num_nodes + dst)
    assert pairs.numel() == data.num_edges
    assert torch.equal(pairs, torch.unique(dst * data.num_nodes + src))
    assert not bool((src == dst).any())


def test_molhiv_batches_cover_the_molecules(real_data: Path) -> None:
    need(real_data / "ogbg_molhiv")
    data = molhiv(real_data)
    batches = make_batches(data, 512, seed=1)
    nodes = edges = graphs = 0
    for batch in batches.evaluate():
        assert batch.edge_attr is not None
        assert bool((batch.edge_attr.sum(1) == 3).all())
        nodes, edges = nodes + batch.x.size(0), edges + batch.edge_attr.size(0)
        graphs += batch.graph.num_graphs
    assert (nodes, edges, graphs) == (data.num_nodes, data.num_edges, 41_127)
    first = next(iter(batches.train(1)))
    assert first.x.dtype == torch.int64
    assert first.y.shape == (512, 1)
    assert len(batches) == 65


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cora", (2_708, 10_556, 1_433, 7)), ("citeseer", (3_327, 9_104, 3_703, 6))],
)
def test_planetoid_is_read_without_writing(real_data: Path, name: str, sizes: tuple[int, int, int, int]) -> None:
    need(real_data / "planetoid")
    before = sorted(real_data.rglob("*"))
    data = load_dataset(DatasetConfig(name=name), real_data)
    assert (data.num_nodes, data.num_edges, data.info.in_channels, data.info.num_outputs) == sizes
    assert torch.bincount(data.y[data.splits["train"]]).tolist() == [20] * data.info.num_outputs
    assert [data.splits[split].numel() for split in ("valid", "test")] == [500, 1000]
    assert sorted(real_data.rglob("*")) == before


def test_planetoid_download_goes_through_pyg(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(real_data / "planetoid")

    def fetch(root: str, name: str) -> None:
        shutil.copytree(real_data / "planetoid" / name, Path(root) / name)

    monkeypatch.setattr("torch_geometric.datasets.Planetoid", fetch)
    assert load_dataset(DatasetConfig(name="cora"), tmp_path, download=True).num_nodes == 2_708
    assert [path.name for path in tmp_path.iterdir()] == ["planetoid"]


def test_planetoid_full_split_trains_on_all_that_neither_selects_nor_tests(real_data: Path) -> None:
    need(real_data / "planetoid")
    public, full = (load_dataset(DatasetConfig(name="cora", split=split), real_data) for split in (None, "full"))
    assert full.splits["train"].numel() == 2_708 - 500 - 1_000
    for split, data in ((None, public), ("full", full)):
        assert shape_of_config(DatasetConfig(name="cora", split=split)).info == data.info
    for split in ("valid", "test"):
        assert torch.equal(full.splits[split], public.splits[split])


def test_minesweeper_follows_the_rule_that_the_generator_follows(real_data: Path) -> None:
    need(real_data / "minesweeper.npz")
    data = load_dataset(DatasetConfig(name="minesweeper", split=4), real_data)
    assert (data.num_nodes, data.num_edges, int(data.y.sum())) == (10_000, 2 * 39_402, 2_000)
    assert shape_of_config(DatasetConfig(name="minesweeper")).edges == data.num_edges
    assert torch.equal(data.edge_index, grid_edges(100))
    counts = torch.from_numpy(count_neighbours(data.y.view(100, 100).long().numpy())).view(-1)
    seen = data.x[:, 0] == 0
    assert int(seen.sum()) == 5_000
    assert torch.equal(data.x[seen].argmax(1), 1 + counts[seen].clamp(max=5))


def test_california_roads_have_labels_of_equal_tenths(real_data: Path) -> None:
    need(real_data / "california_roads.npz")
    data = load_dataset(DatasetConfig(name="roads", path="california_roads.npz"), real_data)
    assert (data.num_nodes, data.num_edges) == (21_048, 43_386)
    assert torch.bincount(data.y).tolist() == [2_105] * 9 + [2_103]
    assert [rows.numel() for rows in data.splits.values()] == [2_104, 2_104, 16_840]
