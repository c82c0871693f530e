"""Runs the ranks of a run as workers of a Ray cluster, stops them together, and restarts them if one is lost.

Ray Train opens the process group and sets the ranks' environment variables; a worker then behaves as any other rank.
Callers do not see Ray: they get the first rank's result, or one error.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ...launcher import say_restarted
from ...run_lock import claimed
from ..signals import Interrupted, Interrupts

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_FOLDER = ".ray"
"""Folder in the run folder for Ray's own files during the run."""
_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}
_PACKAGE = __name__.partition(".")[0]
_SECONDS = 1.0
"""Seconds between two checks for a stop request."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The Ray cluster and its workers."""

    address: str
    """Address of a Ray cluster; ``local`` starts one on this machine."""
    count: int
    """W, the number of workers, one per rank."""
    cpus: int = 1
    """CPU cores and compute threads per worker."""
    restarts: int = 3
    """How often all workers are restarted after one was lost."""

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("cpus", 1), ("restarts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"workers on Ray: {name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Stopped:
    """A rank stopped on request."""

    message: str
    signum: int


def on_ray(work: Callable[[str, bool], _T], workers: Workers, folder: Path, *, cpu: bool) -> _T:
    """Call a function on every rank, in this process's working directory.

    Ctrl-C and SIGTERM are forwarded to all ranks, which stop after the same step.

    Args:
        work: importable by name on every machine; called with the device and with whether to resume from a checkpoint
            of an earlier attempt.
        workers: the cluster and its workers.
        folder: the run folder, a shared folder with the same path on every machine.
        cpu: do not use the cluster's GPUs; otherwise each worker has one, if there are any.
    Returns: what the first rank returned.
    Raises:
        ClaimedError: another run is writing to the folder, or other ranks still work on it.
        Interrupted: a signal stopped the run.
        ChildProcessError: workers were lost, more often than ``workers.restarts``.
        FileNotFoundError: a machine does not see the folder.
        ModuleNotFoundError: Ray is not installed.
        ValueError, MemoryError...: a rank's exception.
    """
    ray, torch_trainer = _load()
    folder = folder.resolve()
    with claimed(folder):
        # Check the lock before the start; during the run the first rank holds it.
        pass
    with _notes(folder) as notes, _cluster(ray, workers):
        gpu = not cpu and ray.cluster_resources().get("GPU", 0) >= 1
        _say_who_waits(ray.cluster_resources(), workers, gpu)
        switch = ray.remote(num_cpus=0)(_Switch).remote()
        for attempt in range(workers.restarts + 1):
            rank = partial(_rank, work, "auto" if gpu else "cpu", attempt > 0, switch, (str(Path.cwd()), str(notes)))
            try:
                result: _T = _returned(torch_trainer(rank, workers, gpu, notes), switch)
                return result
            except ChildProcessError as lost:
                if attempt == workers.restarts:
                    raise ChildProcessError(
                        f"{lost}; that was attempt {attempt + 1} of {attempt + 1}: see to the machines, then --resume "
                        "goes on"
                    ) from lost
                _log.warning("%s; all are started again (%d of %d)", lost, attempt + 1, workers.restarts)
    raise AssertionError("the last attempt returns or raises")


def _load() -> tuple[ModuleType, Callable[[Callable[[], object], Workers, bool, Path], Any]]:
    """Import Ray with telemetry disabled; return it and its trainer class."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Train would change the working directory, and relative paths of the run would break.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    try:
        import ray
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "--ray needs Ray Train, which is not installed: pip install 'revgnn[ray]'"
        ) from missing

    def trainer(rank: Callable[[], object], workers: Workers, gpu: bool, notes: Path) -> Any:
        resources = {"CPU": workers.cpus, **({"GPU": 1} if gpu else {})}
        return TorchTrainer(
            rank,
            torch_config=TorchConfig(backend=_BACKENDS[gpu]),
            scaling_config=ScalingConfig(num_workers=workers.count, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name="job",
                storage_path=str(notes),
                # Count the attempts here, because only a lost worker justifies a restart.
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        )

    return ray, trainer


@contextmanager
def _cluster(ray: ModuleType, workers: Workers) -> Iterator[None]:
    """Connect to a cluster or start one; keep an existing connection."""
    if ray.is_initialized():
        yield
        return
    local = {"address": "local", "num_cpus": workers.count * workers.cpus, "include_dashboard": False}
    where = local if workers.address == "local" else {"address": workers.address}
    try:
        # Ray warns every second if a cluster has no dashboard; the run's own messages have their own handlers.
        ray.init(**where, logging_level=logging.WARNING, logging_config=ray.LoggingConfig(log_level="ERROR"))
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"there is no Ray cluster at {workers.address}: {str(error).splitlines()[0]}; start one with "
            "ray start --head, or name local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _notes(folder: Path) -> Iterator[Path]:
    """Create Ray's folder inside the run folder; machines also use it to verify that they share the run folder."""
    notes = folder / _FOLDER
    with claimed(notes):
        try:
            yield notes
        finally:
            shutil.rmtree(notes, ignore_errors=True)


def _say_who_waits(there: dict[str, float], workers: Workers, gpu: bool) -> None:
    wanted = {"CPU": workers.count * workers.cpus, **({"GPU": workers.count} if gpu else {})}
    for kind, count in wanted.items():
        if there.get(kind, 0) < count:
            _log.warning(
                "%d workers want %d %ss, the cluster has %d: waiting until it has more",
                workers.count,
                count,
                kind,
                there.get(kind, 0),
            )


class _Switch:
    """A Ray actor that holds the stop request."""

    def __init__(self) -> None:
        self._signum: int | None = None

    def throw(self, signum: int) -> None:
        self._signum = signum

    def look(self) -> int | None:
        return self._signum


def _returned(trainer: Any, switch: Any) -> Any:
    """Run one attempt to its end, while this thread handles signals.

    Raises: ChildProcessError: a worker was lost.
    """
    done: list[object] = []

    def fit() -> None:
        try:
            done.append(trainer.fit().return_value)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            done.append(error)

    # In another thread Ray does not replace the signal handlers.
    thread = threading.Thread(target=fit, daemon=True)
    with Interrupts() as interrupts:
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(_SECONDS)
            if interrupts.signum is not None and not told:
                told = True
                switch.throw.remote(interrupts.signum)
    (came,) = done
    if isinstance(came, _Stopped):
        raise Interrupted(came.message, came.signum)
    if isinstance(came, BaseException):
        raise _spoken(came)
    return came


def _spoken(error: BaseException) -> BaseException:
    """Return a rank's error if a restart would repeat it; otherwise an error that a worker was lost."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if not failures:
        return ChildProcessError(f"Ray ended the job: {_in_short(error)}") if _is_of_ray(error) else error
    for _, failure in sorted(failures.items()):
        # Ranks raise a RuntimeError when another rank ends.
        if not isinstance(failure, RuntimeError) and not _is_of_ray(failure):
            return failure
    # Ranks that waited for the lost rank report an error too; the lost rank is the one without an error of its own.
    rank, failure = min(failures.items(), key=lambda pair: (not _is_of_ray(pair[1]), pair[0]))
    lost = ChildProcessError(f"rank {rank} {'was lost' if _is_of_ray(failure) else 'failed'}: {_in_short(failure)}")
    lost.__cause__ = failure
    return lost


def _is_of_ray(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def _in_short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


def _rank(
    work: Callable[[str, bool], _T], device: str, again: bool, switch: Any, folders: tuple[str, str]
) -> _T | _Stopped:
    """Run one rank in a worker process."""
    for path in folders:
        if not Path(path).is_dir():
            raise FileNotFoundError(
                f"{path} is not there on {socket.gethostname()}: all machines must see the run, its data and the "
                "folder of the command under the same paths; mount them"
            )
    os.chdir(folders[0])
    if again:
        say_restarted()
    threading.Thread(target=_listen, args=(switch,), daemon=True).start()
    # Ray forwards standard error and would print the message twice.
    logging.getLogger(_PACKAGE).propagate = False
    try:
        return work(device, again)
    except Interrupted as stop:
        return _Stopped(str(stop), stop.signum)


def _listen(switch: Any) -> None:
    """Poll the stop request until this process ends."""
    import ray

    while True:
        signum = ray.get(switch.look.remote())
        if signum is not None:
            Interrupts.ask(signum)
        time.sleep(_SECONDS)
