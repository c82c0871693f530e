"""Build the report of a finished run from its run folder, the caller's facts, and the machine"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..files import read_object, versions_of
from ..train import METRICS
from ..train.curve import CURVE_FILE, Row, read_curve
from ..train.result import RESULT_FILE
from .facts import Circumstances, Evaluation, Report, RunFacts

FORMAT = 1
_PACKAGES = {"torch": "torch", "pyg": "torch_geometric", "revgnn": "revgnn"}


def build_report(run: Path, facts: RunFacts) -> Report:
    """Build the report of a finished run.

    Args:
        run: the run folder, with the ``result.json`` and ``curve.jsonl`` that training wrote.
        facts: the other facts of the run.
    Raises: FileNotFoundError: the run has not finished.
    """
    path = run / RESULT_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the run did not finish; resume it first")
    result = read_object(path)
    curve = read_curve(run / CURVE_FILE, is_finished=True)
    where, paper = facts.get("where") or circumstances(), facts["paper"]
    evaluation = facts.get("evaluation")
    report = {
        "format": FORMAT,
        "name": facts["name"],
        "date": where["date"],
        "dataset": dict(facts["dataset"]),
        "result": {
            **{key: result[key] for key in ("metric", "scores", "best_epoch", "epochs", "stopped")},
            # A result of an older version has one set of scores, which also selected the weights.
            "selection": result.get("selection", result["scores"]),
        },
        "evaluation": evaluation,
        "curve": _summary(curve),
        "observed": curve[-1]["observed"] if curve else {},
        "time": {
            "seconds_per_step_median": result["seconds_per_step"],
            "steps": result["steps"],
            "training_seconds": sum(row["seconds"] for row in curve),
        },
        "memory": {
            "peak_bytes": result["peak_memory"],
            "how": facts["memory_how"],
            "resident": facts.get("resident"),
            "predicted": facts.get("predicted"),
        },
        "parameters": result["parameters"],
        "paper": None if paper is None else {key: value for key, value in paper.items() if value is not None},
        "implementation": facts["implementation"],
        "machine": {**where["machine"], "device": result["device"], "precision": result["precision"]},
        "versions": where["versions"],
        "git_commit": where["git_commit"],
        "warnings": [*facts.get("warnings", ()), *_failures(curve), *_beaten(result["metric"], evaluation)],
        "config": facts["config"],
        "changed": facts.get("changed"),
    }
    as_json: Report = json.loads(json.dumps(report, default=str))
    return as_json


def circumstances() -> Circumstances:
    """Return date, machine, versions and commit of the current process, for a report that may be written later."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        "git_commit": _git_commit(),
    }


def _summary(curve: Sequence[Row]) -> dict[str, str | float | None]:
    losses = [row["loss"] for row in curve]
    return {
        "file": CURVE_FILE,
        "evaluations": sum(row["scores"] is not None for row in curve),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "lowest_loss": min(losses, default=None),
    }


def _failures(curve: Sequence[Row]) -> list[str]:
    """Return warnings about the last epoch's fixed-point solves that missed their tolerance: how many, and how far."""
    observed = curve[-1]["observed"] if curve else {}
    return [
        f"{int(observed[f'{direction} failures'])} of {int(observed[f'{direction} solves'])} {direction} solves of the "
        f"last epoch did not reach their tolerance; the median relative residual is "
        f"{observed.get(f'{direction} residual', math.nan):.2g}."
        for direction in ("forward", "backward")
        if observed.get(f"{direction} failures")
    ]


def _beaten(metric: str, evaluation: Evaluation | None) -> list[str]:
    """Return a warning if a baseline is as good as the network or better, by the metric of the run."""
    if evaluation is None or evaluation["split"] is None:
        return []
    scores = evaluation["metrics"][evaluation["split"]]
    own, sign = scores["network"].get(metric), 1 if metric in METRICS and METRICS[metric].larger_is_better else -1
    values = {model: each.get(metric) for model, each in scores.items() if model != "network"}
    better = [
        model for model, value in values.items() if own is not None and value is not None and sign * value >= sign * own
    ]
    if not better:
        return []
    return [
        f"The {' and the '.join(better)} {'are' if len(better) > 1 else 'is'} as good as the network or better: the "
        "network has not learned what the edges could add. Train longer, or try another model or learning rate."
    ]


def _versions() -> dict[str, str | None]:
    found = versions_of(*_PACKAGES.values())
    return {"python": platform.python_version(), **{name: found[package] for name, package in _PACKAGES.items()}}


def _machine() -> dict[str, str | int | None]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _git_commit() -> str | None:
    """Return the commit of the source tree, with "-dirty" if it is modified; ``None`` for an installed package."""
    git = shutil.which("git")
    here = Path(__file__).resolve()
    # The package may be installed inside another repository: check that git tracks this file.
    if git is None or _output_of([git, "ls-files", "--error-unmatch", here.name], here.parent) is None:
        return None
    return _output_of([git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], here.parent)


def _output_of(command: list[str], folder: Path) -> str | None:
    """Run a command in a folder; return its output, or ``None`` if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
