"""The resident size of a process against blocks of known size, and what is said where the system tells less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from revgnn import meter, resident
from revgnn.meter import interpreter_bytes
from revgnn.resident import ResidentPeak, resident_now

MB = 1_000_000
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the present size")


def _in_a_process(program: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    return [float(word) for word in done.stdout.split()]


@needs_linux
def test_growth_is_the_most_that_was_there_at_once() -> None:
    first, second, process, now = _in_a_process(
        """
from revgnn.resident import ResidentPeak, resident_now
earlier = bytearray(200_000_000)
del earlier
peak = ResidentPeak()
block = bytearray(64_000_000)
del block
first = peak.growth
peak.begin()
block = bytearray(32_000_000)
print(first, peak.growth, peak.process, resident_now())
"""
    )
    assert first == pytest.approx(64 * MB, abs=4 * MB)
    assert second == pytest.approx(32 * MB, abs=4 * MB)
    assert process == pytest.approx(now, abs=4 * MB)


@needs_linux
def test_what_was_there_already_can_count_and_free_memory_does_not_hide_growth() -> None:
    """Blocks below what malloc maps by itself, of which every other is released: the heap keeps the holes."""
    with_data, holes = _in_a_process(
        """
import ctypes
from revgnn.resident import ResidentPeak
data = bytearray(50_000_000)
with_data = ResidentPeak(held=50_000_000).growth
blocks = [bytearray(100_000) for _ in range(800)]
del blocks[::2]
peak = ResidentPeak()
more = [bytearray(100_000) for _ in range(400)]
print(with_data, peak.growth)
"""
    )
    assert with_data == pytest.approx(50 * MB, abs=4 * MB)
    assert holes == pytest.approx(40 * MB, abs=8 * MB)


@needs_linux
def test_a_peak_that_cannot_be_reset_is_said_to_be_of_the_whole_life(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ResidentPeak().how == "highest resident size of the process"
    monkeypatch.setattr(resident, "_CLEAR", tmp_path / "missing" / "clear_refs")
    peak = ResidentPeak()
    assert peak.how.endswith("of its whole life")
    assert peak.growth is not None and peak.process is not None and peak.growth < peak.process


def test_a_system_that_tells_the_highest_size_alone_gives_a_lower_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resident, "_STATUS", tmp_path / "status")
    peak = ResidentPeak()
    assert resident_now() is None
    assert peak.growth == 0 and peak.process is not None and peak.process > 50 * MB
    assert "a lower bound" in peak.how
    monkeypatch.setattr(resident, "_highest", lambda: None)
    unknown = ResidentPeak()
    assert unknown.facts() == {"growth_bytes": None, "process_bytes": None, "how": "not known on this system"}


def test_the_interpreter_takes_what_is_resident_beside_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter_bytes.cache_clear()
    before = interpreter_bytes()
    block = torch.ones(8 * MB)
    interpreter_bytes.cache_clear()
    assert before > 100 * MB
    assert interpreter_bytes() == pytest.approx(before, abs=8 * MB), "not the 32 MB of a tensor"
    del block
    interpreter_bytes.cache_clear()
    monkeypatch.setattr(meter, "resident_now", lambda: None)
    assert interpreter_bytes() == meter._USUAL
    interpreter_bytes.cache_clear()
