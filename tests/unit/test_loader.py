"""Batches: the whole graph, unions of graphs against a reference that loops over them, and what may be asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from drawn_graphs import one_graph
from revgnn import ModelConfig, build_model
from revgnn.data import (
    Batch,
    Dataset,
    FullBatch,
    GraphBatches,
    GraphInfo,
    LoaderConfig,
    Prefetched,
    final_batches,
    make_batches,
)
from revgnn.data.categorical import multi_hot
from revgnn.data.datasets import DatasetConfig, load_dataset
from revgnn.data.subgraphs import GraphSource
from revgnn.node_order import NodeOrder
from revgnn.train.evaluate import evaluate, predict
from revgnn.train.forward import Forward
from revgnn.train.objective import Objective
from tolerances import assert_close

SIZES = (4, 3)


def random_graphs(counts: list[int], *, coded: bool = True, seed: int = 0) -> Dataset:
    """Draw graphs of given sizes with repeated edges, self loops and graphs without edges."""
    rng = np.random.default_rng(seed)
    edges, lengths, start = [], [], 0
    for count in counts:
        length = int(rng.integers(0, 3 * count + 1)) if count else 0
        edges.append(rng.integers(0, max(count, 1), (2, length)) + start)
        lengths.append(length)
        start += count
    edge_index = torch.from_numpy(np.concatenate(edges, axis=1))
    total = edge_index.size(1)
    codes = torch.from_numpy(np.stack([rng.integers(0, size, total) for size in SIZES], 1).astype(np.uint8))
    labels = torch.from_numpy(rng.normal(size=(len(counts), 2)).astype(np.float32))
    labels[1, 0] = float("nan")
    order = torch.from_numpy(rng.permutation(len(counts)))
    third = len(counts) // 4
    return Dataset(
        info=GraphInfo(
            name="graphs",
            level="graph",
            task="regression",
            metric="rmse",
            categories=(256,) if coded else None,
            edge_categories=SIZES if coded else None,
            num_outputs=2,
        ),
        x=torch.arange(start, dtype=torch.uint8)[:, None] if coded else torch.arange(float(start))[:, None],
        edge_index=edge_index,
        edge_attr=codes if coded else torch.arange(float(total))[:, None],
        y=labels,
        splits={"train": order[2 * third :], "valid": order[:third], "test": order[third : 2 * third]},
        node_ptr=torch.tensor([0, *np.cumsum(counts).tolist()]),
        edge_ptr=torch.tensor([0, *np.cumsum(lengths).tolist()]),
    )


COUNTS = [3, 1, 0, 5, 2, 7, 1, 4, 6, 2, 3]


def one_by_one(data: Dataset, graphs: list[int]) -> tuple[Tensor, list[tuple[int, int, tuple[float, ...]]], list[int]]:
    """Join graphs by a loop: features, edges with their values in any order, graph of each node."""
    assert data.node_ptr is not None
    assert data.edge_ptr is not None
    assert data.edge_attr is not None
    x: list[Tensor] = []
    edges: list[tuple[int, int, tuple[float, ...]]] = []
    batch: list[int] = []
    for place, graph in enumerate(graphs):
        low, high = data.node_ptr[graph : graph + 2].tolist()
        for edge in range(*data.edge_ptr[graph : graph + 2].tolist()):
            src, dst = (data.edge_index[:, edge] - low + len(batch)).tolist()
            value = data.edge_attr[edge].tolist()
            if data.info.edge_categories is not None:
                value = [float(code == hot) for code, size in zip(value, SIZES, strict=True) for hot in range(size)]
            edges.append((src, dst, tuple(value)))
        x.append(data.x[low:high])
        batch += [place] * (high - low)
    return torch.cat(x), edges, batch


def check_union(data: Dataset, batch: Batch, graphs: list[int]) -> None:
    x, edges, owner = one_by_one(data, graphs)
    assert batch.graph.batch is not None
    assert batch.edge_attr is not None
    assert batch.edge_attr.dtype == torch.float32
    assert batch.x.dtype == (torch.int64 if data.info.categories else torch.float32)
    assert torch.equal(batch.x, x.to(batch.x.dtype))
    assert batch.graph.batch.tolist() == owner
    assert batch.graph.num_graphs == len(graphs)
    src, dst = batch.graph.edge_index.tolist()
    assert Counter(zip(src, dst, map(tuple, batch.edge_attr.tolist()), strict=True)) == Counter(edges)
    assert torch.equal(batch.y, data.y[torch.tensor(graphs)]) or bool(batch.y.isnan().any())
    assert torch.equal(batch.y.nan_to_num(), data.y[torch.tensor(graphs)].nan_to_num())


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100, None])
def test_unions_equal_a_loop_over_graphs(batch_size: int | None, coded: bool) -> None:
    data = random_graphs(COUNTS, coded=coded)
    batches = GraphBatches(data, batch_size, seed=3)
    seen: list[int] = []
    train = list(batches.train(1))
    assert len(train) == len(batches)
    for batch in train:
        graphs = find_graphs(data, batch)
        check_union(data, batch, graphs)
        assert batch.rows["train"].tolist() == list(range(len(graphs)))
        seen += graphs
    assert sorted(seen) == sorted(data.splits["train"].tolist())


def find_graphs(data: Dataset, batch: Batch) -> list[int]:
    """Tell graphs by their second label, which is never missing and differs between graphs."""
    number = {value: graph for graph, value in enumerate(data.y[:, 1].tolist())}
    return [number[value] for value in batch.y[:, 1].tolist()]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100, None])
def test_evaluation_covers_every_split_once(batch_size: int | None) -> None:
    data = random_graphs(COUNTS)
    seen: dict[str, list[int]] = {name: [] for name in data.splits}
    for batch in GraphBatches(data, batch_size).evaluate():
        graphs = find_graphs(data, batch)
        check_union(data, batch, graphs)
        assert sorted(torch.cat(list(batch.rows.values())).tolist()) == list(range(len(graphs)))
        for name, rows in batch.rows.items():
            seen[name] += [graphs[row] for row in rows.tolist()]
    assert seen == {name: ids.tolist() for name, ids in data.splits.items()}


def test_epochs_are_a_function_of_seed_and_epoch() -> None:
    data = random_graphs(COUNTS * 3)

    def order(seed: int, epoch: int) -> list[int]:
        return [graph for batch in GraphBatches(data, 4, seed).train(epoch) for graph in find_graphs(data, batch)]

    batches = GraphBatches(data, 4, 0)
    list(batches.train(1))
    resumed = [graph for batch in batches.train(2) for graph in find_graphs(data, batch)]
    assert resumed == order(0, 2)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


def test_full_batch_keeps_edge_features_with_their_edge() -> None:
    edge_index = torch.tensor([[2, 0, 1, 0], [0, 1, 0, 1]])
    data = Dataset(
        info=GraphInfo(name="one", num_outputs=2),
        x=torch.ones(3, 1),
        edge_index=edge_index,
        edge_attr=torch.tensor([[20.0], [1.0], [10.0], [1.5]]),
        y=torch.tensor([0, 1, -1]),
        splits={"train": torch.tensor([0]), "valid": torch.tensor([1])},
    )
    batches = make_batches(data)
    assert len(batches) == 1
    (batch,), (same,) = batches.train(1), batches.evaluate()
    assert batch is same
    assert batch.edge_attr is not None
    assert batch.graph.edge_index.tolist() == [[1, 2, 0, 0], [0, 0, 1, 1]]
    assert batch.edge_attr[:, 0].tolist() == [10.0, 20.0, 1.0, 1.5]
    assert batch.rows["valid"].tolist() == [1]
    with pytest.raises(ValueError, match="choose batch_size=None"):
        make_batches(data, 2)
    with pytest.raises(ValueError, match="one is node-level"):
        GraphBatches(data, 2)


def test_a_batch_in_another_order_is_the_same_batch() -> None:
    rng, n = torch.Generator().manual_seed(0), 40
    data = Dataset(
        info=GraphInfo(name="one", num_outputs=2, in_channels=3, edge_features=("weight",)),
        x=torch.randn(n, 3, generator=rng),
        edge_index=torch.randint(n, (2, 100), generator=rng),
        edge_attr=torch.randn(100, 1, generator=rng),
        y=torch.randint(2, (n,), generator=rng),
        splits={"train": torch.arange(n).flip(0)[:20], "valid": torch.tensor([3, 1])},
    )
    (given,), (found,) = (make_batches(data, loader=LoaderConfig(node_order=order)).evaluate() for order in ORDERS)
    assert found.is_permuted
    assert not given.is_permuted
    assert found.ids is not None
    assert found.ids.tolist() != list(range(n))
    for mine, theirs in ((found.x, given.x), (found.y, given.y)):
        assert torch.equal(found.in_order(mine), theirs)
    for name in given.rows:
        assert torch.equal(found.ids[found.rows[name]], given.rows[name])
    edges = [
        sorted((*ids[batch.graph.edge_index].t()[e].tolist(), float(batch.edge_attr[e])) for e in range(100))
        for batch, ids in ((found, found.ids), (given, torch.arange(n)))
    ]
    assert edges[0] == edges[1]


ORDERS: tuple[NodeOrder, NodeOrder] = ("given", "rcm")


def test_a_network_and_its_predictions_do_not_depend_on_the_order() -> None:
    """But for rounding, without dropout; predictions come back in the user's order."""
    data = load_dataset(DatasetConfig(name="karate"), "data")
    torch.manual_seed(0)
    model = build_model(ModelConfig(num_layers=3, hidden_channels=8, dropout=0.0), data.info)
    objective = Objective(loss="cross_entropy", metric="accuracy")
    logits, scores, grads = [], [], []
    for order in ORDERS:
        batches = make_batches(data, loader=LoaderConfig(node_order=order))
        (batch,) = batches.train(1)
        loss = cross_entropy(model(batch.x, batch.graph, seed=1)[batch.rows["train"]], batch.y[batch.rows["train"]])
        grads.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))]))
        found = evaluate(model, batches, objective=objective, forward=Forward(model))
        scores.append({split: score["metric"] for split, score in found.items()})
        logits.append(predict(model, batches))
    assert_close(logits[1], logits[0])
    assert_close(grads[1] / grads[0].norm(), grads[0] / grads[0].norm())
    assert scores[1] == scores[0]


def test_numbers_and_levels_are_checked() -> None:
    data = random_graphs(COUNTS)
    assert isinstance(make_batches(data, 2, 1), GraphBatches)
    with pytest.raises(ValueError, match="graphs is graph-level; use GraphBatches"):
        FullBatch(data)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        GraphBatches(data, 0)
    with pytest.raises(ValueError, match="seed=-1 must be 0 or above"):
        GraphBatches(data, 1, -1)


def test_multi_hot_times_a_table_is_a_sum_of_embeddings() -> None:
    rng = torch.Generator().manual_seed(0)
    sizes = (5, 6, 2)
    tables = [torch.randn(size, 3, generator=rng, dtype=torch.float64) for size in sizes]
    codes = torch.stack([torch.randint(size, (9,), generator=rng) for size in sizes], 1)
    wanted = sum(table[column] for table, column in zip(tables, codes.T, strict=True))
    torch.testing.assert_close(multi_hot(codes.to(torch.uint8), sizes).double() @ torch.cat(tables), wanted)
    assert multi_hot(codes[:0], sizes).shape == (0, 13)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"kind": "parts"}, "loader.kind='parts' is unknown; choose one of full, random, clusters, neighbor"),
        ({"num_parts": 10}, "num_parts=10 belongs to loader.kind=random or clusters, got kind=full; set the kind, or"),
        (
            {"kind": "random", "num_parts": 10, "parts_per_batch": 2},
            "parts_per_batch=2 belongs to loader.kind=cl",
        ),
        (
            {"kind": "random", "num_parts": 10, "fanouts": (5, -1)},
            r"fanouts=\[5, -1\] belongs to loader.kind=neighbor or ondisk",
        ),
        (
            {"kind": "clusters", "num_parts": 9, "batch_size": 3},
            "batch_size=3 belongs to loader.kind=neighbor or ondisk",
        ),
        ({"kind": "random"}, "kind=random needs loader.num_parts, got none; set it, such as 10"),
        ({"kind": "clusters"}, "kind=clusters needs loader.num_parts, got none; set it, such as 1500"),
        (
            {"kind": "neighbor", "batch_size": 3},
            r"neighbor needs loader.fanouts, got none; set it, such as \[15, 10, 5\]",
        ),
        ({"kind": "neighbor", "fanouts": (5,)}, "kind=neighbor needs loader.batch_size"),
        ({"kind": "random", "num_parts": 1}, "num_parts must be at least 2, got 1; for one part choose kind=full"),
        ({"kind": "clusters", "num_parts": 9, "parts_per_batch": 0}, "parts_per_batch must be at least 1, got 0"),
        (
            {"kind": "clusters", "num_parts": 9, "parts_per_batch": 10},
            "parts_per_batch=10 must be at most .*; lower",
        ),
        ({"kind": "neighbor", "fanouts": (5,), "batch_size": 0}, "batch_size must be at least 1, got 0"),
        (
            {"kind": "neighbor", "fanouts": (5, 0), "batch_size": 3},
            r"one number per hop, each at least 1, .* \[5, 0\]",
        ),
        ({"kind": "neighbor", "fanouts": (), "batch_size": 3}, r"one number per hop.* got \[\]; choose such as"),
        ({"prefetch": -1}, "prefetch must be at least 0, got -1"),
        ({"eval_parts": 0}, "eval_parts must be at least 1, got 0"),
        ({"final_parts": 0}, "final_parts must be at least 1, got 0"),
        (
            {"eval_views": 2},
            "eval_views=2 averages partitions, got loader.eval_parts=1: .*; set eval_parts to 2",
        ),
        ({"final_views": 3}, "final_views=3 averages partitions, got loader.final_parts=none"),
        ({"kind": "clusters", "num_parts": 4, "eval_parts": 5}, "eval_parts=5 must be at most loader.num_parts=4"),
        ({"kind": "clusters", "num_parts": 4, "final_parts": 5}, "final_parts=5 must be at most loader.num_parts=4"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LoaderConfig(**fields)


def test_the_configuration_chooses() -> None:
    data = one_graph(20, 60)
    assert isinstance(make_batches(data, None, 0, LoaderConfig()), FullBatch)
    parts = make_batches(data, None, 0, LoaderConfig(kind="random", num_parts=4, prefetch=5))
    assert isinstance(parts, Prefetched)
    assert parts.depth == 5
    assert final_batches(parts) is None
    plain = make_batches(data, None, 0, LoaderConfig(kind="random", num_parts=4, prefetch=0, final_parts=3))
    assert not isinstance(plain, Prefetched)
    ahead = make_batches(data, None, 0, LoaderConfig(kind="random", num_parts=4, final_parts=3, final_views=2))
    for batches, views in ((plain, 1), (ahead, 2)):
        final = final_batches(batches)
        assert final is not None
        assert isinstance(final, Prefetched) == isinstance(batches, Prefetched)
        assert sum(batch.y.numel() for batch in final.evaluate()) == views * 20
        (whole,) = batches.evaluate()
        assert whole.graph.num_nodes == 20
    assert final_batches(make_batches(data)) is None


def test_graphs_stay_whole_and_one_graph_has_no_batch_size() -> None:
    graphs, data = random_graphs(COUNTS), one_graph(20, 60)
    with pytest.raises(ValueError, match="cuts one large graph, but graphs consists of small ones.*choose batch_size"):
        make_batches(graphs, None, 0, LoaderConfig(kind="random", num_parts=4))
    with pytest.raises(ValueError, match="kind=full with eval_parts=3 cuts one large graph"):
        make_batches(graphs, None, 0, LoaderConfig(eval_parts=3))
    with pytest.raises(ValueError, match="batch_size=4 counts graphs, but one is one graph"):
        make_batches(data, 4, 0, LoaderConfig(kind="random", num_parts=4))
    with pytest.raises(ValueError, match="graphs is graph-level: its graphs are batches already"):
        GraphSource(graphs)
