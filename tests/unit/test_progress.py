"""What a run shows while it works, on a narrow terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from revgnn.train import ProgressBar
from revgnn.train import progress as module


def test_forty_columns_still_show_count_loss_metric_memory_and_time() -> None:
    text = io.StringIO()
    bar = ProgressBar("RevGNN", Console(file=text, width=40, force_terminal=True, color_system=None))
    bar.begin(epochs=60, steps=1, done=0, metric="accuracy")
    bar.step(epoch=7, step=1, loss=0.4433)
    bar.epoch(
        {
            "epoch": 7,
            "lr": 0.1,
            "loss": 0.4433,
            "steps": 1,
            "seconds": 1.0,
            "memory": 42 * 2**20,
            "scores": {"valid": {"metric": 0.9723, "loss": 1.0}},
            "observed": {},
        }
    )
    bar.end()
    last = [line for line in text.getvalue().replace("\r", "\n").splitlines() if "7/60" in line][-1]
    assert "0.443 0.972 42 MiB" in last
    assert ":" in last.partition("MiB")[2]


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
    bar.begin(epochs=epochs, steps=4, done=0, metric="accuracy")
    for epoch in range(1, epochs + 1):
        for step in range(1, 5):
            now[0] += seconds / 4
            bar.step(epoch=epoch, step=step, loss=0.5)
        bar.epoch(_row(epoch))
    bar.end()
    said = text.getvalue().splitlines()
    assert f"epoch {first}/" in said[0]
    assert len(said) == lines
    assert said[-1].startswith(f"net: epoch {epochs}/{epochs}, loss 0.5000, 0:00:00 left")
    if seconds > 100:
        # Half of the first epoch took 350 s, and 249.5 are still to come.
        assert said[0] == "net: step 2/4, epoch 1/250, loss 0.5000, 48:30:50 left"
