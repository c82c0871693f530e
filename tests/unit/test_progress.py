"""What a run shows while it works, on a narrow terminal."""

from __future__ import annotations

import io

from rich.console import Console

from revgnn.train import ProgressBar


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
