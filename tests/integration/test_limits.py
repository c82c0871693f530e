"""A time or a memory in place of settings: the planner chooses the network, and the run keeps its time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prepared_graphs import draw_whole, write_store
from revgnn.cli import main
from revgnn.data import DatasetConfig
from revgnn.experiment import Experiment
from revgnn.nn.model import ModelConfig
from revgnn.overrides import override
from revgnn.planner import Limits, MachineRates, choose_within, estimate, shape_of_config
from revgnn.planner.limits import LEAST_EPOCHS, parse_seconds
from revgnn.planner.roofline import run_seconds
from revgnn.planner.suggest import MARGIN
from revgnn.train import TrainConfig
from toy_run import CONFIG, fit_toy

SLOW = MachineRates(gather=1e8, stream=1e8, products=1e9, source="a slow machine")
MODEL = ModelConfig(num_layers=8, hidden_channels=64, norm="batch")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = draw_whole(0, nodes=2000, edges=8000)
    return write_store(tmp_path_factory.mktemp("limits") / "graph", whole)


def _run(graph: Path) -> Experiment:
    return Experiment(
        dataset=DatasetConfig(name="prepared", path=str(graph)), model=MODEL, train=TrainConfig(epochs=200)
    )


def test_the_longer_the_time_the_larger_the_network(graph: Path) -> None:
    run = _run(graph)
    shape = shape_of_config(run.dataset)
    whole = run_seconds(run, shape, SLOW)
    sizes = []
    for share in (10.0, 1.0, 0.3, 0.12, 0.03):
        limits = Limits(seconds=share * whole)
        choice = choose_within(run, shape, limits, SLOW)
        changed = override(run, choice.settings)
        assert isinstance(changed.model, ModelConfig)
        assert choice.seconds == pytest.approx(run_seconds(changed, shape, SLOW), rel=0.02)
        assert choice.seconds <= 0.8 * share * whole * 1.01
        assert LEAST_EPOCHS <= changed.train.epochs <= 200
        assert changed.train.max_minutes == pytest.approx(share * whole / 60, rel=1e-4)
        sizes.append((changed.model.num_layers, changed.model.hidden_channels))
    assert sizes[0] == (16, 64) and sizes[1] == (8, 64)
    areas = [layers * width for layers, width in sizes]
    assert areas == sorted(areas, reverse=True) and areas[-1] < areas[1]
    fixed = choose_within(run, shape, Limits(seconds=0.12 * whole), SLOW, fixed=frozenset({"model.num_layers"}))
    assert not any(setting.startswith("model.num_layers") for setting in fixed.settings)
    with pytest.raises(ValueError, match=r"the smallest that was tried, which takes about [\d.]+ m?s; allow more"):
        choose_within(run, shape, Limits(seconds=1e-6 * whole), SLOW)


@pytest.mark.slow
def test_a_memory_is_kept_by_the_same_network_where_it_can(graph: Path) -> None:
    model = replace(MODEL, num_layers=6, hidden_channels=16, backprop="store")
    run = replace(_run(graph), model=model)
    shape = shape_of_config(run.dataset).scaled(2)
    memory = int(MARGIN * (estimate(run, shape).process - 300_000))
    choice = choose_within(run, shape, Limits(memory=memory), SLOW)
    changed = override(run, choice.settings)
    assert choice.settings and isinstance(changed.model, ModelConfig)
    assert (changed.model.num_layers, changed.model.hidden_channels) == (6, 16)
    assert choice.process is not None and MARGIN * choice.process <= memory
    assert estimate(changed, shape).process == pytest.approx(choice.process)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)])
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    for wrong in ("10", "0s", "-1m", "10 d"):
        with pytest.raises(ValueError, match="--time must be a duration above 0 such as 90s, 10m or 1.5h"):
            parse_seconds(wrong)


def test_a_run_ends_when_its_time_is_up(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=100_000, schedule="constant", max_minutes=0.005, checkpoint_every=None)
    result = fit_toy(tmp_path / "run", config)
    assert result.stopped == "time" and 1 <= result.epochs < 100_000
    # The time of its steps counts on: a resumed run that is over ends at once.
    again = fit_toy(tmp_path / "run", replace(config, max_minutes=1e-6), resume=True)
    assert again.epochs == result.epochs and again.scores == result.scores
    with pytest.raises(ValueError, match="max_minutes must be finite and above 0"):
        replace(config, max_minutes=0.0)


def test_the_command_line_says_what_was_chosen(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(graph), "--out", str(tmp_path / "run"), "--device", "cpu"]
    small = ["--set", "train.epochs=2", "--set", "model.hidden_channels=8", "--set", "model.num_layers=2"]
    assert main([*words, *small, "--time", "1m", "--memory", "4GB"]) == 0
    said = capsys.readouterr().err
    assert "chosen: " in said and "--set train.max_minutes=1;" in said and "of memory" in said
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["config"]["train"]["max_minutes"] == 1.0 and report["config"]["model"]["num_layers"] == 2
    assert "train.max_minutes" in report["changed"] and "train.lr" in report["changed"]
    for more, wrong in (
        (["--resume"], "a run resumes with its own settings"),
        (["--ray", "local"], "--time and --memory choose for one process"),
    ):
        assert main([*words, "--time", "1m", *more]) == 2
        assert wrong in capsys.readouterr().err
    assert main(["train", "digits/revgnn", "--time", "1m"]) == 2
    assert "--time and --memory go with a folder; the recipe digits/revgnn" in capsys.readouterr().err
