"""A claim keeps other processes and threads out for as long as its owner lives, and leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from revgnn import run_lock
from revgnn.run_lock import ClaimedError, appending, claimed

HOLD = """
import sys, time
from pathlib import Path
from revgnn.run_lock import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a claim."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    return owner


def end(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate()


def test_another_process_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    owner = hold(tmp_path / "run")
    try:
        with (
            pytest.raises(ClaimedError, match=f"process {owner.pid} on .* since 2.*Wait") as caught,
            claimed(tmp_path / "run"),
        ):
            pass
        assert "choose another" in str(caught.value)
    finally:
        end(owner)
    # What it left behind is in nobody's way.
    assert (tmp_path / "run" / ".claim").exists()
    with claimed(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".claim").read_text())["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_who_is_patient_waits_for_the_end_of_the_owner(tmp_path: Path) -> None:
    owner = hold(tmp_path)
    killer = threading.Timer(0.2, owner.kill)
    killer.start()
    with claimed(tmp_path, patience=60.0):
        assert owner.wait(60) != 0
    end(owner)


def test_the_thread_that_holds_a_claim_may_claim_again_and_another_may_not(tmp_path: Path) -> None:
    def attempt() -> None:
        with claimed(tmp_path):
            pass

    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with claimed(tmp_path), ThreadPoolExecutor(1) as pool:
        with claimed(link):
            pass
        with pytest.raises(ClaimedError, match=f"process {os.getpid()}"):
            pool.submit(attempt).result()
    attempt()


def test_a_claim_leaves_neither_files_nor_empty_folders(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    with claimed(tmp_path / "c" / "file.parquet", beside=True):
        assert os.listdir(tmp_path / "c") == [".file.parquet.claim"]
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert os.listdir(tmp_path / "a") == ["kept"]


def test_many_at_once_go_one_by_one(tmp_path: Path) -> None:
    inside: list[int] = []

    def go(number: int) -> int:
        with claimed(tmp_path / "run", patience=60.0):
            inside.append(number)
            time.sleep(0.001)
            assert inside == [number]
            return inside.pop()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(go, range(12))) == list(range(12))


def test_a_folder_that_vanishes_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two looks of mkdir: it finds the folder there, and then finds none."""
    make, failures = Path.mkdir, iter([FileExistsError(17, "File exists"), FileNotFoundError(2, "No such file")])

    def mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), claimed(tmp_path / "file"):
        pass


def test_a_forked_child_neither_holds_nor_releases_its_parents_claim(tmp_path: Path) -> None:
    # In a process without threads, which forking would break.
    script = """
import os, sys, time
from pathlib import Path
from revgnn.run_lock import ClaimedError, claimed
folder, (reading, writing) = Path(sys.argv[1]), os.pipe()
with claimed(folder):
    child = os.fork()
    if not child:
        try:
            with claimed(folder):
                os._exit(3)
        except ClaimedError:
            pass
    else:
        assert os.waitpid(child, 0)[1] == 0
        assert (folder / ".claim").exists(), "the child has left it alone"
        sleeper = os.fork()
        if not sleeper:
            os.read(reading, 1)
            os._exit(0)
if child:
    with claimed(folder):
        os.write(writing, b".")
    os.waitpid(sleeper, 0)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("text", ["", "[]", '{"host": 1}', "\x00" * 9, '{"host": "\\u001b[2J", "pid": 1, "since": ""}'])
def test_an_owner_that_does_not_say_who_it_is_still_owns(tmp_path: Path, text: str) -> None:
    owner = hold(tmp_path)
    (tmp_path / ".claim").write_text(text)
    try:
        with pytest.raises(ClaimedError, match=r"is in use: another process writes to it\. Wait"), claimed(tmp_path):
            pass
    finally:
        end(owner)


def test_an_owner_on_another_host_comes_with_what_to_do_should_it_be_gone(tmp_path: Path) -> None:
    owner = hold(tmp_path)
    (tmp_path / ".claim").write_text(json.dumps({"host": "far", "pid": 7, "since": "2026-01-02 03:04:05+00:00"}))
    try:
        with (
            pytest.raises(ClaimedError, match=rf"process 7 on far .*If far has crashed.*remove {tmp_path}/\.claim$"),
            claimed(tmp_path),
        ):
            pass
    finally:
        end(owner)


def _link(file: Path) -> None:
    (file.parent.parent / "treasure").write_text("gold")
    file.symlink_to(file.parent.parent / "treasure")


@pytest.mark.parametrize(("make", "error"), [(_link, None), (Path.mkdir, OSError), (os.mkfifo, FileExistsError)])
def test_a_strange_file_at_its_place_is_replaced_or_refused(
    tmp_path: Path, make: Callable[[Path], Any], error: type[OSError] | None
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    make(folder / ".claim")
    if error is not None:
        with pytest.raises(error), claimed(folder):
            pass
        return
    with claimed(folder):
        pass
    assert (tmp_path / "treasure").read_text() == "gold"


def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(run_lock, "_without_locks", set())
    for name in ("one", "two"):
        with claimed(tmp_path / name):
            (tmp_path / name / "file").touch()
    assert caplog.text.count("has no locks (No locks available)") == 1


def test_lines_of_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.jsonl"

    def write(number: int) -> None:
        with appending(path) as file:
            for _ in range(50):
                file.write(f"{number}\n")
                file.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    lines = path.read_text().splitlines()
    assert len(lines) == 200
    assert all(len(set(lines[at : at + 50])) == 1 for at in range(0, 200, 50))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where nobody can make a file is Linux's /proc")
def test_a_place_where_no_file_can_be_made_is_an_error_and_no_endless_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_SECONDS_TO_MAKE_A_FILE", 0.1)
    with pytest.raises(OSError, match="proc"), claimed(Path("/proc/revgnn"), beside=True):
        pass
