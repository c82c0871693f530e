"""An interrupted run that resumes ends with the bits of one that was never interrupted."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import RandomNodeLoader

from revgnn.data import Batches, Dataset, DatasetConfig, GraphInfo, LoaderConfig, PygBatches, make_batches
from revgnn.experiment import Experiment, run_experiment
from revgnn.nn.convs.gat import GATOptions
from revgnn.nn.model import EquilibriumOptions, ModelConfig
from revgnn.train import Callback, Interrupted, TrainState, load_latest, read_curve
from revgnn.train.config import as_json, check_same
from revgnn.train.label_inputs import LabelOptions
from toy_run import CONFIG, assert_same_run, fit_toy


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # On a busy machine threads that wait for each other over a few numbers take nearly all of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    fit_toy(out)
    return out


@pytest.mark.parametrize(
    "other",
    [
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "rmsprop", "weight_decay": 0.01},
        {"optimizer": "rmsprop", "ema_decay": 0.8},
        {"ema_decay": 0.8},
    ],
)
def test_other_optimizers_and_means_of_weights_resume_too(tmp_path: Path, other: dict[str, Any]) -> None:
    config = replace(CONFIG, **other)
    fit_toy(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        fit_toy(tmp_path / "cut", config, stop_at=8)
    fit_toy(tmp_path / "cut", config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("stop_at", "signum"), [(1, signal.SIGINT), (3, signal.SIGTERM), (8, signal.SIGINT), (21, signal.SIGTERM)]
)
def test_a_signal_in_any_step_checkpoints_and_resumes(tmp_path: Path, whole: Path, stop_at: int, signum: int) -> None:
    with pytest.raises(Interrupted, match="resume the run to go on") as caught:
        fit_toy(tmp_path, stop_at=stop_at, signum=signum)
    assert caught.value.signum == signum
    saved = load_latest(tmp_path)
    assert saved.epoch * 3 + saved.step == stop_at
    fit_toy(tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


def test_a_run_interrupted_again_and_again_is_still_the_same(tmp_path: Path, whole: Path) -> None:
    for attempt in range(30):
        try:
            fit_toy(tmp_path, stop_at=4, resume=attempt > 0)
            break
        except Interrupted:
            continue
    assert attempt == 5
    assert_same_run(whole, tmp_path)


def test_a_crash_goes_back_to_the_last_checkpoint_and_trims_the_curve(tmp_path: Path, whole: Path) -> None:
    class Crash(Callback):
        def on_epoch_end(self, run: TrainState) -> None:
            if run.row["epoch"] == 5:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit_toy(tmp_path, callbacks=[Crash()])
    assert load_latest(tmp_path).epoch == 4
    assert len(read_curve(tmp_path / "curve.jsonl")) == 5
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"epoch": 6, "lo')
    fit_toy(tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


class StopsAfter(Callback):
    """A callback in whose clock every step takes a minute, and whose power is cut after so many of them."""

    def __init__(self, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.minutes = steps, 0
        monkeypatch.setattr("revgnn.train.callbacks.checkpoint.time.monotonic", lambda: 60.0 * self.minutes)

    def on_step_end(self, run: TrainState) -> None:
        self.minutes += 1
        if self.minutes == self.steps:
            raise RuntimeError("power cut")


@pytest.mark.parametrize(("cut", "kept"), [(2, 0), (8, 6), (12, 9), (21, 18)])
def test_minutes_between_checkpoints_are_all_that_a_crash_costs(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, cut: int, kept: int
) -> None:
    config = replace(CONFIG, checkpoint_every=None, checkpoint_minutes=2.5)
    with monkeypatch.context() as clock, pytest.raises(RuntimeError, match="power cut"):
        fit_toy(tmp_path, config, callbacks=[StopsAfter(cut, clock)])
    saved = load_latest(tmp_path)
    assert (0 if saved is None else saved.epoch * 3 + saved.step) == kept
    fit_toy(tmp_path, config, resume=True)
    assert_same_run(whole, tmp_path)


def test_a_damaged_newest_checkpoint_costs_time_and_nothing_else(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        fit_toy(tmp_path, stop_at=17)
    newest = max((tmp_path / "ckpt").iterdir())
    os.truncate(newest / "optimizer.safetensors", 100)
    with caplog.at_level(logging.WARNING):
        fit_toy(tmp_path, resume=True)
    assert f"{newest}/optimizer.safetensors has 100 bytes" in caplog.text
    assert_same_run(whole, tmp_path)


def test_a_run_without_a_checkpoint_starts_afresh_and_says_so(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curve.jsonl").write_text('{"epoch": 1}\n')
    with caplog.at_level(logging.WARNING):
        fit_toy(tmp_path, resume=True)
    assert "holds no checkpoint: the run starts from the beginning" in caplog.text
    assert_same_run(whole, tmp_path)


def test_a_finished_run_resumes_to_its_own_result(tmp_path: Path) -> None:
    first = fit_toy(tmp_path)
    again = fit_toy(tmp_path, resume=True)
    assert again == first


def test_a_run_can_be_made_longer_but_not_different(tmp_path: Path) -> None:
    constant = replace(CONFIG, schedule="constant")
    fit_toy(tmp_path / "long", replace(constant, epochs=9))
    fit_toy(tmp_path / "grown", replace(constant, epochs=4), configuration={"model": {"width": 8}})
    with pytest.raises(ValueError, match=r"train.lr was 0.02 and is 0.1; put it back"):
        fit_toy(tmp_path / "grown", replace(constant, lr=0.1), resume=True, configuration={"model": {"width": 8}})
    with pytest.raises(ValueError, match="model.width was 8 and is 9"):
        fit_toy(tmp_path / "grown", constant, resume=True, configuration={"model": {"width": 9}})
    newer = {"model": {"width": 8, "depth": 2}}
    with pytest.raises(ValueError, match="other fields.*: model.depth; resume it with the version that began it"):
        fit_toy(tmp_path / "grown", constant, resume=True, configuration=newer)
    with pytest.raises(ValueError, match="model.depth was None and is 2; train.lr was 0.02 and is 0.1; put it back"):
        fit_toy(tmp_path / "grown", replace(constant, lr=0.1), resume=True, configuration=newer)
    whole = as_json(constant, None)
    # A version without a field that moves no weight.
    check_same(
        {"train": {name: value for name, value in whole["train"].items() if name != "checkpoint_minutes"}}, whole
    )
    with pytest.raises(ValueError, match="epochs=2 is less than the 4"):
        fit_toy(tmp_path / "grown", replace(constant, epochs=2), resume=True, configuration={"model": {"width": 8}})
    fit_toy(tmp_path / "grown", replace(constant, epochs=9), resume=True, configuration={"model": {"width": 8}})
    assert_same_run(tmp_path / "long", tmp_path / "grown")
    fit_toy(tmp_path / "cosine")
    with pytest.raises(ValueError, match="train.epochs was 7 and is 8"):
        fit_toy(tmp_path / "cosine", replace(CONFIG, epochs=8), resume=True)


KINDS: dict[str, dict[str, Any]] = {
    "random": {"num_parts": 4, "eval_parts": 3, "eval_views": 2},
    "clusters": {"num_parts": 12, "parts_per_batch": 3, "eval_parts": 2},
    "neighbor": {"fanouts": (3, 2), "batch_size": 9},
    "pyg": {},
}


def _data() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(70, 4, generator=generator)
    order = torch.randperm(70, generator=generator)
    return Dataset(
        info=GraphInfo(name="one", num_outputs=3),
        x=x,
        edge_index=torch.randint(70, (2, 400), generator=generator),
        edge_attr=torch.rand(400, 2, generator=generator),
        y=x[:, :3].argmax(1),
        splits={"train": order[:34], "valid": order[34:50], "test": order[50:]},
    )


def _batches(kind: str, prefetch: int = 2) -> Batches:
    """Make batches of one graph anew, as a process that resumes would."""
    data = _data()
    if kind != "pyg":
        config = LoaderConfig(kind=kind, prefetch=prefetch, **KINDS[kind])  # type: ignore[arg-type]
        return make_batches(data, None, 3, config)
    masks = {name: torch.zeros(70, dtype=torch.bool) for name in ("train_mask", "val_mask", "test_mask")}
    for mask, rows in zip(masks.values(), data.splits.values(), strict=True):
        mask[rows] = True
    whole = Data(x=data.x, edge_index=data.edge_index, edge_attr=data.edge_attr, y=data.y, **masks)
    return PygBatches(RandomNodeLoader(whole, num_parts=4, shuffle=True), [whole], seed=3)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_one_graph_resume_in_the_middle_of_an_epoch(tmp_path: Path, kind: str) -> None:
    if kind == "clusters":
        pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    config = replace(CONFIG, epochs=4)
    assert len(_batches(kind)) == 4
    # No batch made ahead in the one, five in the other: what is made ahead when the run stops is made again.
    fit_toy(tmp_path / "whole", config, batches=_batches(kind, prefetch=0))
    for stop_at in (2, 7):
        with pytest.raises(Interrupted):
            fit_toy(tmp_path / "cut", config, batches=_batches(kind, 5), stop_at=stop_at, resume=stop_at > 2)
        saved = load_latest(tmp_path / "cut")
        assert saved.step > 0, "in the middle of an epoch"
    fit_toy(tmp_path / "cut", config, batches=_batches(kind), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_what_moves_no_weight_may_change_on_resuming(tmp_path: Path) -> None:
    def configured(**loader: Any) -> dict[str, Any]:
        return {"loader": {"kind": "random", "num_parts": 4, "prefetch": 2, "final_parts": None, **loader}}

    constant = replace(CONFIG, schedule="constant", epochs=2)
    fit_toy(tmp_path, constant, configuration=configured())
    longer = replace(constant, epochs=3)
    fit_toy(tmp_path, longer, configuration=configured(prefetch=0, final_parts=3), resume=True)
    with pytest.raises(ValueError, match="loader.num_parts was 4 and is 5"):
        fit_toy(tmp_path, longer, configuration=configured(num_parts=5), resume=True)


NETS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "full batch, exact state": ({"state": "exact"}, {}, "full"),
    "random parts, labels as an input": ({}, {"labels": LabelOptions(reuse=True)}, "random"),
    "clusters, batch norm": ({"norm": "batch", "dropout_mask": "independent"}, {}, "clusters"),
    "neighbourhoods, attention": ({"conv": "gat", "gat": GATOptions(heads=2)}, {}, "neighbor"),
    "an equilibrium whose pre-training ends": (
        {
            "backprop": "implicit",
            "coupling": "residual",
            "weight_tied": True,
            "num_layers": 3,
            "equilibrium": EquilibriumOptions(pretrain_epochs=2, tol=0.5),
        },
        {},
        "random",
    ),
}


class StopAt(Callback):
    """A callback that asks for the end after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, run: TrainState) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("net", NETS)
def test_every_kind_of_network_resumes_with_the_same_bits(tmp_path: Path, net: str) -> None:
    options, training, kind = NETS[net]
    if kind == "clusters":
        pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    model = ModelConfig(**{"num_layers": 4, "hidden_channels": 8, "dropout": 0.3, **options})
    loader = LoaderConfig(kind=kind, **KINDS.get(kind, {}))  # type: ignore[arg-type]
    train = replace(CONFIG, epochs=4, **training)
    run = Experiment(dataset=DatasetConfig(name="digits"), model=model, train=train, loader=loader)

    def go(out: str, resume: bool = False, stop: int = 0) -> None:
        run_experiment(
            run,
            tmp_path / out,
            name="net",
            data_root=tmp_path,
            device="cpu",
            dataset=_data(),
            resume=resume,
            callbacks=[StopAt(stop)],
        )

    go("whole")
    for attempt, stop in enumerate((1, 2) if kind == "full" else (2, 7)):
        with pytest.raises(Interrupted):
            go("cut", resume=attempt > 0, stop=stop)
        assert load_latest(tmp_path / "cut").step > 0 or kind == "full", "in the middle of an epoch"
    go("cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
