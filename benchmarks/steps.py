"""Measure training steps: in turns with their peers, their work space, and how they grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revgnn.measure import peak_memory

from .graphs import Task, make_task
from .nets import PyGNet, own_net
from .registry import ENTRANTS, GRAPHS, GROUPS, HIDDEN, NARROW, OWN, STEPS, Growth, OverDepth, Step, WorkSpace
from .trial import Experiment, Settings, attempt, timed


class Training:
    """A network with its optimizer and data; called, it makes one training step, under bfloat16 autocast if asked."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor, *graph: Any, autocast: bool = False) -> None:
        self.net, self.x, self.y, self.graph, self.autocast = net.to(x.device), x, y, graph, autocast
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def __call__(self) -> None:
        """Forward, backward, Adam."""
        self.optimizer.zero_grad(set_to_none=True)
        # PyG's reversible layer evaluates its blocks again in the backward, under the autocast of that moment.
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.autocast):
            torch.autograd.backward(F.cross_entropy(self.net(self.x, *self.graph).float(), self.y))
        self.optimizer.step()

    def peak(self) -> int:
        """Peak bytes of a step above weights, Adam's moments, graph and features; one step has been made before."""
        self.optimizer.zero_grad(set_to_none=True)
        return peak_memory(self, self.x.device)


def training(step: Step, name: str, task: Task, *, layers: int, hidden: int = HIDDEN) -> Training:
    """Build one entrant on a task."""
    torch.manual_seed(0)
    entrant = ENTRANTS[name]
    edge_attr = task.edge_attr if step.edge_features else None
    if not entrant.peer:
        net: nn.Module = own_net(step, entrant, task, layers=layers, hidden=hidden)
        return Training(net, task.x, task.y, task.graph, edge_attr, autocast=entrant.autocast)
    # PyG's normalisation of a sparse matrix adds its loops to those that are there instead of replacing them.
    loops = not (entrant.rows and step.conv == "gcn")
    form = task.form(entrant.form or (step.csr if entrant.rows else "edge_index"), loops=loops)
    net = PyGNet(step, entrant, task, layers=layers, hidden=hidden)
    return Training(net, task.x, task.y, form, edge_attr, autocast=entrant.autocast)


def measure_step(step: Step, graph: str, settings: Settings) -> dict[str, Any]:
    """Step all entrants in turns; first each alone, for its peak."""
    task, layers = make_task(graph, device=settings.device), settings.layers or GRAPHS[graph].layers
    entrants, runs = _tried(step, task, layers, settings)
    times = timed(entrants, runs, settings, ours=[name for name in runs if not ENTRANTS[name].peer])
    own = runs[OWN]["median_s"]
    ratios = {name: runs[name]["median_s"] / own for name in times if name != OWN}
    result: dict[str, Any] = {"layers": layers, "hidden": HIDDEN, "groups": GROUPS, **size(task)}
    result |= {"repeats": len(times[OWN].wall), "runs": runs, "ratios": ratios}
    if "store" in ratios:
        result["over_store"] = 1.0 / ratios["store"]
    if NARROW in ratios:
        # By how much bfloat16 is faster than float32, and than PyG's.
        result["bf16"] = {name: ratio / ratios[NARROW] for name, ratio in {OWN: 1.0, **ratios}.items()}
    return result


def _tried(
    step: Step, task: Task, layers: int, settings: Settings
) -> tuple[dict[str, Callable[[], object]], dict[str, Experiment]]:
    """The entrants that can run, and what is known of each so far."""
    alive: dict[str, Callable[[], object]] = {}
    runs: dict[str, Experiment] = {}
    for name in (OWN, *step.against):
        entrant = ENTRANTS[name]
        channels = step.edge_tensors * HIDDEN / GROUPS if entrant.peer else 0.0
        make = partial(_first_steps, step, name, task, layers)
        need = channels * task.num_edges * 4
        found, made = attempt(name, make, settings, peer=entrant.peer, need=need, requires=entrant.requires)
        runs[name] = {"what": entrant.text, "form": step.csr if entrant.rows else None, **found}
        if made is not None:
            alive[name] = made
    settings.announce(None)
    return alive, runs


def _first_steps(step: Step, name: str, task: Task, layers: int, found: Experiment) -> Training:
    """Two steps: the first makes Adam's moments, the second shows the peak."""
    made = training(step, name, task, layers=layers)
    found["parameters"] = sum(parameter.numel() for parameter in made.net.parameters())
    made()
    found["peak_bytes"] = made.peak()
    found["peak_nd"] = found["peak_bytes"] / (task.num_nodes * HIDDEN * 4)
    return made


def size(task: Task) -> dict[str, int]:
    """What a result says of its graph."""
    return {"num_nodes": task.num_nodes, "num_edges": task.num_edges}


def measure_work_space(case: WorkSpace, graph: str, settings: Settings) -> dict[str, Any]:
    """Peak of our step at every depth, in bytes and in N x D x 4 bytes."""
    task = make_task(graph, device=settings.device)
    points = []
    for layers in case.depths:
        made = training(STEPS[case.step], OWN, task, layers=layers)
        made()
        peak = made.peak()
        points.append({"layers": layers, "peak_bytes": peak, "peak_nd": peak / (task.num_nodes * HIDDEN * 4)})
    largest = max(point["peak_nd"] for point in points)
    return {**size(task), "hidden": HIDDEN, "groups": GROUPS, "points": points, "largest": largest}


def measure_growth(case: Growth, graph: str, settings: Settings) -> dict[str, Any]:
    """Time of our step at every point, in turns; how fast it grows between the outermost, and how straight."""
    layers = settings.layers or 4
    runs: dict[str, Callable[[], object]] = {}
    for point in case.points:
        task = make_task(graph, device=settings.device, edges=point if case.axis == "edges" else 1.0)
        runs[f"{point:g}"] = training(
            STEPS[case.step], OWN, task,
            layers=int(point) if case.axis == "depth" else layers,
            hidden=int(point) if case.axis == "width" else HIDDEN,
        )  # fmt: skip
    found: dict[str, Experiment] = {name: {} for name in runs}
    times = timed(runs, found, settings, ours=runs)
    seconds = [found[f"{point:g}"]["median_s"] for point in case.points]
    return {
        "axis": case.axis,
        "layers": None if case.axis == "depth" else layers,
        "hidden": None if case.axis == "width" else HIDDEN,
        "groups": GROUPS,
        "repeats": len(next(iter(times.values())).wall),
        "points": [{"at": at, "median_s": taken} for at, taken in zip(case.points, seconds, strict=True)],
        "exponent": math.log(seconds[-1] / seconds[0]) / math.log(case.points[-1] / case.points[0]),
        "off_line": off_line(case.points, seconds),
    }


def measure_over_depth(case: OverDepth, graph: str, settings: Settings) -> dict[str, Any]:
    """Time and work space of a step of every entrant at every depth, in turns."""
    step, task = STEPS[case.step], make_task(graph, device=settings.device)
    alive: dict[str, Callable[[], object]] = {}
    runs: dict[str, Experiment] = {}
    names = [(name, layers) for layers in case.depths for name in (OWN, *case.against)]
    for name, layers in names:
        peer, make = ENTRANTS[name].peer, partial(_first_steps, step, name, task, layers)
        runs[f"{name} {layers}"], made = attempt(f"{name} {layers}", make, settings, peer=peer)
        if made is not None:
            alive[f"{name} {layers}"] = made
    settings.announce(None)
    times = timed(alive, runs, settings, ours=[f"{OWN} {layers}" for layers in case.depths], warmup=0)
    points = [
        {"layers": layers, "runs": {name: runs[f"{name} {layers}"] for name in (OWN, *case.against)}}
        for layers in case.depths
    ]
    repeats = len(times[f"{OWN} {case.depths[0]}"].wall)
    return {**size(task), "hidden": HIDDEN, "groups": GROUPS, "repeats": repeats, "points": points}


def off_line(points: Sequence[float], seconds: Sequence[float]) -> float:
    """How far the times are from the straight line through them, as a part of each time, at most.

    The line minimises the sum of the squared relative deviations.
    """
    taken = np.asarray(seconds)
    slope, start = np.polyfit(points, taken, 1, w=1.0 / taken)
    return float(np.abs((start + slope * np.asarray(points)) / taken - 1.0).max())
