"""Runs on the workers of a Ray cluster of two nodes: equal to one process, stopped, at fault, and with a worker lost.

The file is its own program: started with a folder, it makes the cluster, runs the jobs and says what came of them. Ray
settles who computes in a process once and for all, and tests share theirs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from revgnn.cli import main
from revgnn.train import read_curve
from revgnn.train.distributed.ray import Workers, on_ray

pytestmark = [pytest.mark.slow, pytest.mark.ray]

WORDS = ["train", "digits/revgnn", "--device", "cpu", "--json"]
SETTINGS = (
    *("model.num_layers=4", "model.hidden_channels=8", "model.norm=layer", "loader.kind=random", "loader.num_parts=5"),
    *("train.epochs=3", "train.eval_every=1", "train.patience=none", "train.checkpoint_every=1"),
)
LIMIT = 600
"""Seconds that all jobs may take on a busy machine."""


def words(out: Path, *more: str) -> list[str]:
    return [*WORDS, "--out", str(out), *(word for setting in (*SETTINGS, *more) for word in ("--set", setting))]


def train_or_die(out: str, device: str, again: bool) -> str:
    """Train as the command does; in the first attempt the second rank goes away after the first epoch."""

    def die() -> None:
        while not Path(out, "curve.jsonl").exists():
            time.sleep(0.001)
        os._exit(9)

    if os.environ["RANK"] == "1" and not again:
        threading.Thread(target=die, daemon=True).start()
    code = main([*words(Path(out), "train.epochs=40"), *(["--resume"] if again else [])])
    return f"{code} on {device}, again={again}"


def stopped(address: str, out: Path) -> int:
    """Ask this process to stop once the run is on its way."""

    def ask() -> None:
        while not (out / "curve.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    return main([*words(out, "train.epochs=5000"), "--ray", address])


def work(folder: Path) -> dict[str, Any]:
    """Run every job, one after another."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
    cluster.wait_for_nodes()
    address = cluster.address
    return {
        "equal": main([*words(folder / "two"), "--ray", address]),
        "again": main([*words(folder / "two"), "--ray", address]),
        "stopped": stopped(address, folder / "stopped"),
        "lost": on_ray(
            partial(train_or_die, str(folder / "lost")),
            Workers(address=address, count=2, restarts=2),
            folder / "lost",
            cpu=True,
        ),
    }


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder of the runs, what each job gave, and what was said."""
    pytest.importorskip("ray.train.torch", reason="a cluster needs Ray Train, which is not installed")
    folder = tmp_path_factory.mktemp("ray")
    quiet = {
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_niceness": "0",
    }
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", "import test_on_ray, sys; test_on_ray.started(sys.argv[1])", str(folder)],
        env={**os.environ, **quiet, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder, json.loads((folder / "came.json").read_text(encoding="utf-8")), done.stderr


def started(folder: str) -> None:
    Path(folder, "came.json").write_text(json.dumps(work(Path(folder))), encoding="utf-8")


def last(out: Path) -> dict[str, torch.Tensor]:
    return load_file(max((out / "ckpt").iterdir()) / "model.safetensors")


def test_two_workers_are_one_process_that_accumulates(jobs: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, came, _ = jobs
    assert came["equal"] == 0
    assert main(words(tmp_path / "one", "train.accumulate=2")) == 0
    mine, theirs = last(folder / "two"), last(tmp_path / "one")
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-6)
    report = json.loads((folder / "two" / "report.json").read_text(encoding="utf-8"))
    assert report["result"]["epochs"] == 3
    assert [row["steps"] for row in read_curve(folder / "two" / "curve.jsonl")] == [3, 3, 3]
    assert not list(folder.rglob(".ray")), "what Ray notes is gone with the job"


def test_what_a_worker_finds_wrong_comes_back(jobs: tuple[Path, dict[str, Any], str]) -> None:
    _, came, said = jobs
    assert came["again"] == 2
    assert "two already holds a run; go on with it by --resume" in said


def test_a_signal_stops_every_worker_after_the_same_step(jobs: tuple[Path, dict[str, Any], str]) -> None:
    folder, came, said = jobs
    assert came["stopped"] == 128 + signal.SIGTERM
    assert f"the checkpoint is in {folder / 'stopped'}: resume the run to go on" in said
    assert 0 < len(read_curve(folder / "stopped" / "curve.jsonl")) < 5000


def test_a_lost_worker_is_started_again_and_goes_on(jobs: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, came, said = jobs
    assert came["lost"] == "0 on cpu, again=True"
    assert "rank 1 was lost" in said
    assert "going on after epoch" in said
    assert main(words(tmp_path / "one", "train.epochs=40", "train.accumulate=2")) == 0
    for name, value in last(tmp_path / "one").items():
        torch.testing.assert_close(last(folder / "lost")[name], value, rtol=1e-4, atol=1e-5)
