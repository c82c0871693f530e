"""Going through a data set for predictions: every row once, under its own number, whatever the batches are."""

from __future__ import annotations

import pytest
import torch

from revgnn.data import Dataset, DatasetSource, GraphInfo, LoaderConfig, load_dataset, make_batches
from revgnn.data.datasets import DatasetConfig


def _graphs() -> Dataset:
    """Six graphs of two nodes, whose label is their number."""
    return Dataset(
        info=GraphInfo(name="graphs", level="graph", task="regression", metric="rmse", num_outputs=1),
        x=torch.zeros(12, 1),
        edge_index=torch.tensor([[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]),
        y=torch.arange(6.0)[:, None],
        splits={"train": torch.tensor([5, 0]), "valid": torch.tensor([3]), "test": torch.tensor([1, 4, 2])},
        node_ptr=torch.arange(0, 13, 2),
        edge_ptr=torch.arange(7),
    )


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_graphs_keep_their_numbers(batch_size: int | None) -> None:
    source = DatasetSource(graphs := _graphs(), make_batches(graphs, batch_size, 0, LoaderConfig()))
    seen = []
    for batch in source.batches():
        assert batch.ids is not None
        assert batch.y[:, 0].tolist() == batch.ids.tolist()
        seen += batch.ids.tolist()
    assert sorted(seen) == list(range(6))
    keys = source.keys(torch.tensor([0, 1, 3]))
    assert (keys.ids.to_pylist(), keys.split.tolist()) == ([0, 1, 3], [0, 2, 1])


@pytest.mark.parametrize("loader", [LoaderConfig(), LoaderConfig(eval_parts=3, eval_views=2)])
def test_nodes_keep_their_numbers(loader: LoaderConfig) -> None:
    data = load_dataset(DatasetConfig(name="karate"), "data")
    source = DatasetSource(data, make_batches(data, None, 0, loader))
    count = torch.zeros(34, dtype=torch.int64)
    for batch in source.batches():
        assert batch.ids is not None
        assert torch.equal(batch.x, data.x[batch.ids])
        count[batch.ids] += 1
    assert count.tolist() == [loader.eval_views] * 34
