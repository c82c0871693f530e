"""Run an experiment with several seeds, and summarise them by mean and standard deviation"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from .data import read_data
from .experiment import Experiment, run_experiment
from .files import write_whole
from .launcher import world_size
from .report.facts import Memory, Published, Result
from .report.row import metric_of, resident_growth
from .run_folder import read_report
from .train import Callback, one_run
from .train.curve import CURVE_FILE
from .train.device import Device

RUNS_FILE = "runs.json"
FORMAT = 1


class Spread(TypedDict):
    """Mean and spread of a figure over several runs; ``None``: a run lacks it."""

    mean: float | None
    std: float | None
    """Sample standard deviation; also ``None`` for one run."""
    runs: int


class SeedResult(TypedDict):
    """The run of one seed."""

    seed: int
    folder: str
    result: Result


class Summary(TypedDict):
    """The content of ``runs.json``."""

    format: int
    name: str
    metric: str
    selected_by: object
    """The ``select`` of the training configuration."""
    scores: dict[str, Spread]
    """Split -> its metric."""
    parameters: int
    memory: Memory
    """The largest peaks."""
    paper: Published | None
    warnings: list[str]
    runs: list[SeedResult]


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
    target: Published | None = None,
    callbacks: Callable[[int], Sequence[Callback]] = lambda seed: (),
) -> Summary:
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
        if (out / CURVE_FILE).exists():
            raise FileExistsError(f"{out} holds a single run; choose another --out for several")
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


def summarise(out: Path, seeds: Sequence[int]) -> Summary:
    """Summarise the reports of several seeds.

    Args:
        out: the folder with a finished run ``seed-K`` per seed.
        seeds: the seeds.
    """
    reports = [read_report(out / f"seed-{seed}") for seed in seeds]
    first = reports[0]
    splits = first["result"]["scores"]
    peaks = [report["memory"]["peak_bytes"] for report in reports]
    known = [peak for peak in peaks if peak is not None]
    grown = [growth for report in reports if (growth := resident_growth(report["memory"])) is not None]
    return {
        "format": FORMAT,
        "name": first["name"],
        "metric": first["result"]["metric"],
        "selected_by": first["config"]["train"]["select"],
        "scores": {split: spread([metric_of(report["result"], split) for report in reports]) for split in splits},
        "parameters": first["parameters"],
        "memory": {
            "peak_bytes": max(known) if len(known) == len(peaks) else None,
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


def spread(values: Sequence[float | None]) -> Spread:
    """Return mean, sample standard deviation and number of values; ``None`` with a missing value, or for one's std."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return {"mean": None, "std": None, "runs": len(values)}
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": std, "runs": len(known)}
