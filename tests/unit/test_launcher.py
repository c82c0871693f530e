"""Who this process is among the ranks of a job, by its launcher's words, and what it may say."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from revgnn.cli import main
from revgnn.launcher import (
    alone,
    bound_spinning,
    first_rank_speaks,
    is_writer,
    on_rank,
    rank,
    restarted,
    say_restarted,
    world_size,
)
from revgnn.train.signals import Interrupts


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)


def be(rank: int, size: int, prefix: str = "") -> None:
    os.environ.update({f"{prefix}RANK": str(rank), {"": "WORLD_SIZE"}.get(prefix, f"{prefix}SIZE"): str(size)})


@pytest.mark.parametrize("prefix", ["", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_"])
def test_launchers_say_who_is_who(prefix: str) -> None:
    assert (rank(), world_size(), is_writer(), on_rank()) == (0, 1, True, "")
    be(1, 3, prefix)
    assert (rank(), world_size(), is_writer(), on_rank()) == (1, 3, False, " on rank 1 of 3")
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "2"
    assert restarted()
    with alone():
        assert (rank(), world_size(), is_writer(), restarted()) == (0, 1, True, False)
        say_restarted()
        assert restarted()
    assert (rank(), world_size(), restarted()) == (1, 3, True)
    # One rank is the first, whatever its number says.
    be(1, 1, prefix)
    assert is_writer()


def speak() -> None:
    logging.getLogger("revgnn.train").info("a message")
    logging.getLogger("theirs").warning("a word of another's")
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("revgnn.train").error("an error")
    raise RuntimeError("a fault")


@pytest.mark.parametrize("number", [0, 1])
def test_one_rank_speaks_and_the_others_speak_of_errors(number: int, caplog: pytest.LogCaptureFixture) -> None:
    be(number, 2)
    logger, shown = logging.getLogger("revgnn"), []
    logger.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *said: shown.append(str(said[0]))
        before = warnings.showwarning
        with pytest.raises(RuntimeError, match="a fault") as fault, first_rank_speaks(), first_rank_speaks():
            speak()
        assert warnings.showwarning is before
    assert caplog.messages == [*["a message"][number:], "a word of another's", "an error"]
    assert shown == ["a warning"][number:]
    assert fault.value.__notes__ == [f"This happened on rank {number} of 2."]
    assert logger.level == logging.INFO


def test_a_warning_that_is_to_be_an_error_is_one_on_every_rank() -> None:
    be(1, 2)
    with pytest.raises(UserWarning, match="a warning"), first_rank_speaks():
        warnings.warn("a warning", stacklevel=1)


@pytest.mark.parametrize("number", [0, 1])
def test_the_command_line_of_one_rank_speaks(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    be(number, 2)
    for words, code in [(["recipes", "--json"], 0), (["report", "nowhere"], 2 if number == 0 else 0)]:
        assert main(words) == code
        out, err = capsys.readouterr()
        assert bool(out + err) == (number == 0), words
    for words in (["train", "--nonsense"], ["--version"]):
        with pytest.raises(SystemExit):
            main(words)
        out, err = capsys.readouterr()
        assert bool(out + err) == (number == 0), words


@pytest.mark.parametrize("who", ["first rank", "another rank", "a forked worker"])
def test_one_process_says_that_a_run_stops(
    who: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    be(int(who == "another rank"), 2)
    with Interrupts() as interrupts:
        if who == "a forked worker":
            monkeypatch.setattr(os, "getpid", lambda: -1)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.undo()
        assert interrupts.signum == signal.SIGTERM
    assert ("SIGTERM: stopping after this step" in capfd.readouterr().err) == (who == "first rank")


def test_idle_threads_sleep_soon_where_nobody_said_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
    for name in names:
        os.environ.pop(name, None)
    bound_spinning()
    assert not set(names) & os.environ.keys(), "torch, and with it the runtime, is loaded: it would be too late"
    monkeypatch.delitem(sys.modules, "torch")
    os.environ["OMP_WAIT_POLICY"] = "active"
    bound_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    del os.environ["OMP_WAIT_POLICY"]
    bound_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    assert int(os.environ["KMP_BLOCKTIME"]) > 0


def test_the_command_line_says_it_before_torch_is_loaded() -> None:
    """The runtime itself says what it has read."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "KMP_"))}
    script = "import sys; from revgnn.cli import main; assert 'torch' not in sys.modules; main(['recipes', 'x']); "
    done = subprocess.run(
        [sys.executable, "-c", script + "import torch"],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch ships another OpenMP runtime than GNU's here")
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
