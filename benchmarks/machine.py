"""Where and on what a figure was measured: the machine, the versions, the commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import revgnn
from revgnn import ops
from revgnn.ops import cpu

ROOT = Path(__file__).resolve().parent.parent


def facts(device: str) -> dict[str, Any]:
    """What every result says beside its figures."""
    chosen = ops.implementation(device)
    return {
        "machine": _machine(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_geometric": importlib.metadata.version("torch_geometric"),
            "revgnn": revgnn.__version__,
        },
        **_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "implementation": chosen,
        "isa": cpu.isa() if chosen == "native" else None,
    }


def _machine(device: str) -> dict[str, Any]:
    # Those that this process may use: taskset leaves some out.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"cpu": _cpu(), "cores": cores, "load": os.getloadavg()[0]}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _commit() -> dict[str, Any]:
    """The commit, and whether what was measured differs from it; results themselves do not count."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "csrc")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*words: str) -> str | None:
    try:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None
