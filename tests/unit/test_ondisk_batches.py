"""Batches from disk: pure in (seed, epoch, step), every part once an epoch, and the same answers as in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prepared_graphs import draw_whole, write_store
from revgnn.data import (
    Batch,
    DatasetConfig,
    LoaderConfig,
    Store,
    StoredParts,
    StoredViews,
    make_batches,
    read_data,
)
from revgnn.nn.model import ModelConfig, build_model
from revgnn.train import Callback, Goal, LabelOptions, TrainConfig, TrainState, fit, load_latest, predict
from revgnn.train.evaluate import evaluate
from revgnn.train.objective import Objective
from revgnn.train.signals import Interrupted
from tolerances import assert_close

OBJECTIVE = Objective(loss="cross_entropy", metric="accuracy")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    whole = draw_whole(3, nodes=120, edges=600, num_parts=7, edge_features=2)
    return Store.open(write_store(tmp_path_factory.mktemp("drawn") / "graph", whole, num_parts=7))


def _model(store: Store, *, labels: int = 0) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(
        conv="sage", num_layers=3, hidden_channels=8, coupling="grouped", num_groups=2, backprop="reversible"
    )
    return build_model(config, replace(store.info, label_channels=labels))


def _same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_an_epoch_goes_through_every_part_once(store: Store, together: int) -> None:
    batches = StoredParts(store, together, 5)
    seen = [batch.ids for batch in batches.train(1)]
    assert len(batches) == -(-7 // together)
    rows = torch.cat([ids for ids in seen if ids is not None])
    assert rows.sort().values.tolist() == list(range(120))


def test_batches_are_a_pure_function_of_seed_epoch_and_step(store: Store) -> None:
    first, again = list(StoredParts(store, 2, 5).train(3)), list(StoredParts(Store.open(store.folder), 2, 5).train(3))
    assert all(_same(one, other) for one, other in zip(first, again, strict=True))
    ahead = make_batches(store, None, 5, LoaderConfig(kind="ondisk", parts_per_batch=2, prefetch=2))
    assert all(_same(one, other) for one, other in zip(first, ahead.train(3), strict=True))
    for seed, epoch in ((5, 4), (6, 3)):
        other = next(iter(StoredParts(store, 2, seed).train(epoch)))
        assert not (other.x.shape == first[0].x.shape and torch.equal(other.x, first[0].x))


def test_a_step_without_training_nodes_is_left_out(tmp_path: Path) -> None:
    whole = draw_whole(1)
    split = whole.split.copy()
    split[whole.part == 2] = 1
    folder = write_store(tmp_path / "graph", replace(whole, split=split))
    assert len(list(StoredParts(Store.open(folder), 1, 0).train(1))) == 3


def test_one_piece_answers_as_the_graph_in_memory(store: Store) -> None:
    model = _model(store).eval()
    in_memory = predict(model, make_batches(store.load()))
    pieces = make_batches(store, None, 0, LoaderConfig(kind="ondisk", prefetch=0))
    assert_close(predict(model, pieces), in_memory)


@pytest.mark.parametrize("views", [1, 3])
def test_scores_by_pieces_are_those_of_all_logits_together(store: Store, views: int) -> None:
    model = _model(store).eval()
    batches = StoredViews(store, 3, views, 0)

    def forward(batch: Batch) -> tuple[torch.Tensor, Batch]:
        return model(batch.x, batch.graph, batch.edge_attr, seed=None), batch

    scores = evaluate(model, _Evaluation(batches), objective=OBJECTIVE, forward=forward)
    total = torch.zeros(120, store.info.num_outputs)
    with torch.no_grad():
        for view in range(views):
            for group in batches.groups(view):
                batch = store.batch(group)
                assert batch.ids is not None
                total[batch.ids] += forward(batch)[0] / views
    data = store.load()
    for split, rows in data.splits.items():
        loss = torch.nn.functional.cross_entropy(total[rows], data.y[rows])
        assert scores[split]["metric"] == pytest.approx(float((total[rows].argmax(1) == data.y[rows]).float().mean()))
        assert scores[split]["loss"] == pytest.approx(float(loss), rel=1e-5)


class _Evaluation:
    def __init__(self, views: StoredViews) -> None:
        self._views = views

    def __len__(self) -> int:
        return 0

    def train(self, epoch: int) -> Iterator[Batch]:
        return iter(())

    def evaluate(self) -> Iterator[Batch]:
        return self._views.evaluate()


def _fit(store: Store, out: Path, **kwargs: Any) -> torch.nn.Module:
    loader = LoaderConfig(kind="ondisk", parts_per_batch=2, eval_parts=3, eval_views=2)
    config = TrainConfig(epochs=3, lr=0.01, checkpoint_every=None, labels=LabelOptions(reuse=True))
    model = _model(store, labels=store.info.num_outputs)
    fit(
        model,
        make_batches(store, None, 0, loader),
        config,
        metric=Goal(metric="accuracy", num_outputs=store.info.num_outputs),
        out=out,
        device="cpu",
        **kwargs,
    )
    return model


def test_a_run_that_stops_in_an_epoch_ends_as_one_that_does_not(store: Store, tmp_path: Path) -> None:
    whole = _fit(store, tmp_path / "whole")

    class Stop(Callback):
        def on_step_end(self, run: TrainState) -> None:
            if (run.epoch + 1, run.step) == (2, 2):
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        _fit(store, tmp_path / "stopped", callbacks=[Stop()])
    snapshot = load_latest(tmp_path / "stopped")
    assert snapshot is not None and (snapshot.epoch, snapshot.step) == (1, 2)
    resumed = _fit(store, tmp_path / "stopped", resume=True)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ({"kind": "ondisk", "parts_per_batch": 8}, "loader.parts_per_batch=8 must be at most 7"),
        ({"kind": "ondisk", "eval_parts": 8}, "loader.eval_parts=8 must be at most 7"),
        ({"kind": "ondisk", "final_parts": 9}, "loader.final_parts=9 must be at most 7"),
        ({"kind": "full"}, "the kind ondisk reads a prepared graph from disk"),
    ],
)
def test_a_loader_that_does_not_fit_is_refused(store: Store, loader: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_batches(store, None, 0, LoaderConfig(**loader))


def test_a_graph_that_is_not_prepared_has_no_parts_on_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads the parts of a prepared graph, got dataset.name=karate"):
        read_data(DatasetConfig(name="karate"), LoaderConfig(kind="ondisk"), tmp_path)
    with pytest.raises(ValueError, match="are what revgnn prepare made them"):
        DatasetConfig(name="prepared", path="graph", undirected=True)
