"""Several seeds of a data set with numbered splits: each trains on the split of its own number, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from revgnn import run_experiment
from revgnn.data import MinefieldOptions
from revgnn.paper.recipes import minefield
from revgnn.repeat import run_repeats


def test_each_seed_takes_the_split_of_its_number(tmp_path: Path) -> None:
    run = minefield.revsage()
    run = replace(
        run,
        dataset=replace(run.dataset, minefield=MinefieldOptions(side=12)),
        model=replace(run.model, num_layers=2, hidden_channels=8),  # type: ignore[type-var]
        train=replace(run.train, epochs=2, seed=3),
    )
    found = run_repeats(run, tmp_path / "out", runs=2, name="minefield/revsage", data_root=tmp_path, device="cpu")
    assert [one["seed"] for one in found["runs"]] == [3, 4]
    for seed in (3, 4):
        report = json.loads((tmp_path / "out" / f"seed-{seed}" / "report.json").read_text(encoding="utf-8"))
        assert report["config"]["dataset"]["split"] == report["config"]["train"]["seed"] == seed
    scores = [one["result"]["scores"]["test"]["metric"] for one in found["runs"]]
    with pytest.raises(FileExistsError, match="holds several runs; choose another --out, or go on with them by --runs"):
        run_experiment(run, tmp_path / "out", name="one", data_root=tmp_path, device="cpu", resume=True)
    with pytest.raises(FileExistsError, match="holds a single run; choose another --out for several"):
        run_repeats(run, tmp_path / "out" / "seed-3", runs=2, name="two", data_root=tmp_path, device="cpu", resume=True)
    assert found["scores"]["test"]["mean"] == pytest.approx(sum(scores) / 2)
