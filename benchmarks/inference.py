"""Measure inference of a deep network: nodes a second and peak memory, beside PyG's ways to do it.

PyG's network runs on the whole graph without gradients, or layer by layer in chunks of destination nodes, as its
layer-wise inference does with a loader; here chunks are slices of the sorted edges, which no loader has to sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from revgnn import DatasetConfig, Experiment, LoaderConfig, ModelConfig, TrainConfig
from revgnn.data import Dataset, GraphInfo
from revgnn.measure import peak_memory
from revgnn.nn.model import GNN
from revgnn.trained import TrainedModel

from .graphs import Task, make_task
from .nets import PyGBlock, PyGNet, own_net
from .registry import ENTRANTS, GROUPS, HIDDEN, OWN, STEPS, Inferring
from .steps import size
from .trial import Experiment as Found
from .trial import Settings, attempt, timed

CHUNK = 4096
"""Destination nodes that PyG's layer-wise inference takes at a time."""
WAYS = {
    OWN: "revgnn, logits",
    "revgnn-bf16": "revgnn, logits, bfloat16 autocast",
    "revgnn-embed": "revgnn, model.embed, with sorting the edges",
    "pyg": "PyG GroupAddRev, whole graph, edge_index",
    "pyg-csr": "PyG GroupAddRev, whole graph, fastest CSR form",
    "pyg-bf16": "PyG GroupAddRev, whole graph, edge_index, bfloat16 autocast",
    "pyg-layerwise": "PyG's convolutions, layer by layer in chunks of nodes",
}


def measure_inference(case: Inferring, graph: str, settings: Settings) -> dict[str, Any]:
    """Every way in turns; first each alone, for its peak above weights, graph and features."""
    task, layers = make_task(graph, device=settings.device), settings.layers or case.layers
    ways = _ways(case, task, layers)
    alive: dict[str, Callable[[], object]] = {}
    runs: dict[str, Found] = {}
    for name, way in ways.items():
        make = partial(_first_runs, way, task, settings)
        found, made = attempt(name, make, settings, peer=name.startswith("pyg"))
        runs[name] = {"what": WAYS[name], **found}
        if made is not None:
            alive[name] = made
    settings.announce(None)
    times = timed(alive, runs, settings, ours=[name for name in runs if not name.startswith("pyg")])
    for name in times:
        runs[name]["nodes_per_s"] = task.num_nodes / runs[name]["median_s"]
    own = runs[OWN]["median_s"]
    return {
        "layers": layers, "hidden": HIDDEN, "groups": GROUPS, **size(task), "repeats": len(times[OWN].wall),
        "runs": runs,
        "ratios": {name: runs[name]["median_s"] / own for name in times if name != OWN},
        "largest": max(run["peak_nd"] for name, run in runs.items() if not name.startswith("pyg")),
    }  # fmt: skip


def _first_runs(way: Callable[[], object], task: Task, settings: Settings, found: Found) -> Callable[[], object]:
    way()
    found["peak_bytes"] = peak_memory(way, settings.device)
    found["peak_nd"] = found["peak_bytes"] / (task.num_nodes * HIDDEN * 4)
    return way


def _ways(case: Inferring, task: Task, layers: int) -> dict[str, Callable[[], object]]:
    """Name in `WAYS` -> what gives the outputs of all nodes."""
    torch.manual_seed(0)
    step = STEPS[case.step]
    net = own_net(step, ENTRANTS[OWN], task, layers=layers, hidden=HIDDEN).eval()
    trained, dataset = _trained(net, task, layers)

    def peer(name: str) -> PyGNet:
        made = PyGNet(step, ENTRANTS[name], task, layers=layers, hidden=HIDDEN).to(task.x.device)
        return made.eval()

    whole, rows = peer("pyg"), peer("pyg-csr")
    form = task.form(step.csr)
    logits = torch.no_grad()(lambda: net(task.x, task.graph))
    plain = torch.no_grad()(lambda: whole(task.x, task.edge_index))
    return {
        OWN: logits,
        "revgnn-bf16": _narrow(logits, task),
        "revgnn-embed": lambda: trained.embed(dataset),
        "pyg": plain,
        "pyg-csr": torch.no_grad()(lambda: rows(task.x, form)),
        "pyg-bf16": _narrow(plain, task),
        "pyg-layerwise": lambda: layerwise(whole, task),
    }


def _narrow(run: Callable[[], object], task: Task) -> Callable[[], object]:
    return torch.autocast(task.x.device.type, torch.bfloat16)(run)


@torch.no_grad()
def layerwise(net: PyGNet, task: Task, chunk: int = CHUNK) -> Tensor:
    """Logits [N, T] of a reversible network of PyG's, with messages of one chunk of nodes in memory at a time.

    Args:
        net: its convolutions take sources and destinations apart.
        task: its edges are sorted by destination.
        chunk: nodes at a time.
    """
    groups = list(net.encoder(task.x).chunk(GROUPS, dim=-1))
    firsts = torch.arange(0, task.num_nodes + chunk, chunk, device=task.x.device)
    starts = torch.searchsorted(task.edge_index[1].contiguous(), firsts).tolist()
    for layer in net.layers:
        read = sum(groups[1:])
        for i, block in enumerate(layer.convs):
            assert isinstance(block, PyGBlock)
            h = block.norm(read).relu()
            value = torch.empty_like(groups[i])
            for number, (low, high) in enumerate(pairwise(starts)):
                first, rows = number * chunk, slice(number * chunk, (number + 1) * chunk)
                edges = task.edge_index[:, low:high] - torch.tensor([[0], [first]], device=h.device)
                value[rows] = block.conv((h, h[rows]), edges)
            groups[i] = read = groups[i] + value
    out: Tensor = net.lin(net.norm(torch.cat(groups, dim=-1)).relu())
    return out


def _trained(net: GNN, task: Task, layers: int) -> tuple[TrainedModel, Dataset]:
    """The network as a finished run's model, and its graph as a data set."""
    everyone, nobody = torch.arange(task.num_nodes), torch.empty(0, dtype=torch.int64)
    dataset = Dataset(
        info=GraphInfo(name="benchmark", in_channels=task.x.size(1), num_outputs=task.num_classes),
        x=task.x, edge_index=task.edge_index, y=task.y, splits={"train": everyone, "valid": nobody, "test": nobody},
    )  # fmt: skip
    run = Experiment(
        dataset=DatasetConfig(name="tables", path="."),
        model=ModelConfig(num_layers=layers, hidden_channels=HIDDEN),
        train=TrainConfig(epochs=1),
        loader=LoaderConfig(),
    )
    return TrainedModel(run, replace(dataset.info), net).eval(), dataset
