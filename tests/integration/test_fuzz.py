"""The fuzz targets (`make fuzz`), a few inputs each; and what they would report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fuzz
from fuzz import Target


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    count, refused = fuzz.fuzz(name, seconds=100.0, seed=0, most=15)
    assert count == 15 and refused > 0


def _crash(folder: Path) -> None:
    raise KeyError("nodes")


def _hang(folder: Path) -> None:
    until = time.process_time() + 10
    while time.process_time() < until:
        pass


def _write(folder: Path) -> None:
    (folder / "executed").touch()


def _accept(folder: Path) -> None:
    assert (folder / "file").read_bytes() == b"good", "a damaged file was taken for a good one"


@pytest.mark.parametrize(
    ("read", "what"), [(_crash, "KeyError"), (_hang, "Hang"), (_write, "executed"), (_accept, "taken for a good one")]
)
def test_anything_else_is_a_finding_whose_files_are_kept(
    read: Callable[[Path], None], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_the_good_ones(folder: Path) -> None:
        if (folder / "file").read_bytes() != b"good":
            read(folder)

    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path / "found")
    monkeypatch.setattr(fuzz, "SECONDS_OF_A_READ", 0.5)
    target = Target(lambda folder: (folder / "file").write_bytes(b"good"), after_the_good_ones)
    monkeypatch.setitem(fuzz.TARGETS, "toy", target)
    with pytest.raises(AssertionError, match=f"toy, input .* of seed 3, kept in .*{what}"):
        fuzz.fuzz("toy", seconds=60.0, seed=3)
    assert (tmp_path / "found" / "toy-3" / "file").read_bytes() != b"good"
