"""Workers on a cluster that is made up: who is asked, what comes back, and what is done about those that are lost."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from revgnn import on_ray as module
from revgnn.on_ray import Workers, on_ray
from revgnn.run_lock import ClaimedError, claimed
from revgnn.train import Interrupted
from revgnn.train.interrupt import Interrupts

Lost = type("ActorDiedError", (Exception,), {"__module__": "ray.exceptions"})


class FailedError(Exception):
    """What a trainer raises: the rank of each worker that failed, with its error."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        self.worker_failures = failures


class Cluster:
    """A Ray whose trainers do, attempt after attempt, what a test says."""

    def __init__(self, *attempts: Callable[[Any], Any], cpus: float = 8, gpus: float = 0) -> None:
        self.attempts, self.resources, self.asked = list(attempts), {"CPU": cpus, "GPU": gpus}, []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: Any) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(remote=lambda: _Actor(kind()))

    def trainer(self, rank: Any, workers: Workers, gpu: bool, notes: Path) -> Any:
        _, device, again, switch, _ = rank.args
        self.asked.append((device, again))
        attempt = self.attempts.pop(0)
        return SimpleNamespace(fit=lambda: SimpleNamespace(return_value=attempt(switch)))


class _Actor:
    """Methods that are called as a remote actor's are."""

    def __init__(self, inner: Any) -> None:
        for name in ("throw", "look"):
            setattr(self, name, SimpleNamespace(remote=getattr(inner, name)))


def failing(failures: dict[int, Exception]) -> Callable[[Any], Any]:
    def fail(switch: Any) -> Any:
        raise FailedError(failures)

    return fail


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)


def run(
    cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch, restarts: int = 2, *, cpu: bool = False
) -> Any:
    monkeypatch.setattr(module, "_load", lambda: (cluster, cluster.trainer))
    return on_ray(print, Workers(address="here", count=2, restarts=restarts), folder / "run", cpu=cpu)


def test_the_first_rank_answers_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(lambda switch: {"report": 1})
    assert run(cluster, tmp_path, monkeypatch) == {"report": 1}
    assert cluster.asked == [("cpu", False)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("claimed_by", ["a run", "other workers"])
def test_a_folder_that_is_in_use_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed_by: str
) -> None:
    cluster = Cluster(lambda switch: None)
    out = tmp_path / "run"
    with claimed(out if claimed_by == "a run" else out / ".ray"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ClaimedError, match="is in use"):
            # A claim is of a thread, as those of two processes are.
            pool.submit(run, cluster, tmp_path, monkeypatch).result()
        assert cluster.asked == []
    assert not out.exists()


@pytest.mark.parametrize(("cpu", "device"), [(False, "auto"), (True, "cpu")])
def test_gpus_are_taken_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cpu: bool, device: str
) -> None:
    cluster = Cluster(lambda switch: None, gpus=1)
    run(cluster, tmp_path, monkeypatch, cpu=cpu)
    assert cluster.asked == [(device, False)]
    assert ("2 workers want 2 GPUs, the cluster has 1: waiting until it has more" in caplog.text) is not cpu


def test_a_lost_worker_is_replaced_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Those who waited for it say so in their own words.
    failures = {0: RuntimeError("Connection closed by peer"), 1: Lost("The actor died unexpectedly.")}
    cluster = Cluster(failing(failures), failing({0: failures[0]}), lambda switch: "done")
    with caplog.at_level(logging.WARNING):
        assert run(cluster, tmp_path, monkeypatch) == "done"
    assert [again for _, again in cluster.asked] == [False, True, True]
    assert "rank 1 was lost: The actor died unexpectedly.; all are started again (1 of 2)" in caplog.text


def test_workers_that_are_lost_too_often_end_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(*[failing({1: Lost("gone")})] * 2)
    with pytest.raises(ChildProcessError, match="rank 1 was lost: gone; that was attempt 2 of 2: see to the machines"):
        run(cluster, tmp_path, monkeypatch, restarts=1)


@pytest.mark.parametrize("error", [ValueError("a mistake"), MemoryError("too much"), AttributeError("a fault of ours")])
def test_what_another_attempt_would_meet_too_is_raised_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    cluster = Cluster(failing({0: RuntimeError("aborted"), 1: error}))
    with pytest.raises(type(error), match=str(error)):
        run(cluster, tmp_path, monkeypatch)
    assert len(cluster.asked) == 1


def test_a_signal_throws_the_switch_and_the_ranks_say_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_asked(switch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        while switch.look.remote() is None:
            pass
        return module._Stopped("stopped after epoch 3", switch.look.remote())

    with pytest.raises(Interrupted, match="stopped after epoch 3") as stop:
        run(Cluster(until_asked), tmp_path, monkeypatch)
    assert stop.value.signum == signal.SIGTERM


def test_a_rank_refuses_a_machine_that_does_not_see_the_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not there on .*: all machines must see the run"):
        module._rank(print, "cpu", False, None, (str(tmp_path), str(tmp_path / "nowhere")))


def test_asking_reaches_whoever_listens_and_nobody_later() -> None:
    with Interrupts() as interrupts:
        Interrupts.ask(signal.SIGTERM)
        Interrupts.ask(signal.SIGINT)
        assert interrupts.signum == signal.SIGTERM
    with Interrupts() as later:
        assert later.signum is None


@pytest.mark.parametrize(("field", "least"), [("count", 1), ("cpus", 1), ("restarts", 0)])
def test_workers_that_cannot_be(field: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least {least}, got {least - 1}"):
        Workers(address="local", **{"count": 1, field: least - 1})
