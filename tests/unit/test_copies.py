"""What a run consists of can be pickled, copied, saved by torch and sent to a new process, after its steps too."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import RandomNodeLoader

from prepared_graphs import draw_whole, write_store
from rank_jobs import graph_dataset, node_dataset
from revgnn.data import Batches, Dataset, LoaderConfig, Prefetched, PygBatches, SaintOptions, Store, make_batches
from revgnn.nn.model import ModelConfig, build_model
from revgnn.paper.recipes import all_recipes
from revgnn.train import FitResult, ProgressBar, Tracking, TrainConfig, fit, load_latest
from revgnn.train.callbacks.memory import record_batches, step_memory


def saved_by_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "torch.save": saved_by_torch,
}
KINDS = {
    "full": LoaderConfig(),
    "parts": LoaderConfig(kind="random", num_parts=5, eval_parts=3, eval_views=2, prefetch=2),
    "neighbor": LoaderConfig(kind="neighbor", batch_size=11, fanouts=(3, 2)),
    "ondisk": LoaderConfig(kind="ondisk", parts_per_batch=1, eval_parts=3, prefetch=1),
    "saint": LoaderConfig(kind="saint", saint=SaintOptions(budget=4, coverage=2)),
    "ondisk neighbor": LoaderConfig(kind="ondisk", batch_size=11, fanouts=(3, 2), prefetch=0),
    "graphs": LoaderConfig(),
    "pyg": None,
}


def data_and_batches(kind: str, folder: Path) -> tuple[Dataset | Store, Batches]:
    loader = KINDS[kind]
    if loader is None:
        data = node_dataset()
        rows = torch.arange(len(data.x))
        masks = {f"{name}_mask": torch.isin(rows, data.splits[name]) for name in ("train", "test")}
        whole = Data(data.x, data.edge_index, y=data.y, val_mask=torch.isin(rows, data.splits["valid"]), **masks)
        return data, PygBatches(RandomNodeLoader(whole, num_parts=4, shuffle=True, num_workers=1), [whole])
    if kind.startswith("ondisk"):
        data = Store.open(write_store(folder / "graph", draw_whole(num_parts=5), num_parts=5))
    else:
        data = graph_dataset() if kind == "graphs" else node_dataset()
    return data, make_batches(data, 8 if kind == "graphs" else None, 0, loader)


def train(data: Dataset | Store, batches: Batches, **options: Any) -> FitResult:
    torch.manual_seed(0)
    config = ModelConfig(conv="sage", num_layers=4, hidden_channels=8, norm="batch")
    model = build_model(config, data.info)
    return fit(model, batches, TrainConfig(epochs=2), metric=data.info.metric, device="cpu", **options)


def features(batches: Batches) -> list[Tensor]:
    return [batch.x for source in (batches.train(2), batches.evaluate()) for batch in source]


@pytest.mark.parametrize("kind", KINDS)
def test_data_and_batches_that_were_trained_on(kind: str, tmp_path: Path) -> None:
    data, batches = data_and_batches(kind, tmp_path)
    train(data, batches)
    expected = features(batches)
    for way, copied in WAYS.items():
        other_data, other = copied((data, batches))
        assert other_data.info == data.info, way
        for mine, theirs in zip(features(other), expected, strict=True):
            assert torch.equal(mine, theirs), way


@pytest.mark.parametrize("way", WAYS)
def test_what_a_run_is_made_of_and_what_it_left(way: str, tmp_path: Path) -> None:
    copied = WAYS[way]
    for recipe in all_recipes().values():
        assert copied(recipe()) == recipe()
    data, batches = data_and_batches("full", tmp_path)
    result = train(data, batches, out=tmp_path / "run")
    assert copied(result) == result
    assert copied(load_latest(tmp_path / "run")).model.keys() == load_latest(tmp_path / "run").model.keys()


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_bar_shows_itself_on_standard_error(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = io.StringIO()
    bar = [
        ProgressBar("net", Console(file=elsewhere)),
        Tracking([], run="net", out=tmp_path, settings={}),
    ]
    data, batches = data_and_batches("full", tmp_path)
    train(data, batches, callbacks=bar)
    assert "net: epoch 2/2" in elsewhere.getvalue()
    said = elsewhere.getvalue()
    other = WAYS[way](bar)
    train(data, batches, callbacks=other)
    assert "net: epoch 2/2" in capsys.readouterr().err
    assert elsewhere.getvalue() == said


def test_copies_of_batches_that_are_recorded_are_not(tmp_path: Path) -> None:
    data, batches = data_and_batches("parts", tmp_path)
    assert isinstance(batches, Prefetched)
    memory = step_memory("cpu", torch.nn.Linear(1, 1), batches, 1)
    assert memory is not None
    record_batches(memory, batches, 1)
    for copied in WAYS.values():
        train(data, copied(batches))
    assert batches._direct > 0


def test_loaders_whose_workers_live_on_are_refused() -> None:
    whole = Data(torch.zeros(9, 1), torch.zeros(2, 0, dtype=torch.int64), y=torch.zeros(9, dtype=torch.int64))
    loader = RandomNodeLoader(whole, num_parts=3, num_workers=1, persistent_workers=True)
    for train_on, evaluate_on in [(loader, [whole]), ([whole], loader), ([whole], {"valid": loader})]:
        with pytest.raises(ValueError, match=r"persistent_workers=True keeps .* leave it out"):
            PygBatches(train_on, evaluate_on)


def _train_in(pipe: Any, *arguments: Any, **options: Any) -> None:
    pipe.send(train(*arguments, **options))


@pytest.mark.slow
def test_a_new_process_trains_on_what_it_is_sent(tmp_path: Path) -> None:
    sent = data_and_batches("parts", tmp_path)
    expected = train(*sent)
    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    options = {"callbacks": [ProgressBar("there")], "out": tmp_path / "run"}
    process = multiprocessing.get_context("spawn").Process(target=_train_in, args=(theirs, *sent), kwargs=options)
    process.start()
    assert mine.poll(120), process.exitcode
    assert [row["loss"] for row in mine.recv().curve] == pytest.approx([row["loss"] for row in expected.curve])
    process.join(60)
    assert process.exitcode == 0
