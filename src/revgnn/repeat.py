"""Run an experiment with several seeds, and summarise them by mean and standard deviation"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .data import read_data
from .experiment import Device, Experiment, run_experiment
from .files import read_object, write_whole
from .launcher import world_size
from .report.row import resident
from .run_folder import REPORT_FILE
from .train import Callback, one_run

RUNS_FILE = "runs.json"
FORMAT = 1


def run_repeats(
    run: Experiment,
    out: Path,
    *,
    runs: int,
    name: str,
    data_root: Path,
    device: Device = "auto",
    resume: bool = False,
    download: bool = False,
    target: Mapping[str, Any] | None = None,
    callbacks: Callable[[int], Sequence[Callback]] = lambda seed: (),
) -> dict[str, Any]:
    """Run an experiment with consecutive seeds and summarise the reports.

    Args:
        run: the experiment; its seed is the first one. Where the data set has numbered splits and none is
            chosen, each seed trains on the split of its own number.
        out: receives a run folder ``seed-K`` per seed, and runs.json.
        runs: number of seeds, at least 1.
        callbacks: seed -> the callbacks of its training.
        name, data_root, device, resume, download, target: as in `run_experiment`; finished seeds are not run again.
    Returns: the summary, see `summarise`.
    Raises: ValueError: ``runs`` below 1; and what `run_experiment` raises.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")
    if world_size() > 1:
        raise ValueError(f"several seeds train on one rank, got {world_size()}; start one after the other, by seed")
    with one_run(out):
        dataset, read = None, None
        for seed in range(run.train.seed, run.train.seed + runs):
            config = run.dataset.with_seed(seed)
            if config != read:
                dataset, read = read_data(config, run.loader, data_root, download=download), config
            run_experiment(
                replace(run, dataset=config, train=replace(run.train, seed=seed)),
                out / f"seed-{seed}",
                name=name,
                data_root=data_root,
                device=device,
                resume=resume,
                callbacks=callbacks(seed),
                target=target,
                dataset=dataset,
            )
        summary = summarise(out, range(run.train.seed, run.train.seed + runs))
        write_whole(out / RUNS_FILE, json.dumps(summary, indent=1) + "\n")
        return summary


def summarise(out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Summarise the reports of several seeds.

    Args:
        out: the folder with a finished run ``seed-K`` per seed.
        seeds: the seeds.
    Returns: name, metric, criterion of selection, mean and sample standard deviation of each split (``None`` for one
        run), the largest peaks of tensors and of the process, and each run by its seed.
    """
    reports = [read_object(out / f"seed-{seed}" / REPORT_FILE) for seed in seeds]
    first = reports[0]
    splits = first["result"]["scores"]
    peaks = [report["memory"]["peak_bytes"] for report in reports]
    grown = [growth for report in reports if (growth := resident(report)) is not None]
    return {
        "format": FORMAT,
        "name": first["name"],
        "metric": first["result"]["metric"],
        "selected_by": first["config"]["train"]["select"],
        "scores": {split: spread([_score(report, split) for report in reports]) for split in splits},
        "parameters": first["parameters"],
        "memory": {
            "peak_bytes": None if None in peaks else max(peaks),
            "how": first["memory"]["how"],
            "resident": {"growth_bytes": max(grown, default=None)},
        },
        "paper": first["paper"],
        "warnings": first["warnings"],
        "runs": [
            {"seed": seed, "folder": f"seed-{seed}", "result": report["result"]}
            for seed, report in zip(seeds, reports, strict=True)
        ],
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, sample standard deviation and number of values; ``None`` with a missing value, or for one's std."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return {"mean": None, "std": None, "runs": len(values)}
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": std, "runs": len(known)}


def _score(report: Mapping[str, Any], split: str) -> float | None:
    value: float | None = report["result"]["scores"].get(split, {}).get("metric")
    return value
