"""Two runs into one folder: the second is refused at once, however it is started; a run that was killed is resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import revgnn
from revgnn.cli import main
from revgnn.predict import Predicting, predict_run
from revgnn.recipes import find_recipe
from revgnn.run_lock import ClaimedError, claimed
from revgnn.train import TrainConfig, load_latest, read_curve
from small_tables import good_edges, good_nodes, make, write
from toy_run import fit_toy

WORDS = ["train", "digits/revgnn", "--device", "cpu"]
SETTINGS = ("model.num_layers=2", "model.hidden_channels=8", "train.checkpoint_every=1", "train.patience=none")


def words(out: Path, epochs: int, *more: str) -> list[str]:
    settings = (word for setting in (*SETTINGS, f"train.epochs={epochs}") for word in ("--set", setting))
    return [*WORDS, "--out", str(out), *settings, *more]


def start(out: Path, epochs: int, *more: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "revgnn", *words(out, epochs, *more)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_killed_one_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    first = start(out, 100_000)
    try:
        while load_latest(out) is None:
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        for more in ([], ["--resume"], ["--runs", "2"]):
            assert main(words(out, 3, *more)) == 2
            assert f"run is in use: process {first.pid} on " in capsys.readouterr().err
        with pytest.raises(ClaimedError, match=f"process {first.pid} on"):
            revgnn.run_experiment(find_recipe("digits/revgnn")(), out, name="x", data_root=tmp_path, resume=True)
        with pytest.raises(ClaimedError, match=f"process {first.pid} on"):
            fit_toy(out, resume=True)
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    done = load_latest(out).epoch
    assert [row["epoch"] for row in read_curve(out / "curve.jsonl")][:done] == list(range(1, done + 1))
    assert main(words(out, done + 2, "--resume")) == 0
    assert load_latest(out).epoch == len(read_curve(out / "curve.jsonl")) == done + 2
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_of_two_runs_that_start_together_one_wins(tmp_path: Path) -> None:
    both = [start(tmp_path / "run", 100, "--resume", "--set", f"train.seed={seed}") for seed in range(2)]
    said = [run.communicate(timeout=300)[1] for run in both]
    codes = [run.returncode for run in both]
    assert sorted(codes) == [0, 2], said
    # On a very busy machine the second may come when the first has ended: then its configuration is another.
    refused = said[codes.index(2)]
    assert "run is in use: process" in refused or "train.seed" in refused, refused
    assert [row["epoch"] for row in read_curve(tmp_path / "run" / "curve.jsonl")] == list(range(1, 101))
    assert load_latest(tmp_path / "run").config["train"]["seed"] == codes.index(0)


@contextmanager
def held(path: Path, *, beside: bool) -> Iterator[None]:
    """Let another thread hold a claim, while inside."""
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        with claimed(path, beside=beside):
            inside.set()
            over.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        assert inside.wait(60)
        try:
            yield
        finally:
            over.set()
            holder.result()


def test_predictions_and_prepared_graphs_have_one_writer(tmp_path: Path) -> None:
    config = write(tmp_path, good_nodes(), good_edges())
    with held(tmp_path / "graph", beside=True), pytest.raises(ClaimedError, match="graph is in use"):
        make(config)
    out = tmp_path / "out.parquet"
    with held(out, beside=True), pytest.raises(ClaimedError, match=r"out.parquet is in use"):
        predict_run(tmp_path / "run", out, Predicting(), data_root=tmp_path)
    make(config)
    assert not list(tmp_path.glob(".*"))


def test_who_holds_the_claim_trains_and_nobody_else(tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, checkpoint_every=1)
    with held(tmp_path / "run", beside=False), pytest.raises(ClaimedError):
        fit_toy(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    with claimed(tmp_path / "run"):
        fit_toy(tmp_path / "run", config)
    assert not list(tmp_path.rglob(".*"))
