"""Measure one case in a process of its own and write the result to standard output, as JSON lines.

A peer may end the process (a segmentation fault, no memory). The line before a trial tells `run` who it was.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from typing import Any

import torch

from . import machine
from .blocks import measure_blocks
from .captured import measure_capture
from .inference import measure_inference
from .paper import measure_paper
from .registry import CASES, Blocks, Capture, Growth, Inferring, Op, OverDepth, Paper, Step, WorkSpace
from .single_ops import measure_op
from .steps import measure_growth, measure_over_depth, measure_step, measure_work_space
from .trial import Settings

_MEASURES: dict[type, Callable[[Any, str, Settings], dict[str, Any]]] = {
    Step: measure_step,
    Op: measure_op,
    WorkSpace: measure_work_space,
    Growth: measure_growth,
    OverDepth: measure_over_depth,
    Inferring: measure_inference,
    Blocks: measure_blocks,
    Paper: measure_paper,
    Capture: measure_capture,
}
_SPARE_GB = 3.0  # weights, graph and features of all entrants, and the interpreter


def measure(name: str, graph: str, settings: Settings) -> dict[str, Any]:
    """Measure one case on one graph.

    Returns: its result with the facts of where and how.
    """
    torch.set_num_threads(settings.threads)
    case = CASES[name]
    found = {
        "case": name,
        "kind": type(case).__name__,
        "graph": graph,
        "threads": settings.threads,
        "clock": settings.clock,
        **machine.facts(settings.device),
    }
    return found | _MEASURES[type(case)](case, graph, settings)


def main(request: str) -> None:
    """Answer a request ``{"name": ..., "graph": ..., "settings": {...}}``."""
    words = json.loads(request)
    settings = Settings(**words["settings"], announce=lambda name: _write({"trying": name}))
    if settings.device == "cpu":
        limit = int((settings.memory_gb + _SPARE_GB) * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    _write({"result": measure(words["name"], words["graph"], settings)})


def _write(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
