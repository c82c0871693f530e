"""Measure what a CUDA graph gains on a small graph, where launching kernels takes longer than running them.

A captured step repeats itself to the bit: seeds are arguments of kernels, so that every replay drops the same elements.
The gain is what is measured here; training by replay needs masks that are drawn inside of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .graphs import make_task
from .registry import GRAPHS, GROUPS, OWN, STEPS, Capture
from .steps import Training, size, training
from .trial import Experiment, Settings, timed

_WARM_UP = 3


def measure_capture(case: Capture, graph: str, settings: Settings) -> dict[str, Any]:
    """Step the same network launched and replayed, in turns."""
    task, layers = make_task(graph, device=settings.device), settings.layers or GRAPHS[graph].layers
    made = training(STEPS[case.step], OWN, task, layers=layers, hidden=case.hidden)
    made()
    alive: dict[str, Callable[[], object]] = {OWN: made}
    runs: dict[str, Experiment] = {
        OWN: {"what": "kernel by kernel"},
        "captured": {"what": "replayed from a CUDA graph"},
    }
    if settings.device == "cuda":
        again = training(STEPS[case.step], OWN, task, layers=layers, hidden=case.hidden)
        alive["captured"] = captured(again)
    else:
        runs["captured"]["skipped"] = "needs a CUDA device"
    settings.announce(None)
    times = timed(alive, runs, settings, ours=list(alive))
    result: dict[str, Any] = {"layers": layers, "hidden": case.hidden, "groups": GROUPS, **size(task)}
    result |= {"repeats": len(times[OWN].wall), "runs": runs}
    if "captured" in times:
        result["gain"] = runs[OWN]["median_s"] / runs["captured"]["median_s"]
    return result


def captured(step: Training) -> Callable[[], object]:
    """Capture a training step; what is given back replays it on the same weights and data."""
    step.optimizer = torch.optim.Adam(step.net.parameters(), lr=1e-3, capturable=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
