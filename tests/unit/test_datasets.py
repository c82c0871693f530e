"""Data sets by name, the embedded ones, and what is done to edges; the checks of the Dataset value."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from revgnn.data import DATASETS, Columns, Counts, Dataset, DatasetConfig, GraphInfo, load_dataset
from revgnn.data.edges import add_self_loops, interleave_inverse, make_undirected, prepare_edges
from revgnn.data.readers.chain import ChainOptions
from revgnn.data.readers.minefield import MinefieldOptions
from revgnn.planner import shape_of_config

EDGES = st.integers(1, 6).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20))
)


def as_tensor(pairs: list[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()


def node_set(**changes: object) -> Dataset:
    """Make a sound little data set, then change it."""
    parts: dict[str, object] = {
        "name": "little",
        "x": torch.ones(3, 2),
        "edge_index": as_tensor([(0, 1), (1, 2)]),
        "y": torch.tensor([0, 1, 1]),
        "splits": {"train": torch.tensor([0]), "valid": torch.tensor([1]), "test": torch.tensor([2])},
        "num_outputs": 2,
    }
    parts |= changes
    info = {field.name: parts.pop(field.name) for field in fields(GraphInfo) if field.name in parts}
    return Dataset(info=GraphInfo(**info), **parts)  # type: ignore[arg-type]


def graph_set(**changes: object) -> Dataset:
    """Make two graphs of 2 and 1 nodes with codes for features, then change them."""
    parts: dict[str, object] = {
        "level": "graph",
        "task": "multilabel",
        "metric": "rocauc",
        "x": torch.zeros(3, 2, dtype=torch.uint8),
        "categories": (3, 2),
        "edge_index": as_tensor([(0, 1), (1, 0)]),
        "node_ptr": torch.tensor([0, 2, 3]),
        "edge_ptr": torch.tensor([0, 2, 2]),
        "y": torch.tensor([[1.0], [float("nan")]]),
        "splits": {"train": torch.tensor([0]), "valid": torch.tensor([1])},
        "num_outputs": 1,
    }
    return node_set(**(parts | changes))


# ---------------------------------------------------------------------- by name
def test_digits_are_scaled_images_with_few_labels(tmp_path: Path) -> None:
    data = load_dataset(DatasetConfig(name="digits"), tmp_path / "nowhere")
    assert (data.num_nodes, data.info.in_channels, data.info.num_outputs, data.num_edges) == (1797, 64, 10, 19_858)
    assert (float(data.x.min()), float(data.x.max())) == (0.0, 1.0)
    assert {name: ids.numel() for name, ids in data.splits.items()} == {"train": 200, "valid": 300, "test": 1297}
    assert torch.bincount(data.y[data.splits["train"]]).tolist() == [20] * 10
    src, dst = data.edge_index
    assert float((data.y[src] == data.y[dst]).float().mean()) > 0.95
    assert not bool((src == dst).any())
    again = load_dataset(DatasetConfig(name="digits"), tmp_path)
    assert torch.equal(again.edge_index, data.edge_index)
    assert all(torch.equal(again.splits[name], ids) for name, ids in data.splits.items())


def test_digits_join_nearest_neighbours(tmp_path: Path) -> None:
    data = load_dataset(DatasetConfig(name="digits"), tmp_path)
    points = data.x.double().numpy() * 16
    edges = set(map(tuple, data.edge_index.T.tolist()))
    rng = np.random.default_rng(1)
    for node in rng.integers(0, len(points), 20).tolist():
        distances = ((points - points[node]) ** 2).sum(1)
        distances[node] = np.inf
        nearest = np.lexsort((np.arange(len(points)), distances))[:8]
        assert all((node, other) in edges and (other, node) in edges for other in nearest.tolist())


def test_karate_trains_on_one_member_a_community(tmp_path: Path) -> None:
    data = load_dataset(DatasetConfig(name="karate"), tmp_path)
    assert (data.num_nodes, data.num_edges, data.info.num_outputs) == (34, 156, 4)
    assert data.y[data.splits["train"]].sort().values.tolist() == [0, 1, 2, 3]
    assert [ids.numel() for ids in data.splits.values()] == [4, 10, 20]


def test_tables_are_found_below_the_root_or_by_absolute_path(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    nodes = {"id": [1, 2, 3], "x": [1.0, 2.0, 3.0], "label": [0, 1, 0], "split": ["train", "valid", "test"]}
    pq.write_table(pa.table(nodes), folder / "nodes.parquet")
    pq.write_table(pa.table({"src": [1, 2, 2], "dst": [2, 3, 1]}), folder / "edges.parquet")
    for path, root in (("mine", tmp_path), (str(folder), tmp_path / "elsewhere")):
        assert load_dataset(DatasetConfig(name="tables", path=path), root).edge_index.tolist() == [[0, 1, 1], [1, 2, 0]]
    both = DatasetConfig(name="tables", path="mine", undirected=True, self_loops=True)
    edges = load_dataset(both, str(tmp_path)).edge_index.T.tolist()
    assert edges == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


@pytest.mark.parametrize("options", [{}, {"self_loops": True}, {"undirected": True}], ids=["plain", "loops", "both"])
@pytest.mark.parametrize("name", ["digits", "karate", "minefield", "chain"])
def test_what_is_known_without_the_data_is_what_reading_finds(
    tmp_path: Path, name: str, options: dict[str, bool]
) -> None:
    config = DatasetConfig(name=name, **options)
    assert shape_of_config(config).info == load_dataset(config, tmp_path).info


@pytest.mark.parametrize("name", ["cora", "citeseer", "minesweeper"])
def test_what_is_known_of_published_data_is_what_its_files_hold(real_data: Path, name: str) -> None:
    read, known = load_dataset(DatasetConfig(name=name), real_data).info, DATASETS[name].info
    assert known is not None
    # The number of nodes that train may be all that is published of the splits.
    splits = dict(known.counts.splits)
    assert splits.items() <= read.split_sizes.items()
    assert replace(read, counts=replace(read.counts, splits=known.counts.splits)) == known


@pytest.mark.parametrize(
    "name", sorted(set(DATASETS) - {"chain", "digits", "karate", "minefield", "roads", "tables", "prepared"})
)
def test_missing_data_says_where_and_how(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"--data-root.*--download") as caught:
        load_dataset(DatasetConfig(name=name), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_incomplete_planetoid_names_the_missing_parts(tmp_path: Path) -> None:
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    (raw / "ind.cora.x").touch()
    with pytest.raises(FileNotFoundError, match=r"lacks ind\.cora\.tx, .*ind\.cora\.test\.index"):
        load_dataset(DatasetConfig(name="cora"), tmp_path)


def test_a_data_set_is_found_by_the_name_of_its_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rings.py").write_text(
        "from revgnn.data import DATASETS, NamedDataset\n"
        "RINGS = NamedDataset(read=DATASETS['chain'].read, asks='as a chain', splits=(0, 1))\n"
        "GAPS = NamedDataset(read=lambda *_: {}, asks='nothing', splits=(2, 5, 7))\nNOTHING = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    config = DatasetConfig(name="own_rings:RINGS", split=1)
    assert load_dataset(config, tmp_path).num_nodes == shape_of_config(config).nodes == 4000
    assert DatasetConfig(name="own_rings:RINGS").with_seed(11).split == 1
    assert DatasetConfig(name="own_rings:GAPS").with_seed(4).split == 5
    with pytest.raises(TypeError, match=r"must read a revgnn\.Dataset, got dict"):
        load_dataset("own_rings:GAPS", tmp_path)
    with pytest.raises(ValueError, match="has the splits 0, 1; choose one"):
        DatasetConfig(name="own_rings:RINGS", split=2)
    with pytest.raises(ValueError, match=r"must name a revgnn\.data\.NamedDataset, got 3"):
        DatasetConfig(name="own_rings:NOTHING")
    with pytest.raises(ModuleNotFoundError, match="there is no module 'no_such'"):
        DatasetConfig(name="no_such:RINGS")


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match=r"dataset\.name='arxiv' is unknown; choose one of digits, .*ogbn-arxiv"):
        DatasetConfig(name="arxiv")
    with pytest.raises(ValueError, match="goes with the name tables"):
        DatasetConfig(name="tables")
    with pytest.raises(ValueError, match="goes with the name tables"):
        DatasetConfig(name="digits", path="here")
    with pytest.raises(ValueError, match=r"dataset\.minefield is about minefield; leave it out for digits"):
        DatasetConfig(name="digits", minefield=MinefieldOptions(side=9))
    with pytest.raises(ValueError, match=r"dataset\.chain is about chain; leave it out for digits"):
        DatasetConfig(name="digits", chain=ChainOptions(length=9))
    with pytest.raises(ValueError, match=r"minesweeper has the splits 0, 1, .*, 9; choose one"):
        DatasetConfig(name="minesweeper", split=10)
    with pytest.raises(ValueError, match="cora has the splits public, full; choose one"):
        DatasetConfig(name="cora", split=0)
    with pytest.raises(ValueError, match="digits has one split; leave it out"):
        DatasetConfig(name="digits", split=0)
    with pytest.raises(ValueError, match="leave it out for digits"):
        DatasetConfig(name="digits", columns=Columns(id="key"))
    with pytest.raises(FrozenInstanceError):
        DatasetConfig(name="digits").name = "cora"  # type: ignore[misc]
    assert hash(DatasetConfig(name="digits")) == hash(DatasetConfig(name="digits"))


def test_import_is_light() -> None:
    # In a fresh interpreter, because other tests import these too.
    heavy = ("sklearn", "torch_geometric", "pandas", "ogb")
    names = f"[name for name in {heavy} if name in sys.modules]"
    code = f"import sys; from revgnn.data import load_dataset, make_batches; print({names})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------- edges
@settings(deadline=None)
@given(EDGES)
def test_undirected_is_the_set_of_both_directions(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_nodes, pairs = case
    weights = torch.arange(len(pairs), dtype=torch.float32)[:, None]
    edge_index, edge_attr = make_undirected(as_tensor(pairs), weights, num_nodes)
    wanted: dict[tuple[int, int], int] = {}
    for number, pair in enumerate(pairs):
        wanted.setdefault(pair, number)
    for number, (src, dst) in enumerate(pairs):
        wanted.setdefault((dst, src), number)
    assert edge_attr is not None
    assert list(map(tuple, edge_index.T.tolist())) == sorted(wanted)
    assert edge_attr[:, 0].tolist() == [wanted[pair] for pair in sorted(wanted)]


@settings(deadline=None)
@given(EDGES)
def test_self_loops_stand_once_per_node(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_nodes, pairs = case
    edges = add_self_loops(as_tensor(pairs), num_nodes).T.tolist()
    others = [pair for pair in pairs if pair[0] != pair[1]]
    assert list(map(tuple, edges)) == sorted(others + [(node, node) for node in range(num_nodes)])


def test_inverse_follows_its_edge() -> None:
    edge_index, edge_attr = interleave_inverse(as_tensor([(0, 1), (2, 2)]), torch.tensor([[1.0], [2.0]]))
    assert edge_index.tolist() == [[0, 1, 2, 2], [1, 0, 2, 2]]
    assert edge_attr is not None
    assert edge_attr[:, 0].tolist() == [1, 1, 2, 2]


def test_prepared_edges_stay_with_their_graph() -> None:
    data = graph_set(
        x=torch.zeros(6, 2, dtype=torch.uint8),
        node_ptr=torch.tensor([0, 2, 3, 6]),
        edge_ptr=torch.tensor([0, 1, 1, 4]),
        edge_index=as_tensor([(1, 0), (5, 3), (3, 5), (4, 3)]),
        y=torch.zeros(3, 1),
    )
    assert prepare_edges(data, undirected=False, self_loops=False) is data
    both = prepare_edges(data, undirected=True, self_loops=True)
    assert both.edge_ptr is not None
    assert both.edge_ptr.tolist() == [0, 4, 5, 12]
    assert all(
        both.node_ptr is not None and low <= node < high
        for graph, (low, high) in enumerate(zip([0, 2, 3], [2, 3, 6], strict=True))
        for node in both.edge_index[:, both.edge_ptr[graph] : both.edge_ptr[graph + 1]].flatten().tolist()
    )


def test_self_loops_refuse_edge_features() -> None:
    with pytest.raises(ValueError, match="choose self_loops=False, or leave the edge features out"):
        prepare_edges(node_set(edge_attr=torch.ones(2, 3)), undirected=False, self_loops=True)


# ---------------------------------------------------------------------- the value
def test_a_sound_dataset_describes_itself() -> None:
    data = node_set(edge_attr=torch.ones(2, 3))
    assert (
        data.num_nodes,
        data.num_edges,
        data.info.counts.graphs,
        data.info.in_channels,
        data.info.edge_channels,
    ) == (3, 2, 1, 2, 3)
    assert repr(data) == "Dataset(little: 3 nodes, 2 edges, node-level multiclass, 2 features, 2 outputs, accuracy)"
    coded = graph_set(edge_attr=torch.zeros(2, 2, dtype=torch.uint8), edge_categories=(4, 5))
    assert (coded.info.counts.graphs, coded.info.edge_channels) == (2, 9)
    assert {field.name for field in fields(Dataset)} >= {"info", "x", "edge_index", "splits"}
    assert {field.name for field in fields(GraphInfo)} >= {"name", "level", "task", "metric"}


def test_two_classes_are_one_yes_or_no_where_that_is_asked_for(tmp_path: Path) -> None:
    nodes = {"id": [1, 2, 3, 4], "x": [1.0, 2.0, 3.0, 4.0], "label": ["no", "yes", "yes", None]}
    pq.write_table(pa.table({**nodes, "split": ["train", "valid", "test", None]}), tmp_path / "nodes.parquet")
    pq.write_table(pa.table({"src": [1], "dst": [2]}), tmp_path / "edges.parquet")
    config = DatasetConfig(name="tables", path=str(tmp_path))
    two, one = (load_dataset(replace(config, task=task), tmp_path) for task in (None, "binary"))
    assert (two.info.task, two.info.num_outputs, two.info.metric) == ("multiclass", 2, "accuracy")
    assert (one.info.task, one.info.num_outputs, one.info.metric) == ("binary", 1, "rocauc")
    assert one.info.class_names == two.info.class_names == ("no", "yes")
    assert one.y[:3].tolist() == [[0.0], [1.0], [1.0]] and bool(one.y[3].isnan())
    assert load_dataset(replace(config, task="multiclass"), tmp_path).y.tolist() == two.y.tolist()
    by_f1 = load_dataset(replace(config, task="binary", metric="f1"), tmp_path)
    assert by_f1.info == replace(one.info, metric="f1")
    for task, message in (
        ("regression", "column label: holds string; it must"),
        ("ranks", "must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            load_dataset(replace(config, task=task), tmp_path)
    with pytest.raises(ValueError, match="dataset.task=binary cannot be made of karate"):
        load_dataset(DatasetConfig(name="karate", task="binary"), tmp_path)
    with pytest.raises(ValueError, match=r"task of a prepared graph are what revgnn prepare\s+made"):
        DatasetConfig(name="prepared", path="here", task="binary")


def test_a_description_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of node, graph, got 'edge'"):
        GraphInfo(level="edge")
    with pytest.raises(ValueError, match="task must be one of multiclass, binary, multilabel, regression, got 'best'"):
        GraphInfo(task="best")
    with pytest.raises(ValueError, match="toys: a binary task has 1 column of labels, got 2; choose another task"):
        GraphInfo(name="toys", task="binary", num_outputs=2)
    with pytest.raises(ValueError, match="class_names must be one for each of 3 outputs, got 2"):
        GraphInfo(num_outputs=3, class_names=("a", "b"))


def test_a_description_survives_json_and_scales_and_loses_its_counts() -> None:
    info = graph_set(edge_attr=torch.zeros(2, 2, dtype=torch.uint8), edge_categories=(4, 5)).info
    assert GraphInfo.from_json(json.loads(json.dumps(asdict(info)))) == info
    assert hash(info) == hash(replace(info)) and info.split_sizes == {"train": 1, "valid": 1}
    assert info.without_counts() == replace(info, counts=Counts())
    larger = Counts(nodes=150, edges=100, graphs=100, splits=(("train", 50), ("valid", 50)))
    assert info.scaled(50.0).counts == larger
    assert replace(info.scaled(50.0), counts=info.counts) == info
    with pytest.raises(ValueError, match="GraphInfo has other fields than it should: colour"):
        GraphInfo.from_json({**asdict(info), "colour": "blue"})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [1.0, 0.0]])}, "little: x must be finite: row 1"),
        ({"edge_attr": torch.tensor([[0.0], [float("inf")]])}, "little: edge_attr must be finite: row 1"),
        ({"edge_attr": torch.ones(3, 1)}, "one row per edge: got 3 rows for 2 edges"),
        ({"x": torch.ones(3)}, r"x must be \[N, F\]"),
        ({"edge_index": torch.ones(3, 2, dtype=torch.int64)}, r"edge_index must be int64 \[2, E\]"),
        ({"y": torch.tensor([0, 1])}, r"y of a multiclass task must be torch.int64 \[3\]"),
        ({"y": torch.tensor([-1, 1, 1])}, r"split train must have labels in 0\.\.1: node 0 has -1"),
        ({"splits": {"test": torch.tensor([0])}}, "splits must be train, valid and test, got test"),
        ({"splits": {"train": torch.tensor([0]), "dev": torch.tensor([1])}}, "splits must be train, valid and test"),
        ({"splits": {"train": torch.tensor([3])}}, r"split train must lie in 0\.\.2: got 3"),
        ({"splits": {"train": torch.tensor([1, 1])}}, "names a node twice"),
        ({"splits": {"train": torch.tensor([1.0])}}, "must be int64"),
        (
            {"splits": {"train": torch.tensor([0, 2]), "test": torch.tensor([1, 2])}},
            "train and test share 1 nodes, first 2",
        ),
        ({"edge_index": as_tensor([(0, 1), (1, 3)])}, r"edge 1 joins 1 and 3, where nodes are 0 to 2 \(1 such edges\)"),
        ({"edge_index": as_tensor([(0, -1), (1, 3)])}, r"edge 0 joins 0 and -1, .* \(2 such edges\)"),
        ({"node_ptr": torch.tensor([0, 3])}, "belong to graph-level data sets"),
        (
            {"task": "regression", "num_outputs": 1, "y": torch.tensor([[0.0], [1.0], [float("inf")]])},
            "got an infinity",
        ),
    ],
)
def test_unsound_node_sets_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        node_set(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.tensor([[0, 0], [2, 1], [3, 0]], dtype=torch.uint8)}, "codes below 3 in column 0: row 2 has 3"),
        ({"edge_index": as_tensor([(0, 1), (1, 2)])}, "edge 1 joins 1 and 2, where nodes are 0 to 1"),
        ({"categories": (3,)}, "got 2 columns for 1"),
        ({"node_ptr": torch.tensor([0, 2, 4])}, "node_ptr must ascend from 0 to 3"),
        ({"edge_ptr": torch.tensor([0, 3, 2])}, "edge_ptr must ascend from 0 to 2"),
        ({"edge_ptr": torch.tensor([0, 2])}, "one entry per graph plus one"),
        ({"edge_ptr": None}, "belong to graph-level data sets"),
        ({"y": torch.zeros(3, 1)}, r"must be torch.float32 \[2, 1\]"),
    ],
)
def test_unsound_graph_sets_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        graph_set(**changes)


def test_feature_dtypes_are_checked() -> None:
    with pytest.raises(TypeError, match="x holds numbers and must be torch.float32, got torch.float64"):
        node_set(x=torch.ones(3, 2).double())
    with pytest.raises(TypeError, match="x holds category codes and must be torch.uint8, got torch.int64"):
        replace(graph_set(), x=torch.zeros(3, 2, dtype=torch.int64))
