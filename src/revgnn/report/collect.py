"""Build the report of a finished run from its run folder, the caller's facts, and the machine"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..files import parse_object, read_object, versions_of

FORMAT = 1
_PACKAGES = {"torch": "torch", "pyg": "torch_geometric", "revgnn": "revgnn"}


def build_report(
    run: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    implementation: str,
    memory_how: str | None = None,
    resident: Mapping[str, Any] | None = None,
    paper: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    predicted: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the report of a finished run as one JSON value.

    Args:
        run: the run folder, with the ``result.json`` and ``curve.jsonl`` that training wrote.
        name: name of the run, such as "ogbn-arxiv/revgcn_deep".
        config: the full configuration, nested; a value that is not JSON is written as text.
        dataset: facts of the data (nodes, edges, features, rows of each split), name -> number or text.
        implementation: the implementation of the ops.
        memory_how: how the peak memory of tensors was measured; ``None``: it was not.
        resident: resident memory at its peak: "growth_bytes" above the baseline, "process_bytes" in total, and "how";
            ``None``: it was not measured.
        paper: the paper's figures: "metric" and "std" (in percent for accuracy and ROC-AUC), "memory_gb" (GiB),
            "parameters"; ``None`` for each missing figure, or if the paper has none.
        warnings: warnings to the reader, one sentence each.
        predicted: the planner's prediction of memory, "peak_bytes" and "how"; ``None``: no prediction.
        where: `circumstances` at the start of the run; ``None``: the current ones.
    Returns: the report.
    Raises: FileNotFoundError: the run has not finished.
    """
    path = run / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the run did not finish; resume it first")
    result = read_object(path)
    curve = read_rows(run)
    where = circumstances() if where is None else where
    report = {
        "format": FORMAT,
        "name": name,
        "date": where["date"],
        "dataset": dict(dataset),
        "result": {
            **{key: result[key] for key in ("metric", "scores", "best_epoch", "epochs", "stopped")},
            # A result of an older version has one set of scores, which also selected the weights.
            "selection": result.get("selection", result["scores"]),
        },
        "curve": _summary(curve),
        "observed": curve[-1].get("observed", {}) if curve else {},
        "time": {
            "seconds_per_step_median": result["seconds_per_step"],
            "steps": result["steps"],
            "training_seconds": sum(row["seconds"] for row in curve),
        },
        "memory": {
            "peak_bytes": result["peak_memory"],
            "how": memory_how,
            "resident": None if resident is None else dict(resident),
            "predicted": predicted,
        },
        "parameters": result["parameters"],
        "paper": None if paper is None else {key: value for key, value in paper.items() if value is not None},
        "implementation": implementation,
        "machine": {**where["machine"], "device": result["device"], "precision": result["precision"]},
        "versions": where["versions"],
        "git_commit": where["git_commit"],
        "warnings": [*warnings, *_failures(curve)],
        "config": dict(config),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(report, default=str))
    return as_json


def circumstances() -> dict[str, Any]:
    """Return date, machine, versions and commit of the current process, for a report that may be written later."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        "git_commit": _git_commit(),
    }


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Read the curve of a finished run, one mapping per epoch; empty if the file is missing."""
    path = run / "curve.jsonl"
    return [parse_object(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _summary(curve: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [row["loss"] for row in curve]
    return {
        "file": "curve.jsonl",
        "evaluations": sum(row["scores"] is not None for row in curve),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "lowest_loss": min(losses, default=None),
    }


def _failures(curve: list[dict[str, Any]]) -> list[str]:
    """Return warnings about the last epoch's fixed-point solves that missed their tolerance: how many, and how far."""
    observed = curve[-1].get("observed", {}) if curve else {}
    return [
        f"{int(observed[f'{direction} failures'])} of {int(observed[f'{direction} solves'])} {direction} solves of the "
        f"last epoch did not reach their tolerance; the median relative residual is "
        f"{observed.get(f'{direction} residual', math.nan):.2g}."
        for direction in ("forward", "backward")
        if observed.get(f"{direction} failures")
    ]


def _versions() -> dict[str, str | None]:
    found = versions_of(*_PACKAGES.values())
    return {"python": platform.python_version(), **{name: found[package] for name, package in _PACKAGES.items()}}


def _machine() -> dict[str, Any]:
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
