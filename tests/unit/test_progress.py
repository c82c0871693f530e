"""What a run shows while it works, on a narrow terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from revgnn.train import ProgressBar, TrainConfig
from revgnn.train.callbacks import progress as module


def test_forty_columns_still_show_count_loss_metric_memory_and_time() -> None:
    text = io.StringIO()
    bar = ProgressBar("RevGNN", Console(file=text, width=40, force_terminal=True, color_system=None))
    run = _run(epochs=60, steps=1)
    bar.on_start(run)
    run.epoch, run.step, run.loss = 6, 1, 0.4433
    bar.on_step_end(run)
    run.row = {
        "epoch": 7,
        "lr": 0.1,
        "loss": 0.4433,
        "steps": 1,
        "seconds": 1.0,
        "memory": 42 * 2**20,
        "scores": {"valid": {"metric": 0.9723, "loss": 1.0}},
        "observed": {},
    }
    bar.on_epoch_end(run)
    bar.on_end(run)
    last = [line for line in text.getvalue().replace("\r", "\n").splitlines() if "7/60" in line][-1]
    assert "0.443 0.972 42 MiB" in last
    assert ":" in last.partition("MiB")[2]


@pytest.mark.parametrize("label", ["RevGNN", "a-label-that-is-far-too-long-for-a-terminal"])
def test_eighty_columns_keep_the_labels_and_a_bar(label: str) -> None:
    text = io.StringIO()
    bar = ProgressBar(label, Console(file=text, width=80, force_terminal=True, color_system=None))
    run = _run(epochs=200, steps=1)
    bar.on_start(run)
    run.epoch, run.step, run.loss = 117, 1, 0.4433
    run.row = {**_row(118), "scores": {"valid": {"metric": 15441.08, "loss": 1.0}}, "memory": 42 * 2**20}
    bar.on_epoch_end(run)
    bar.on_end(run)
    last = [line for line in text.getvalue().replace("\r\x1b[2K", "\n").splitlines() if "118/200" in line][-1]
    assert label[:10] in last and "epoch 118/200, loss 0.5, valid 1.544e+04" in last and "left" in last
    assert last.count("━") >= 5 and len(last) <= 80


def _run(epochs: int, steps: int) -> Any:
    """What a bar looks at of a run that begins."""
    return SimpleNamespace(config=TrainConfig(epochs=epochs), epoch=0, steps_per_epoch=steps, metric="accuracy")


def _row(epoch: int) -> Any:
    row = {"epoch": epoch, "lr": 0.1, "loss": 0.5, "steps": 4, "seconds": 1.0}
    return {**row, "memory": None, "scores": None, "observed": {}}


@pytest.mark.parametrize(("seconds", "first", "lines"), [(0.001, 100, 2), (1.0, 100, 10), (700.0, 1, 500)])
def test_lines_are_few_for_fast_epochs_and_still_come_for_slow_ones(
    monkeypatch: pytest.MonkeyPatch, seconds: float, first: int, lines: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    bar = ProgressBar("net", Console(file=text, width=200))
    epochs = 1000 if seconds < 100 else 250
    run = _run(epochs, steps=4)
    bar.on_start(run)
    for epoch in range(1, epochs + 1):
        for step in range(1, 5):
            now[0] += seconds / 4
            run.epoch, run.step, run.loss = epoch - 1, step, 0.5
            bar.on_step_end(run)
        run.row = _row(epoch)
        bar.on_epoch_end(run)
    bar.on_end(run)
    said = text.getvalue().splitlines()
    assert f"epoch {first}/" in said[0]
    assert len(said) == lines
    assert said[-1].startswith(f"net: epoch {epochs}/{epochs}, loss 0.5000, 0:00:00 left")
    if seconds > 100:
        # Half of the first epoch took 350 s, and 249.5 are still to come.
        assert said[0] == "net: step 2/4, epoch 1/250, loss 0.5000, 48:30:50 left"
