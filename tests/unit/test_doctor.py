"""`revgnn doctor` and `revgnn --version` say what works here, and how to get the rest."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch

from revgnn import __version__
from revgnn.cli import main
from revgnn.commands import doctor
from revgnn.ops import cpu


def test_the_version_names_torch_and_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"revgnn {__version__}, torch {torch.__version__}, ")
    assert (f"kernels {cpu.isa()}" if cpu.AVAILABLE else "no compiled kernels") in line


def test_the_doctor_trains_a_step_and_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "pymetis" else find_spec(name))
    assert main(["doctor", "--json"]) == 0
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert "reversible gradients equal stored ones" in rows["a training step"]["state"]
    assert rows["pymetis"] == {
        "what": "pymetis",
        "state": "missing: parts by METIS clusters",
        "remedy": "pip install 'revgnn[metis]'",
    }
    assert main(["doctor"]) == 0
    assert "how to get it" in capsys.readouterr().out
