"""Trackers are told of every epoch and of the configuration; one that cannot work is refused before training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as accelerate_tracking

from revgnn.cli import main
from revgnn.train import read_curve
from revgnn.train.callbacks import tracking as own

SETTINGS = ("train.epochs=3", "train.eval_every=1", "train.patience=none", "model.num_layers=4")
SHORT = ["--device", "cpu", *(word for setting in SETTINGS for word in ("--set", setting))]


class Fake(accelerate_tracking.GeneralTracker):
    name = "fake"
    requires_logging_directory = False
    heard: list[Any] = []  # noqa: RUF012

    def __init__(self, run: str) -> None:
        super().__init__()
        self.heard.append(run)

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.heard.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.heard.append((step, values))

    def finish(self) -> None:
        self.heard.append("finished")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "fake", Fake)
    Fake.heard.clear()
    return Fake.heard


def test_a_tracker_hears_the_configuration_and_every_epoch(tmp_path: Path, fake: list[Any]) -> None:
    assert main(["train", "digits/revgnn", "--out", str(tmp_path / "run"), "--track", "fake", *SHORT]) == 0
    name, settings, *epochs, end = fake
    assert name.startswith("digits-revgnn")
    assert settings["model.num_layers"] == 4
    assert settings["train.patience"] == "None"
    assert end == "finished"
    rows = read_curve(tmp_path / "run" / "curve.jsonl")
    assert [step for step, _ in epochs] == [1, 2, 3]
    for (_, values), row in zip(epochs, rows, strict=True):
        assert values["loss"] == row["loss"]
        assert values["lr"] == row["lr"]
        assert values["memory"] == row["memory"]
        assert values["valid/accuracy"] == row["scores"]["valid"]["metric"]


def test_a_tracker_that_cannot_start_is_an_error_with_its_own_words(
    tmp_path: Path, fake: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Fake, "start", lambda self: _fail("no server\n  at localhost"), raising=False)
    assert main(["train", "digits/revgnn", "--out", str(tmp_path / "run"), "--track", "fake", *SHORT]) == 2
    assert "error: --track fake could not start: no server at localhost; mend" in capsys.readouterr().err
    assert not (tmp_path / "run" / "curve.jsonl").exists()


def test_a_run_goes_on_without_a_tracker_that_fails(
    tmp_path: Path, fake: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Fake, "log", lambda self, values, step=None: _fail("the server is gone") if step == 2 else None)
    assert main(["train", "digits/revgnn", "--out", str(tmp_path / "run"), "--track", "fake", *SHORT]) == 0
    told = capsys.readouterr().err
    assert told.count("--track fake failed at epoch 2 and is told no more") == 1
    assert "the server is gone" in told
    assert [row["epoch"] for row in read_curve(tmp_path / "run" / "curve.jsonl")] == [1, 2, 3]


def _fail(words: str) -> None:
    raise RuntimeError(words)


def test_what_cannot_track_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", "digits/revgnn", "--out", str(out), *SHORT, "--track"]
    assert main([*words, "nothing"]) == 2
    assert "--track nothing is unknown; choose one of aim," in capsys.readouterr().err
    monkeypatch.setattr(own, "get_available_trackers", list)
    assert main([*words, "comet_ml"]) == 2
    assert "pip install comet-ml" in capsys.readouterr().err
    assert not out.exists()


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert main(["train", "digits/revgnn", "--out", str(out), "--track", "tensorboard", *SHORT]) == 0
    (folder,) = (out / "track").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    losses = [row["loss"] for row in read_curve(out / "curve.jsonl")]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("valid/accuracy")] == [1, 2, 3]
