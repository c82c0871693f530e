"""A run that does not fit ends with what would, not with a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from revgnn import commands
from revgnn.cli import main
from revgnn.planner import out_of_memory

WORDS = ["train", "digits/revgnn", "--device", "cpu", "--set", "model.num_layers=4"]
FAILURES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
]


def _fails(monkeypatch: pytest.MonkeyPatch, error: Exception, available: int) -> None:
    def run_experiment(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(commands, "run_experiment", run_experiment)
    monkeypatch.setattr(out_of_memory, "memory_there_is", lambda device: available)


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_what_would_fit_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    _fails(monkeypatch, error, 1_500_000)
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "error: out of memory (" in said
    assert "A step is predicted to take" in said
    assert "--set " in said or "No way that the planner tries" in said


def test_where_the_step_fits_the_rest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fails(monkeypatch, MemoryError(), 2**40)
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 1
    assert "the rest is the data, or another program's" in capsys.readouterr().err


def test_another_fault_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fails(monkeypatch, RuntimeError("a fault of our own"), 2**40)
    with pytest.raises(RuntimeError, match="a fault of our own"):
        main([*WORDS, "--out", str(tmp_path / "run")])


def test_the_memory_there_is_is_below_a_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < out_of_memory.memory_there_is("cpu") < 2**50
    monkeypatch.setattr(out_of_memory.resource, "getrlimit", lambda which: (12345, 12345))
    assert out_of_memory.memory_there_is("cpu") == 12345
