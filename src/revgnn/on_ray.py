"""The ranks of a run as workers of a Ray cluster: started together, stopped together, started again where one is lost.

Ray Train opens the process group and says in the environment who is who; what a worker does is what any other rank
does. Hides Ray: what comes back is what the first rank returned, or one error.
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
from typing import Any

from .launcher import say_restarted
from .run_lock import claimed
from .train import Interrupted
from .train.interrupt import Interrupts

_log = logging.getLogger(__name__)

_FOLDER = ".ray"
"""In the run folder: Ray's own notes, while it runs."""
_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}
_SECONDS = 1.0
"""Between two looks at whether the run is to stop."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Which workers of which cluster."""

    address: str
    """Of a Ray cluster; ``local`` starts one on this machine."""
    count: int
    """W: ranks, one worker each."""
    cpus: int = 1
    """Cores of a worker, and the threads that it computes with."""
    restarts: int = 3
    """How often all of them are started again after one was lost."""

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("cpus", 1), ("restarts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"workers on Ray: {name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Stopped:
    """A rank stopped because it was asked to."""

    message: str
    signum: int


def on_ray(work: Callable[[str, bool], Any], workers: Workers, folder: Path, *, cpu: bool) -> Any:
    """Do some work on every rank at once, in the folder where this process stands.

    Ctrl-C and SIGTERM reach all ranks, which stop after the same step.

    Args:
        work: importable by name on every machine; called with the device and whether it goes on from a checkpoint that
            an attempt before it left.
        workers: who does it.
        folder: of the run: the same files under the same path on every machine.
        cpu: leave the cluster's GPUs alone; else each worker has one, if there are any.
    Returns: what the first rank returned.
    Raises:
        ClaimedError: another run is writing to the folder, or other ranks are at work for it.
        Interrupted: a signal stopped the run.
        ChildProcessError: workers were lost, more often than ``workers.restarts``.
        FileNotFoundError: a machine does not see the folder.
        ModuleNotFoundError: Ray is not installed.
        ValueError, MemoryError...: what a rank raised.
    """
    ray, torch_trainer = _load()
    folder = folder.resolve()
    with claimed(folder):
        # Refused before anything is started; while the run goes on, the first rank holds this claim.
        pass
    with _notes(folder) as notes, _cluster(ray, workers):
        gpu = not cpu and ray.cluster_resources().get("GPU", 0) >= 1
        _say_who_waits(ray.cluster_resources(), workers, gpu)
        switch = ray.remote(num_cpus=0)(_Switch).remote()
        for attempt in range(workers.restarts + 1):
            rank = partial(_rank, work, "auto" if gpu else "cpu", attempt > 0, switch, (str(Path.cwd()), str(notes)))
            try:
                return _returned(torch_trainer(rank, workers, gpu, notes), switch)
            except ChildProcessError as lost:
                if attempt == workers.restarts:
                    raise ChildProcessError(
                        f"{lost}; that was attempt {attempt + 1} of {attempt + 1}: see to the machines, then --resume "
                        "goes on"
                    ) from lost
                _log.warning("%s; all are started again (%d of %d)", lost, attempt + 1, workers.restarts)
    raise AssertionError("the last attempt returns or raises")


def _load() -> tuple[Any, Callable[[Any, Workers, bool, Path], Any]]:
    """Import Ray with its telemetry off; give it, and what makes a trainer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Train would step into a folder of its own, where relative paths of the run lead nowhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    try:
        import ray
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "--ray needs Ray Train, which is not installed: pip install 'revgnn[ray]'"
        ) from missing

    def trainer(rank: Any, workers: Workers, gpu: bool, notes: Path) -> Any:
        resources = {"CPU": workers.cpus, **({"GPU": 1} if gpu else {})}
        return TorchTrainer(
            rank,
            torch_config=TorchConfig(backend=_BACKENDS[gpu]),
            scaling_config=ScalingConfig(num_workers=workers.count, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name="job",
                storage_path=str(notes),
                # Attempts are counted here, because only a lost worker deserves another.
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        )

    return ray, trainer


@contextmanager
def _cluster(ray: Any, workers: Workers) -> Iterator[None]:
    """Join a cluster, or start one; what was joined before is left as it is."""
    if ray.is_initialized():
        yield
        return
    local = {"address": "local", "num_cpus": workers.count * workers.cpus, "include_dashboard": False}
    where = local if workers.address == "local" else {"address": workers.address}
    try:
        # Ray's warnings come every second where a cluster has no dashboard; what a run says has handlers of its own.
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
    """Give Ray a folder inside that of the run, by which machines also see whether it is the same."""
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
    """An actor that says whether the run is to stop."""

    def __init__(self) -> None:
        self._signum: int | None = None

    def throw(self, signum: int) -> None:
        self._signum = signum

    def look(self) -> int | None:
        return self._signum


def _returned(trainer: Any, switch: Any) -> Any:
    """Run one attempt to its end, while this thread listens to signals.

    Raises: ChildProcessError: a worker was lost.
    """
    done: list[Any] = []

    def fit() -> None:
        try:
            done.append(trainer.fit().return_value)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            done.append(error)

    # In a thread of its own Ray leaves the signals alone.
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
    """Give the error of a rank where another attempt would meet it too, else say that a worker was lost."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if not failures:
        return ChildProcessError(f"Ray ended the job: {_in_short(error)}") if _is_of_ray(error) else error
    for _, failure in sorted(failures.items()):
        # What ranks say when another one goes away is a RuntimeError.
        if not isinstance(failure, RuntimeError) and not _is_of_ray(failure):
            return failure
    # Those that waited for the lost one failed too, and say so: it is the one that says nothing of its own.
    rank, failure = min(failures.items(), key=lambda pair: (not _is_of_ray(pair[1]), pair[0]))
    lost = ChildProcessError(f"rank {rank} {'was lost' if _is_of_ray(failure) else 'failed'}: {_in_short(failure)}")
    lost.__cause__ = failure
    return lost


def _is_of_ray(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def _in_short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


def _rank(work: Callable[[str, bool], Any], device: str, again: bool, switch: Any, folders: tuple[str, str]) -> Any:
    """Be one rank, in a process of a worker."""
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
    # Ray hands on what stands on standard error, and would say it twice.
    logging.getLogger(__package__).propagate = False
    try:
        return work(device, again)
    except Interrupted as stop:
        return _Stopped(str(stop), stop.signum)


def _listen(switch: Any) -> None:
    """Hand on what the switch says for as long as this process lives."""
    import ray

    while True:
        signum = ray.get(switch.look.remote())
        if signum is not None:
            Interrupts.ask(signum)
        time.sleep(_SECONDS)
