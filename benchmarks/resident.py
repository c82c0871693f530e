"""What a training step takes of the machine, as the system sees it: peak resident growth of the process over depth.

Each cell is a process of its own, whose malloc nobody touches: it builds a network, makes a few steps (forward,
backward, Adam) and one evaluation, and says by how much its resident size rose at most above what it was before the
network was built. Beside it stand the tensors of a step as the allocator counts them in further steps (weights,
gradients, Adam's moments, graph and features included).

    python -m benchmarks.resident                              every block at 8, 28 and 96 layers: some minutes
    python -m benchmarks.resident --block gen "gen edges" --depth 8 96 --threads 2
    python -m benchmarks.resident --block gen --nodes 20000 --channels 128 --steps 1
    python -m benchmarks.resident --phase backward             forward and backward alone (or: forward, evaluate, step)
    python -m benchmarks.resident --list                       the names of the blocks

Columns: resident MB per depth; growth, the resident size of the deepest over the shallowest, what more its weights take
apart (flat: within 1.10); ratio, resident over tensors at the deepest (at most 1.5).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from revgnn import GATConv, GCNConv, GENConv, Graph, ModelConfig, SAGEConv, Stack, build_model
from revgnn.data import GraphInfo
from revgnn.implicit.fixed_point import ConvergenceWarning
from revgnn.interop import GroupAddRev
from revgnn.measure import peak_memory, tensor_bytes
from revgnn.nn.convs import GATOptions, GENOptions
from revgnn.nn.model import EquilibriumOptions
from revgnn.resident import ResidentPeak

ROOT = Path(__file__).resolve().parents[1]
PHASES = ("forward", "backward", "step", "evaluate", "all")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of one measurement."""

    nodes: int = 4_000
    edges: int = 40_000
    channels: int = 128
    threads: int = 1
    steps: int = 2
    phase: str = "all"
    """How far a step goes; "all" is two whole steps and an evaluation."""


HEADERS = 8_000
"""Bytes that a weight takes whatever its size: five tensors (itself, gradient, Adam's three) and its part of a module.
Measured by this program with 20 nodes and 16 channels: 7 to 8 KB in all blocks."""


@dataclass(frozen=True, kw_only=True)
class Resident:
    """One measurement, in bytes."""

    resident: int
    """Most that the process grew by, from before the network, the features and the graph were made."""
    tensors: int
    """Most that tensors took at once, those that last included; with `HEADERS` for each weight."""
    weights: int
    """Of those, weights, their gradients and what the optimizer keeps of them; with `HEADERS` for each weight."""


class Inputs:
    """Features, labels and graph of a size."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        self.edge_index = torch.randint(size.nodes, (2, size.edges))
        self.graph = Graph.from_edge_index(self.edge_index, size.nodes)
        self.x = torch.randn(size.nodes, 64)
        self.y = torch.randint(10, (size.nodes,))
        self.edge_attr = torch.randn(size.edges, 8)


Forward = Callable[[Inputs], Tensor]
Made = tuple[nn.Module, Forward]
BLOCKS: dict[str, Callable[[int, Size], Made]] = {}
"""Name -> makes a network of a depth, and what evaluates it."""


def _config(name: str, *, uses_edges: bool = False, **choices: Any) -> None:
    def make(depth: int, size: Size) -> Made:
        config = ModelConfig(**{"coupling": "grouped", **choices}, num_layers=depth, hidden_channels=size.channels)
        edge_channels = 8 if uses_edges else None
        net = build_model(config, GraphInfo(in_channels=64, num_outputs=10, edge_channels=edge_channels))
        return net, lambda inputs: net(inputs.x, inputs.graph, inputs.edge_attr if uses_edges else None)

    BLOCKS[name] = make


for _conv in ("gcn", "sage", "gen"):
    _config(_conv, conv=_conv)
_config("gat", conv="gat", gat=GATOptions(heads=4))
_config("gen one layer", conv="gen", gen=GENOptions(mlp_layers=1))
_config("gen edges", conv="gen", uses_edges=True)
_config("gen max edges", conv="gen", uses_edges=True, gen=GENOptions(aggr="max"))
_config("gen batch", conv="gen", norm="batch")
_config("gcn batch", conv="gcn", norm="batch")
_config("gcn graph", conv="gcn", norm="graph")
_config("gcn none", conv="gcn", norm="none")
_config("gcn dropout per layer", conv="gcn", dropout_mask="independent")
_config("gcn tied", conv="gcn", weight_tied=True)
_config("gen exact", conv="gen", state="exact")
_config("gen four groups", conv="gen", num_groups=4)
_config("gen segments", conv="gen", segments=4)
_config("gen checkpoint", conv="gen", coupling="residual", backprop="checkpoint", segments=4)
_config("gcn checkpoint", conv="gcn", coupling="residual", backprop="checkpoint", segments=4)
_config("gen store", conv="gen", backprop="store")


def _implicit(depth: int, size: Size, *, conv: str, **choices: Any) -> Made:
    """Its depth is the number of iterations of the solvers, which stop at no residual."""
    config = ModelConfig(
        conv=conv,
        coupling="residual",
        backprop="implicit",
        weight_tied=True,
        hidden_channels=size.channels,
        equilibrium=EquilibriumOptions(max_iter=depth, tol=0.0, backward_max_iter=depth, backward_tol=0.0, **choices),
    )
    net = build_model(config, GraphInfo(in_channels=64, num_outputs=10))
    return net, lambda inputs: net(inputs.x, inputs.graph)


BLOCKS["implicit"] = partial(_implicit, conv="gen", solver="picard")
BLOCKS["contractive"] = partial(
    _implicit, conv="gcn", solver="anderson", memory=3, contraction=0.9, contraction_norm="row"
)


class _Around(nn.Module):
    """Layers between two linear maps."""

    def __init__(self, layers: nn.Module, channels: int) -> None:
        super().__init__()
        self.first, self.layers, self.last = nn.Linear(64, channels), layers, nn.Linear(channels, 10)


class _OwnBlock(nn.Module):
    """A block of plain torch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, seed: int) -> Tensor:
        out: Tensor = self.net(x)
        return out


class _OwnConvBlock(nn.Module):
    """A convolution of this library's under a norm of torch's."""

    def __init__(self, width: int, conv: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.norm, self.conv = nn.LayerNorm(width), conv(width, width)

    def forward(self, x: Tensor, seed: int, graph: Graph) -> Tensor:
        out: Tensor = self.conv(self.norm(x).relu(), graph)
        return out


def _own(depth: int, size: Size) -> Made:
    stack = Stack(_OwnBlock, channels=size.channels, num_layers=depth, coupling="grouped", backprop="reversible")
    net = _Around(stack, size.channels)
    return net, lambda inputs: net.last(net.layers(net.first(inputs.x)))


def _own_conv(conv: Callable[[int, int], nn.Module]) -> Callable[[int, Size], Made]:
    def make(depth: int, size: Size) -> Made:
        stack = Stack(
            lambda width: _OwnConvBlock(width, conv),
            channels=size.channels,
            num_layers=depth,
            coupling="grouped",
            backprop="reversible",
        )
        net = _Around(stack, size.channels)
        return net, lambda inputs: net.last(net.layers(net.first(inputs.x), inputs.graph))

    return make


BLOCKS["own block"] = _own
for _name, _class in {"gcn": GCNConv, "sage": SAGEConv, "gen": GENConv, "gat": GATConv}.items():
    BLOCKS[f"own block {_name}"] = _own_conv(_class)


class _PygBlock(nn.Module):
    """Norm, ReLU and a convolution of PyG's."""

    def __init__(self, conv: nn.Module, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.LayerNorm(width), conv

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        edges = () if edge_attr is None else (edge_attr,)
        out: Tensor = self.conv(self.norm(x).relu(), edge_index, *edges)
        return out

    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        self.conv.reset_parameters()  # type: ignore[operator]


def _interop(conv: str, wrapper: Callable[..., nn.Module], num_groups: int = 2) -> Callable[[int, Size], Made]:
    def make(depth: int, size: Size) -> Made:
        from torch_geometric import nn as pyg

        width = size.channels // num_groups
        of: dict[str, Callable[[], nn.Module]] = {
            "gcn": lambda: pyg.GCNConv(width, width),
            "sage": lambda: pyg.SAGEConv(width, width),
            "gen": lambda: pyg.GENConv(width, width),
            "gen edges": lambda: pyg.GENConv(width, width, edge_dim=8),
            "gat": lambda: pyg.GATv2Conv(width, width // 4, heads=4),
        }
        layers = nn.ModuleList(wrapper(_PygBlock(of[conv](), width), num_groups=num_groups) for _ in range(depth))
        net = _Around(layers, num_groups * width)

        def forward(inputs: Inputs) -> Tensor:
            x, edges = net.first(inputs.x), (inputs.edge_attr,) if conv == "gen edges" else ()
            for layer in layers:
                x = layer(x, inputs.edge_index, *edges)
            out: Tensor = net.last(x)
            return out

        return net, forward

    return make


def _of_pyg(block: nn.Module, num_groups: int) -> nn.Module:
    from torch_geometric.nn import GroupAddRev as Theirs

    return Theirs(block, num_groups=num_groups)


for _conv in ("gcn", "sage", "gen", "gen edges", "gat"):
    BLOCKS[f"GroupAddRev {_conv}"] = _interop(_conv, GroupAddRev)
BLOCKS["GroupAddRev sage three groups"] = _interop("sage", GroupAddRev, 3)
BLOCKS["PyG's GroupAddRev gen"] = _interop("gen", _of_pyg)


_LOADING_LAYERS = 5
"""Of the network that is run first; at least as many as any block's segments."""


def measure_here(block: str, depths: Sequence[int], size: Size) -> list[Resident]:
    """Measure in this process, which must have done nothing before.

    All depths grow from one start. Tensors are recorded of the first depth, when nothing else is measured any more; the
    others have its tensors and the weights that are more.
    """
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(size.threads)
    small = Size(nodes=50, edges=200, channels=8, phase=size.phase)
    # Libraries that are loaded at their first use are no part of the network.
    _run(BLOCKS[block](_LOADING_LAYERS, small), Inputs(small), small)
    peak = ResidentPeak()
    inputs = Inputs(size)
    grown, weights = [], []
    for depth in depths:
        peak.begin()
        made = BLOCKS[block](depth, size)
        optimizer = _run(made, inputs, size)
        assert peak.growth is not None, "the system must tell the resident size"
        grown.append(peak.growth)
        weights.append(_weights(made[0], optimizer))
        del made, optimizer
        gc.collect()
    tensors = _tensors(block, depths[0], size, inputs)
    return [
        Resident(resident=one, tensors=tensors + more - weights[0], weights=more)
        for one, more in zip(grown, weights, strict=True)
    ]


def _weights(net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, their gradients, buffers, and what the optimizer keeps; and of their headers."""
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    return _headers(net) + tensor_bytes([*net.parameters(), *net.buffers(), *gradients, *states])


def _headers(net: nn.Module) -> int:
    return HEADERS * sum(1 for _ in net.parameters())


def _tensors(block: str, depth: int, size: Size, inputs: Inputs) -> int:
    """Bytes of tensors at most, and the headers of weights."""
    made = BLOCKS[block](depth, size)
    optimizer = _run(made, inputs, size)
    optimizer.zero_grad()
    gc.collect()
    # Everything that is alive, the derived vectors of the graph included.
    held = tensor_bytes([thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)])
    return held + peak_memory(lambda: _run(made, inputs, size, optimizer)) + _headers(made[0])


def _run(
    made: Made, inputs: Inputs, size: Size, optimizer: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """Go as far as the phase says; give the optimizer."""
    net, forward = made
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3) if optimizer is None else optimizer
    if size.phase != "evaluate":
        net.train()
        for _ in range(size.steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(inputs), inputs.y)
            if size.phase != "forward":
                torch.autograd.backward(loss)
            if size.phase in ("step", "all"):
                optimizer.step()
    if size.phase in ("evaluate", "all"):
        net.eval()
        with torch.no_grad():
            forward(inputs)
    return optimizer


def measure(block: str, depths: Sequence[int], size: Size) -> list[Resident]:
    """Measure in a process of its own, one depth after the other."""
    request = json.dumps({"block": block, "depths": list(depths), "size": asdict(size)})
    command = [sys.executable, "-m", "benchmarks.resident", "--child", request]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{block} with {depths} layers failed: {done.stderr[-2000:]}")
    return [Resident(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def growth(shallow: Resident, deep: Resident) -> float:
    """How many times as much the deep one takes, what more its weights take apart."""
    return (deep.resident - (deep.weights - shallow.weights)) / shallow.resident


def main() -> None:
    """Measure what was asked for and print a line a block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", nargs="+", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument("--depth", nargs="+", type=int, default=[8, 28, 96])
    parser.add_argument("--phase", default="all", choices=PHASES)
    for name in ("nodes", "edges", "channels", "threads", "steps"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size, name))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        request = json.loads(given.child)
        found = measure_here(request["block"], request["depths"], Size(**request["size"]))
        print(json.dumps([asdict(one) for one in found]))
        return
    if given.list:
        print("\n".join(BLOCKS))
        return
    size = Size(**{name: getattr(given, name) for name in asdict(Size())})
    print(size)
    head = "".join(f"{depth:>8}" for depth in given.depth)
    print(f"{'block':<24}{head}{'growth':>9}{'tensors':>9}{'weights':>9}{'ratio':>8}   [MB at the deepest]", flush=True)
    for block in given.block:
        print(f"{block:<24}", end="", flush=True)
        found = []
        for depth in given.depth:
            found += measure(block, [depth], size)
            print(f"{found[-1].resident / 1e6:>8.0f}", end="", flush=True)
        last = found[-1]
        print(
            f"{growth(found[0], last):>9.2f}{last.tensors / 1e6:>9.0f}{last.weights / 1e6:>9.0f}"
            f"{last.resident / last.tensors:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
