"""A run that is killed twenty times, between steps and inside of a checkpoint, loses no more than its interval."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from revgnn.train import checkpoint, load_latest
from toy_run import CONFIG, assert_same_run, fit_toy

KILLS = 20
EVERY = 2
LONG = replace(CONFIG, epochs=60, checkpoint_every=EVERY)


class Told:
    """A `Progress` that writes the number of every finished epoch into a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def begin(self, **facts: Any) -> None: ...
    def step(self, **facts: Any) -> None: ...
    def end(self) -> None: ...
    def epoch(self, row: Any) -> None:
        os.write(self.pipe, bytes([row["epoch"]]))


def _die_at_call(number: int) -> None:
    """Kill this process at a call, counted from 1, of what writes a checkpoint: half a file is written then."""
    calls = 0

    def deadly(module: Any, name: str) -> None:
        whole = getattr(module, name)

        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                if name == "save_file":
                    whole(*arguments)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*arguments)

        setattr(module, name, call)

    deadly(checkpoint, "save_file")
    for name in ("fsync", "rename", "replace"):
        deadly(os, name)
    deadly(checkpoint.shutil, "rmtree")


def _kill_one(out: Path, draw: random.Random, *, inside: bool) -> int:
    """Fork, train and kill; gives the last epoch that was heard of, 0 where none was."""
    reading, writing = os.pipe()
    call, wait = draw.randint(1, 60), draw.uniform(0.0, 0.03)
    child = os.fork()
    if child == 0:
        os.close(reading)
        if inside:
            _die_at_call(call)
        try:
            fit_toy(out, LONG, resume=True, progress=Told(writing))
        finally:
            os._exit(1)
    os.close(writing)
    if not inside:
        first = os.read(reading, 1)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    else:
        first = b""
    with os.fdopen(reading, "rb") as pipe:
        heard = first + pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was killed, it did not end"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return heard[-1] if heard else 0


def kill_again_and_again(out: Path) -> None:
    """Kill a run `KILLS` times, every second time inside of what writes a checkpoint, and look at what it kept."""
    torch.set_num_threads(1)
    # What torch imports when it is first used, every child has then.
    fit_toy(out.with_name("warm"), replace(CONFIG, epochs=4))
    draw = random.Random(0)
    for number in range(KILLS):
        heard = _kill_one(out, draw, inside=number % 2 == 1)
        # The epoch that was heard of last may not have come to its checkpoint; the one before had.
        due = max(heard - 1, 0) // EVERY * EVERY
        kept = load_latest(out)
        assert (0 if kept is None else kept.epoch) >= due, f"kill {number}: epoch {heard} ran, {due} was due"
    assert kept is not None
    assert 0 < kept.epoch < LONG.epochs, "it was killed on its way"


def test_twenty_kills_lose_no_more_than_the_interval_and_change_no_bit(tmp_path: Path) -> None:
    # In a process that has no threads, which forking would break.
    here = str(Path(__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {here!r}); from pathlib import Path; import test_kill; "
        "test_kill.kill_again_and_again(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")],
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    fit_toy(tmp_path / "killed", LONG, resume=True)
    fit_toy(tmp_path / "whole", LONG)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob(".*")), "no temporary is left"
