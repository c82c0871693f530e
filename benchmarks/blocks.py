"""Measure training steps with blocks of other kinds: what each costs fused, or by autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from revgnn import ModelConfig, build_model
from revgnn.data import GraphInfo
from revgnn.nn.convs import GENOptions, SAGEOptions
from revgnn.nn.model import GNN
from revgnn.stack import Stack
from revgnn.stack.fused import is_fused

from .graphs import Task, make_task
from .registry import BLOCK_KINDS, DROPOUT, GROUPS, HIDDEN, BlockKind, Blocks
from .steps import Training, size
from .trial import Experiment, Settings, timed

AUTOGRAD = "by autograd"


def measure_blocks(case: Blocks, graph: str, settings: Settings) -> dict[str, Any]:
    """A step of each kind, and of each kind that is fused also with hooks on its blocks, which autograd evaluates."""
    task, layers = make_task(graph, device=settings.device), settings.layers or case.layers
    steps: dict[str, Training] = {}
    runs: dict[str, Experiment] = {}
    for name in case.kinds:
        steps[name] = _training(BLOCK_KINDS[name], task, layers)
        runs[name] = {"what": BLOCK_KINDS[name].text, "is_fused": fuses(steps[name].net, task)}
        if runs[name]["is_fused"]:
            steps[f"{name} {AUTOGRAD}"] = _training(BLOCK_KINDS[name], task, layers, hooked=True)
            runs[f"{name} {AUTOGRAD}"] = {"what": BLOCK_KINDS[name].text, "is_fused": False}
    for name, step in steps.items():
        step()
        runs[name]["peak_bytes"] = step.peak()
        runs[name]["peak_nd"] = runs[name]["peak_bytes"] / (task.num_nodes * HIDDEN * step.x.element_size())
    times = timed(steps, runs, settings, ours=runs)
    repeats = len(next(iter(times.values())).wall)
    return {"layers": layers, "hidden": HIDDEN, "groups": GROUPS, **size(task), "repeats": repeats, "runs": runs}


def _training(kind: BlockKind, task: Task, layers: int, *, hooked: bool = False) -> Training:
    torch.manual_seed(0)
    sage, gen = SAGEOptions(), GENOptions()
    config = ModelConfig(
        conv=kind.conv,
        num_layers=layers,
        hidden_channels=HIDDEN,
        coupling="grouped",
        num_groups=GROUPS,
        backprop="reversible",
        norm=kind.norm,
        dropout=DROPOUT,
        sage=SAGEOptions(aggr=kind.aggr) if kind.conv == "sage" else sage,
        gen=GENOptions(aggr=kind.aggr, mlp_layers=kind.mlp_layers) if kind.conv == "gen" else gen,
    )
    dtype = getattr(torch, kind.dtype)
    net = build_model(config, GraphInfo(in_channels=task.x.size(1), num_outputs=task.num_classes)).to(dtype)
    if hooked:
        for block in _blocks(net):
            block.register_forward_hook(lambda module, arguments, value: None)
    return Training(net, task.x.to(dtype), task.y, task.graph)


def fuses(net: nn.Module, task: Task) -> bool:
    """Whether the blocks of a network are fused on rows of its own type."""
    (block, *_) = _blocks(net)
    x = torch.empty(task.num_nodes, HIDDEN // GROUPS, dtype=next(net.parameters()).dtype, device=task.x.device)
    return is_fused(block, x, [task.graph])


def _blocks(net: nn.Module) -> list[nn.Module]:
    assert isinstance(net, GNN)
    assert isinstance(net.stack, Stack)
    return [block for depth in range(net.stack.num_layers) for block in net.stack.layer_at(depth)]
