"""Measure training steps at the paper's depths and widths: peak memory beside the paper's column, time beside PyG's.

Memory is all that the allocator holds at the peak of a step, weights and Adam's moments included, as the paper measured
it (`torch.cuda.max_memory_allocated`, GiB). The ceiling of the time is what copying at the device's own rate would take
for the rows that a step must gather.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from revgnn import ModelConfig, build_model
from revgnn.measure import StepMemory, median_seconds
from revgnn.nn.convs import GATOptions, GENOptions

from .graphs import Task, make_task
from .nets import PyGNet
from .registry import DROPOUT, ENTRANTS, GROUPS, OWN, STEPS, Paper
from .steps import Training, size
from .trial import Experiment, Settings, attempt, timed

_COPIED = 2**28
"""Bytes of the tensor whose copying gives the device's rate: beyond any cache."""


def measure_paper(case: Paper, graph: str, settings: Settings) -> dict[str, Any]:
    """Step our network and PyG's of the same convolution, depth and width in turns."""
    task, layers = make_task(graph, device=settings.device), settings.layers or case.layers
    data = _allocated()
    peers = ("pyg", "pyg-csr") if case.reversible else ("pyg-residual-csr",)
    alive: dict[str, Callable[[], object]] = {}
    runs: dict[str, Experiment] = {}
    for name in (OWN, *peers):
        make = partial(_own if name == OWN else partial(_peer, name), case, task, layers)
        found, made = attempt(name, partial(_first_steps, make, data), settings, peer=name != OWN)
        runs[name] = {"what": case.title if name == OWN else ENTRANTS[name].text, **found}
        if made is not None:
            alive[name] = made
    settings.announce(None)
    times = timed(alive, runs, settings, ours=[OWN])
    own, rate = runs[OWN]["median_s"], copy_rate(settings.device, _COPIED)
    return {
        "layers": layers, "hidden": case.hidden, "groups": GROUPS if case.reversible else 1, **size(task),
        "repeats": len(times[OWN].wall),
        "runs": runs,
        "ratios": {name: runs[name]["median_s"] / own for name in times if name != OWN},
        "peak_gb": runs[OWN]["peak_gb"],
        "paper_gb": case.paper_gb,
        "copy_gb_s": rate / 1e9,
        "of_ceiling": gathered_bytes(case, task, layers) / rate / own,
    }  # fmt: skip


def config(case: Paper, layers: int) -> ModelConfig:
    """Our network of a row of the paper."""
    return ModelConfig(
        conv=STEPS[case.step].conv,
        num_layers=layers,
        hidden_channels=case.hidden,
        coupling="grouped" if case.reversible else "residual",
        num_groups=GROUPS,
        backprop="reversible" if case.reversible else "store",
        norm=case.norm,
        dropout=DROPOUT,
        edge_encoder=False,
        gen=GENOptions(aggr=case.aggr, t=0.1 if case.aggr == "softmax_sg" else 1.0, mlp_layers=case.mlp_layers),
        gat=GATOptions(heads=case.heads),
    )


def _own(case: Paper, task: Task, layers: int) -> Training:
    torch.manual_seed(0)
    edge_attr = task.edge_attr if STEPS[case.step].edge_features else None
    net = build_model(
        config(case, layers),
        in_channels=task.x.size(1),
        out_channels=task.num_classes,
        edge_channels=None if edge_attr is None else edge_attr.size(1),
    )
    return Training(net, task.x, task.y, task.graph, edge_attr)


def _peer(name: str, case: Paper, task: Task, layers: int) -> Training:
    torch.manual_seed(0)
    step, entrant = replace(STEPS[case.step], heads=case.heads), ENTRANTS[name]
    edge_attr = task.edge_attr if step.edge_features else None
    form = task.form(step.csr if entrant.rows else "edge_index", loops=not (entrant.rows and step.conv == "gcn"))
    net = PyGNet(step, entrant, task, layers=layers, hidden=case.hidden)
    return Training(net, task.x, task.y, form, edge_attr)


def _first_steps(make: Callable[[], Training], data: int, found: Experiment) -> Training:
    """Two steps: the first makes Adam's moments, the second shows the peak, without what other entrants hold."""
    others = _allocated() - data
    made = make()
    found["parameters"] = sum(parameter.numel() for parameter in made.net.parameters())
    made()
    memory = StepMemory(made.x.device, [made.x, *made.net.parameters()])
    memory()
    made()
    found["peak_gb"] = (memory() - others) / 2**30
    return made


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def gathered_bytes(case: Paper, task: Task, layers: int) -> int:
    """What a step cannot do without: a row per edge and layer forward and backward, and once more to rebuild."""
    return (3 if case.reversible else 2) * layers * task.num_edges * case.hidden * 4


def copy_rate(device: str, size: int) -> float:
    """Bytes per second that are read while a tensor of so many bytes is copied; as many are written."""
    source = torch.empty(size // 4, device=device).normal_()
    target = torch.empty_like(source)
    return size / median_seconds(lambda: target.copy_(source), device, repeats=9)
