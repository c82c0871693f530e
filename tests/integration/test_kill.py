"""A run that is killed again and again, between steps and inside of a checkpoint, loses no more than its interval."""

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

import pytest
import torch

from revgnn.train import Callback, TrainConfig, TrainState, checkpoint, load_latest
from toy_run import CONFIG, assert_same_run, fit_toy

EVERY = 2
STEPS = 3
"""Of an epoch."""
CONFIGS = {
    "epochs": replace(CONFIG, epochs=60, checkpoint_every=EVERY),
    # So few minutes have gone by after every step.
    "minutes": replace(CONFIG, epochs=20, checkpoint_every=None, checkpoint_minutes=1e-9),
}


class Told(Callback):
    """A callback that writes the number of every step of the run into a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_step_end(self, run: TrainState) -> None:
        os.write(self.pipe, bytes([run.epoch * STEPS + run.step]))


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


def _kill_one(out: Path, config: TrainConfig, draw: random.Random, *, inside: bool) -> int:
    """Fork, train and kill; gives the last step that was heard of, 0 where none was."""
    reading, writing = os.pipe()
    call, wait = draw.randint(1, 60), draw.uniform(0.0, 0.03)
    child = os.fork()
    if child == 0:
        os.close(reading)
        if inside:
            _die_at_call(call)
        try:
            fit_toy(out, config, resume=True, callbacks=[Told(writing)])
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


def kill_again_and_again(out: Path, kills: int) -> None:
    """Kill a run so often, every second time inside of what writes a checkpoint, and look at what it kept."""
    config = CONFIGS[out.name]
    torch.set_num_threads(1)
    # What torch imports when it is first used, every child has then.
    fit_toy(out.with_name("warm"), replace(CONFIG, epochs=4))
    draw = random.Random(0)
    interval = EVERY * STEPS if config.checkpoint_every else 1
    places = []
    for number in range(kills):
        heard = _kill_one(out, config, draw, inside=number % 2 == 1)
        # The step that was heard of last may not have come to its checkpoint; the one before had.
        due = max(heard - 1, 0) // interval * interval
        kept = load_latest(out)
        places.append(0 if kept is None else kept.epoch * STEPS + kept.step)
        assert places[-1] >= due, f"kill {number}: step {heard} ran, {due} was due"
    assert 0 < places[-1] < config.epochs * STEPS, "it was killed on its way"
    assert interval > 1 or any(place % STEPS for place in places), "in the middle of an epoch"


@pytest.mark.skipif("REVGNN_TEST_ROUNDING" in os.environ, reason="the process that is killed rounds in its own way")
@pytest.mark.parametrize(("interval", "kills"), [("epochs", 20), ("minutes", 10)])
def test_kills_lose_no_more_than_the_interval_and_change_no_bit(tmp_path: Path, interval: str, kills: int) -> None:
    # In a process that has no threads, which forking would break.
    here = str(Path(__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {here!r}); from pathlib import Path; import test_kill; "
        "test_kill.kill_again_and_again(Path(sys.argv[1]), int(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / interval), str(kills)],
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    config = CONFIGS[interval]
    fit_toy(tmp_path / interval, config, resume=True)
    fit_toy(tmp_path / "whole", config)
    assert_same_run(tmp_path / "whole", tmp_path / interval)
    assert not list((tmp_path / interval).rglob(".*")), "no temporary is left"
