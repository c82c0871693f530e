"""PyG's batches in the training loop: what becomes of their fields, of its loaders, and of the global generators."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch as PygBatch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader, RandomNodeLoader

from drawn_graphs import one_graph
from revgnn import ModelConfig, build_model
from revgnn.data import Batch, Dataset, FullBatch, LoaderConfig, PygBatches, make_batches
from revgnn.data.sampling.pyg import from_pyg
from revgnn.graph import Graph
from revgnn.train import TrainConfig, fit


def as_data(dataset: Dataset) -> Data:
    """The same graph as PyG has it."""
    masks = {}
    for split, name in (("train", "train_mask"), ("valid", "val_mask"), ("test", "test_mask")):
        masks[name] = torch.zeros(dataset.num_nodes, dtype=torch.bool)
        masks[name][dataset.splits[split]] = True
    return Data(x=dataset.x, edge_index=dataset.edge_index, edge_attr=dataset.edge_attr, y=dataset.y, **masks)


def bits(batch: Batch) -> list[Tensor]:
    return batch.tensors()


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


def test_a_graph_is_the_batch_that_its_data_set_gives() -> None:
    dataset = one_graph(30, 120)
    mine, theirs = from_pyg(as_data(dataset)), FullBatch(dataset).batch
    assert torch.equal(mine.x, theirs.x)
    assert torch.equal(mine.graph.edge_index, theirs.graph.edge_index)
    assert mine.edge_attr is not None and theirs.edge_attr is not None
    assert torch.equal(mine.edge_attr, theirs.edge_attr)
    assert {name: rows.tolist() for name, rows in mine.rows.items()} == {
        name: sorted(rows.tolist()) for name, rows in theirs.rows.items()
    }


def test_seeds_of_a_neighbourhood_are_the_rows() -> None:
    data = as_data(one_graph(30, 120))
    data.batch_size, data.n_id = 12, torch.arange(30) + 100
    batch = from_pyg(data)
    assert batch.rows["train"].tolist() == data.train_mask[:12].nonzero()[:, 0].tolist()
    assert batch.ids is not None and batch.ids[0] == 100
    assert from_pyg(data, "test").rows["test"].tolist() == list(range(12))
    for name in ("train_mask", "val_mask", "test_mask"):
        del data[name]
    assert from_pyg(data).rows["train"].tolist() == list(range(12))


def test_graphs_side_by_side_are_all_training_rows() -> None:
    one = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]), y=torch.tensor([[1.0, 0.0]]))
    batch = from_pyg(PygBatch.from_data_list([one, one]))
    assert batch.rows["train"].tolist() == [0, 1]
    assert batch.graph.num_graphs == 2
    assert batch.y.shape == (2, 2)
    assert from_pyg(PygBatch.from_data_list([one, one]), "valid").rows.keys() == {"valid"}


@pytest.mark.parametrize(
    ("y", "shape"),
    [
        (torch.zeros(4, dtype=torch.int64), (4,)),
        (torch.zeros(4, 1, dtype=torch.int64), (4,)),
        (torch.zeros(4), (4, 1)),
        (torch.zeros(4, 3), (4, 3)),
    ],
)
def test_labels_and_edge_weights_take_the_shape_of_a_batch(y: Tensor, shape: tuple[int, ...]) -> None:
    data = Data(x=torch.ones(4, 1), edge_index=torch.tensor([[1, 0], [1, 0]]), edge_attr=torch.tensor([1.0, 0.5]), y=y)
    batch = from_pyg(data)
    assert batch.y.shape == shape
    assert batch.edge_attr is not None
    assert batch.edge_attr.tolist() == [[0.5], [1.0]]
    assert batch.rows == {}


def test_what_is_missing_is_named() -> None:
    edges = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match=r"data\.y is missing"):
        from_pyg(Data(x=torch.ones(2, 1), edge_index=edges))
    with pytest.raises(ValueError, match=r"data\.edge_index is missing"):
        from_pyg(Data(x=torch.ones(2, 1), y=torch.zeros(2)))
    data = Data(x=torch.ones(2, 1), edge_index=edges, y=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="must say which rows it is trained on: a train_mask.*got edge_index, x, y"):
        list(PygBatches([data], [data]).train(1))
    data.train_mask = torch.ones(2)
    with pytest.raises(ValueError, match=r"data\.train_mask must be bool \[2\], one per row of y, got torch.float32"):
        from_pyg(data)
    with pytest.raises(ValueError, match="generator has no length; pass steps"):
        PygBatches((one for one in [data]), [data])
    data.train_mask = torch.tensor([False, True])
    data.y = torch.tensor([-1, -1])
    with pytest.raises(ValueError, match=r"row 1 of train has -1 \(1 such rows\); take rows of unknown label out"):
        from_pyg(data)
    data.y, data.x = torch.tensor([-1, 0]), torch.tensor([[0.0], [float("nan")]])
    with pytest.raises(ValueError, match=r"data.x must be finite: row 1 is the first of 1 with NaN"):
        from_pyg(data)


def test_a_loader_is_a_function_of_seed_and_epoch_and_leaves_generators_alone() -> None:
    dataset = one_graph(60, 300)

    def epoch_of(seed: int, epoch: int, *, disturb: bool = False) -> list[Batch]:
        loader = RandomNodeLoader(as_data(dataset), num_parts=4, shuffle=True)
        stream = PygBatches(loader, [as_data(dataset)], seed=seed).train(epoch)
        batches = []
        for batch in stream:
            batches.append(batch)
            if disturb:
                torch.rand(11), np.random.rand(3), random.random()
        return batches

    once, again = epoch_of(0, 2), epoch_of(0, 2, disturb=True)
    assert len(once) == 4
    assert all(equal(a, b) for a, b in zip(once, again, strict=True))
    for other in (epoch_of(0, 3), epoch_of(1, 2)):
        assert not all(equal(a, b) for a, b in zip(once, other, strict=False))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    epoch_of(0, 1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def test_a_function_of_the_epoch_is_a_loader_too() -> None:
    data = as_data(one_graph(20, 40))
    epochs = []

    def batches(epoch: int) -> Iterator[Data]:
        epochs.append(epoch)
        yield from [data] * epoch

    source = PygBatches(batches, [data], steps=2)
    assert [len(list(source.train(epoch))) for epoch in (1, 3)] == [1, 3]
    assert epochs == [1, 3]
    assert len(source) == 2
    assert next(iter(source.evaluate())) is next(iter(source.evaluate())), "a batch that comes again is kept"


def test_a_kept_batch_follows_its_data_and_dies_with_it() -> None:
    data = as_data(one_graph(20, 40))
    source = PygBatches([data], [data])
    first = next(iter(source.evaluate()))
    memory = data.edge_index.numpy()
    memory[0, :5] = (memory[0, :5] + 1) % 20
    second = next(iter(source.evaluate()))
    assert second is not first
    assert torch.equal(second.graph.edge_index, Graph.from_data(data).edge_index)
    data.train_mask = ~data.train_mask
    third = next(iter(source.evaluate()))
    assert torch.equal(third.rows["train"], data.train_mask.nonzero()[:, 0])
    data.val_mask[:] = False
    assert not next(iter(source.evaluate())).rows["valid"].numel()
    source, held = PygBatches([], list, steps=0), as_data(one_graph(20, 40))
    graph = weakref.ref(source._taken(held).graph)
    assert graph() is not None
    del held
    gc.collect()
    assert graph() is None


def test_edges_as_pygs_edge_index() -> None:
    data, other = as_data(one_graph(20, 40)), as_data(one_graph(20, 40))
    other.edge_index = EdgeIndex(other.edge_index, sparse_size=(20, 20))
    assert equal(from_pyg(data), from_pyg(other))
    assert equal(next(iter(PygBatches([other], [other]).train(1))), from_pyg(data))


def train(batches: Any, dataset: Dataset) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(conv="gen", num_layers=3, hidden_channels=8, coupling="grouped", backprop="reversible")
    model = build_model(config, dataset.info)
    config = TrainConfig(epochs=3, lr=0.01, checkpoint_every=None)
    return fit(model, batches, config, metric="accuracy", device="cpu")


def test_the_same_model_trains_under_every_kind_of_batches() -> None:
    dataset = one_graph(60, 300)
    data = as_data(dataset)
    parts = [data.subgraph(torch.arange(60) % 3 == part) for part in range(3)]
    kinds = {
        "full": make_batches(dataset),
        "random": make_batches(dataset, None, 0, LoaderConfig(kind="random", num_parts=3, eval_parts=2)),
        "neighbor": make_batches(dataset, None, 0, LoaderConfig(kind="neighbor", fanouts=(3, 2), batch_size=10)),
        "pyg list": PygBatches(parts, [data]),
        "pyg loader": PygBatches(RandomNodeLoader(data, num_parts=3, shuffle=True), [data]),
        "pyg parts": PygBatches(parts, RandomNodeLoader(data, num_parts=2)),
    }
    for name, batches in kinds.items():
        result = train(batches, dataset)
        assert result.steps == 3 * len(batches), name
        assert result.curve[-1]["loss"] != result.curve[0]["loss"], name
        assert set(result.scores) == {"train", "valid", "test"}, name


def test_hand_made_parts_train_to_the_bits_of_our_own() -> None:
    dataset = one_graph(60, 300)
    ours = make_batches(dataset, None, 0, LoaderConfig(kind="random", num_parts=3))
    whole = as_data(dataset)

    def same_parts(epoch: int) -> Iterator[Data]:
        for batch in ours.train(epoch):
            assert batch.ids is not None
            kept = torch.zeros(60, dtype=torch.bool)
            kept[batch.ids] = True
            yield whole.subgraph(kept)

    mine, theirs = train(ours, dataset), train(PygBatches(same_parts, [whole], steps=3), dataset)
    assert [row["loss"] for row in mine.curve] == [row["loss"] for row in theirs.curve]


class Pooled(nn.Module):
    """A graph's mean and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        assert graph.batch is not None
        return self.linear(torch.zeros(graph.num_graphs, 2).index_add_(0, graph.batch, x))


def test_whole_graphs_with_a_loader_for_each_split() -> None:
    made = [
        Data(x=torch.full((size, 2), 0.1 * size), edge_index=torch.zeros(2, 1, dtype=torch.int64), y=torch.ones(1))
        for size in range(1, 13)
    ]
    evaluate = {"train": DataLoader(made[:6], 4), "valid": DataLoader(made[6:9], 4), "test": DataLoader(made[9:], 2)}
    batches = PygBatches(DataLoader(made[:6], 4, shuffle=True), evaluate)
    config = TrainConfig(epochs=2, loss="mse", checkpoint_every=None)
    result = fit(Pooled(), batches, config, metric="rmse", device="cpu")
    assert set(result.scores) == {"train", "valid", "test"}
    assert result.steps == 4
