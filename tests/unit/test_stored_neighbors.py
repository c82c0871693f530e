"""Neighbourhoods sampled from memory-mapped parts: the same bits as from memory, and nothing that is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prepared_graphs import draw_whole, write_store
from revgnn.data import LoaderConfig, Store, StoreError, make_batches
from revgnn.data.ondisk.incoming import StoredNeighbors
from revgnn.data.sampling.neighbor import sample_neighbors

LOADER = LoaderConfig(kind="ondisk", fanouts=(3, 2), batch_size=7, prefetch=0, eval_parts=2)


@pytest.mark.parametrize("edge_features", [0, 3])
@pytest.mark.parametrize(("with_replacement", "layer_wise"), [(False, False), (True, False), (True, True)])
def test_batches_from_disk_are_those_from_memory(
    tmp_path: Path, edge_features: int, with_replacement: bool, layer_wise: bool
) -> None:
    whole = draw_whole(nodes=50, edges=400, num_parts=5, edge_features=edge_features)
    store = Store.open(write_store(tmp_path / "graph", whole, num_parts=5))
    loader = replace(LOADER, with_replacement=with_replacement, layer_wise=layer_wise)
    for _ in range(2):  # the arrays are written, then read
        stored = make_batches(store, None, 3, loader)
        memory = make_batches(store.load(), None, 3, replace(loader, kind="neighbor"))
        assert len(stored) == len(memory)
        for epoch in (1, 2):
            for one, other in zip(stored.train(epoch), memory.train(epoch), strict=True):
                assert one.rows.keys() == other.rows.keys() and one.hops == other.hops
                assert (one.hops is not None) == layer_wise
                assert len(one.tensors()) == len(other.tensors())
                assert all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


def test_only_what_is_drawn_is_read(tmp_path: Path) -> None:
    whole = draw_whole(nodes=50, edges=400, num_parts=5)
    graph = StoredNeighbors(Store.open(write_store(tmp_path / "graph", whole, num_parts=5)))
    assert all(isinstance(array, np.memmap) for array in graph.incoming)
    sample = sample_neighbors(*graph.incoming, np.array([3]), [2], np.random.default_rng(0))
    batch = graph.batch(sample)
    assert torch.equal(batch.x, torch.from_numpy(whole.x)[sample.nodes])
    assert {name: rows.tolist() for name, rows in batch.rows.items()} == {
        name: np.flatnonzero(whole.split[sample.nodes.numpy()] == code).tolist()
        for code, name in enumerate(("train", "valid", "test"))
    }


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    store = Store.open(write_store(tmp_path / "graph", draw_whole(), num_parts=4))
    StoredNeighbors(store)
    file = store.folder / "incoming" / "indices.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="remove the folder, it is written again"):
        StoredNeighbors(store)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 5}, "reads whole parts unless loader.fanouts is set"),
        ({"layer_wise": True}, "reads whole parts unless loader.fanouts is set"),
        ({"fanouts": (5,)}, "samples around loader.batch_size training nodes"),
        ({"fanouts": (5,), "batch_size": 3, "parts_per_batch": 2}, "set batch_size alone"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoaderConfig(kind="ondisk", **fields)  # type: ignore[arg-type]
