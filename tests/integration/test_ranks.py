"""Runs of several ranks under torchrun: equal to one process, stopped by a signal, a rank lost and the run taken up.

The file is its own worker: torchrun starts it with a folder, what to do, and which runs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from prepared_graphs import draw_whole, write_store
from rank_jobs import assert_close, assert_same_bits, graph_dataset, launch, node_dataset
from revgnn.data import Batches, Dataset, GraphInfo, LoaderConfig, Store, make_batches
from revgnn.nn.model import ModelConfig, build_model
from revgnn.train import Interrupted, TrainConfig, fit, read_curve

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(epochs=3, lr=0.01, checkpoint_every=1, clip_norm=1.0, optimizer="adamw")
STORE = "graph"
RESTARTS = 3
KINDS = {
    "parts": LoaderConfig(kind="random", num_parts=5, eval_parts=3, eval_views=2),
    "neighbor": LoaderConfig(kind="neighbor", batch_size=11, fanouts=(3, 2)),
    "ondisk": LoaderConfig(kind="ondisk", parts_per_batch=1, eval_parts=3),
    "graphs": LoaderConfig(),
}


class Disturbed(nn.Module):
    """A network that counts its training forwards and, at one of them, does something to its process."""

    def __init__(self, inner: nn.Module, deed: str) -> None:
        super().__init__()
        self.inner, self.deed, self.calls = inner, deed, 0

    def forward(self, *arguments: object, **named: object) -> torch.Tensor:
        self.calls += self.training
        if self.calls == 5 and self.training and os.environ.get("RANK") == "1":
            if self.deed == "signal":
                signal.raise_signal(signal.SIGTERM)
            if self.deed == "lost" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os._exit(9)
        if self.deed.startswith("killed") and self.training:
            time.sleep(0.1)
        logits: torch.Tensor = self.inner(*arguments, **named)
        return logits


def data(kind: str, folder: Path) -> Dataset | Store:
    if kind == "ondisk":
        return Store.open(folder / STORE)
    return graph_dataset() if kind == "graphs" else node_dataset()


def kill_soon(seed: int) -> None:
    """Kill one of the ranks of the first attempts, sometime within the 0.9 s that a whole run takes at least."""
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    drawn = random.Random(seed * RESTARTS + attempt)
    if attempt < RESTARTS and drawn.randrange(2) == int(os.environ["RANK"]):
        killer = threading.Timer(drawn.uniform(0.0, 0.9), os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()


def train(folder: Path, kind: str, deed: str, accumulate: int = 1) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    dataset = data(kind, folder)
    state = "exact" if kind == "neighbor" else "float"
    config = ModelConfig(
        conv="sage", num_layers=4, hidden_channels=8, dropout=0.2, norm="layer", segments=2, state=state
    )
    model = build_model(
        config, GraphInfo(in_channels=5, num_outputs=dataset.info.num_outputs, level=dataset.info.level)
    )
    batches: Batches = make_batches(dataset, 4 if kind == "graphs" else None, 0, KINDS[kind])
    fit(
        Disturbed(model, deed),
        batches,
        TrainConfig(**{**vars(CONFIG), "accumulate": accumulate}),
        metric=dataset.info.metric,
        out=folder / kind,
        resume=deed == "resume",
        device="cpu",
    )


def job(folder: Path, deed: str, *kinds: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    return launch(__file__, folder, deed, *(kinds or KINDS), options=options)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("ranks")
    write_store(folder / STORE, draw_whole(num_parts=5), num_parts=5)
    status, said = job(folder, "none")
    assert status == 0, said
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_are_one_process_that_accumulates(kind: str, two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / STORE, tmp_path / STORE)
    train(tmp_path, kind, "none", accumulate=2)
    assert_close(two / kind, tmp_path / kind)
    curves = [read_curve(folder / kind / "curve.jsonl") for folder in (two, tmp_path)]
    for ours, other in zip(*curves, strict=True):
        assert ours["steps"] == other["steps"] == 3
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-6)
        for split, score in other["scores"].items():
            assert ours["scores"][split] == pytest.approx(score, rel=1e-5)


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_the_runs_go_on(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / STORE, tmp_path / STORE)
    status, said = job(tmp_path, "signal")
    assert status == 0, said
    assert said.count("stopped after epoch 1 and 2 steps") == 2 * len(KINDS)
    for kind in KINDS:
        assert (tmp_path / kind / "ckpt/epoch-000001-step-000002").is_dir()
    status, said = job(tmp_path, "resume")
    assert status == 0, said
    for kind in KINDS:
        assert_same_bits(two / kind, tmp_path / kind)


def test_a_lost_rank_ends_the_job_and_is_named(tmp_path: Path) -> None:
    status, said = job(tmp_path, "lost", "parts")
    assert status != 0
    assert "rank 1 of 2 ended or did not answer, and rank 0 stops with it" in said
    assert "resume the run" in said


def test_a_restart_goes_on_from_the_newest_checkpoint(two: Path, tmp_path: Path) -> None:
    status, said = job(tmp_path, "lost", "parts", options=("--max-restarts=1",))
    assert status == 0, said
    assert_same_bits(two / "parts", tmp_path / "parts")


def test_ranks_that_are_killed_at_random_moments_go_on_to_the_same_end(two: Path, tmp_path: Path) -> None:
    status, said = job(tmp_path, "killed 7", "parts", options=(f"--max-restarts={RESTARTS}",))
    assert status == 0, said
    # A later attempt may be at its end before its moment comes.
    assert 1 <= said.count("failed (exitcode: -9)") <= RESTARTS
    assert_same_bits(two / "parts", tmp_path / "parts")


def test_another_number_of_batches_in_a_step_is_refused(two: Path) -> None:
    with pytest.raises(ValueError, match=r"ranks \* train.accumulate was 2 and is 1"):
        train(two, "parts", "resume")


def work(folder: Path, deed: str, *kinds: str) -> None:
    """One rank: a run of every kind, one after the other."""
    if deed.startswith("killed"):
        kill_soon(int(deed.split()[1]))
    for kind in kinds:
        try:
            train(folder, kind, deed)
        except Interrupted as stop:
            sys.stderr.write(f"{stop}\n")


if __name__ == "__main__":
    work(Path(sys.argv[1]), *sys.argv[2:])
