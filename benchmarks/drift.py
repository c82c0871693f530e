"""What the gradients of a reversible network are worth at depth: the generator of docs/drift.md.

A stack of GCN blocks at its initial weights, on a random graph, is differentiated in float64 with everything stored:
the truth. Then in float32, or with branches under bfloat16 autocast, by every way to hold its stream, and by PyG's
`GroupAddRev` with the same weights. Two numbers each: how far the rebuilt input is from the true one, and how far the
gradient of all block parameters is from the truth.

    python -m benchmarks.drift --write docs/drift.md     all of it: about an hour on one core
    python -m benchmarks.drift --quick                   two small depths, printed
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from revgnn import ops
from revgnn.graph import Graph
from revgnn.nn.block import Block
from revgnn.nn.convs import GCNConv
from revgnn.nn.norms import NormActDrop
from revgnn.stack import Stack

from .pages import measured_on

NORMS = ("layer", "batch")
PRECISIONS = ("float32", "bf16 autocast")
WAYS: dict[str, dict[str, Any]] = {
    "store": {"backprop": "store"},
    "float": {"backprop": "reversible"},
    "float, segments=auto": {"backprop": "reversible", "segments": "auto"},
    "exact": {"backprop": "reversible", "state": "exact"},
    "exact, segments=auto": {"backprop": "reversible", "state": "exact", "segments": "auto"},
    "exact64": {"backprop": "reversible", "state": "exact64"},
}
"""Name in the table -> arguments of `Stack`."""


@dataclass(frozen=True)
class Task:
    """A random graph with features and labels."""

    graph: Graph
    x: Tensor
    y: Tensor
    head: Tensor

    @classmethod
    def make(cls, num_nodes: int, channels: int, classes: int = 8) -> Task:
        """A symmetric graph of about 6 neighbours a node with a heavy tail, and labels that depend on them."""
        generator = torch.Generator().manual_seed(0)
        weights = (torch.arange(num_nodes) + 20.0) ** -0.6
        half = torch.multinomial(weights, 6 * num_nodes, replacement=True, generator=generator).view(2, -1)
        graph = Graph.from_edge_index(torch.cat([half, half.flip(0)], 1), num_nodes)
        x = torch.randn(num_nodes, channels, generator=generator, dtype=torch.float64)
        head = torch.randn(channels, classes, generator=generator, dtype=torch.float64) / channels**0.5
        y = (ops.spmm(x, graph, reduce="mean") @ head).argmax(1)
        return cls(graph, x, y, head)

    def loss(self, h: Tensor, num_layers: int) -> Tensor:
        """Cross-entropy of a linear head on the stream."""
        return F.cross_entropy(h.double() / num_layers**0.5 @ self.head, self.y)


@dataclass(frozen=True)
class Row:
    """One measurement."""

    norm: str
    precision: str
    depth: int
    way: str
    rebuilt: float | None
    """Relative error of the rebuilt input, the worst over the initial weights; None where nothing is rebuilt."""
    gradient: float
    """Relative error of the gradient of all block parameters against float64, its geometric mean over the weights."""


def make_stack(norm: Any, depth: int, channels: int, weights: int, **choices: Any) -> Stack:
    """The network, with the initial weights of a number."""
    torch.manual_seed(weights)
    return Stack(
        lambda width: Block(NormActDrop(width, norm), GCNConv(width, width)),
        channels=channels,
        num_layers=depth,
        coupling="grouped",
        **choices,
    )


def precise(precision: str) -> Any:
    """The context that a precision runs in."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16 autocast" else nullcontext()


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """One long vector, in float64."""
    return torch.cat([grad.flatten().double() for grad in torch.autograd.grad(loss, parameters)])


@dataclass(frozen=True)
class Case:
    """A network to be differentiated."""

    task: Task
    norm: str
    depth: int
    weights: int

    def by_stack(self, precision: str, choices: dict[str, Any]) -> tuple[float | None, Tensor]:
        """Rebuilt error and gradient of this project's stack."""
        stack = make_stack(self.norm, self.depth, self.task.x.size(1), self.weights, **choices)
        dtype = torch.float64 if precision == "float64" else torch.float32
        stack.to(dtype)
        if stack.backprop == "reversible":
            stack.drift_every = 1
        with precise(precision):
            h = stack(self.task.x.to(dtype), self.task.graph, seed=0)
        found = gradient(self.task.loss(h, self.depth), list(stack.layers.parameters()))
        return stack.drift, found

    def by_pyg(self, precision: str) -> tuple[float | None, Tensor]:
        """The same of PyG's reversible layers around the same blocks, forward and backward under the same autocast."""
        from torch_geometric.nn import GroupAddRev

        x = self.task.x.float()
        stack = make_stack(self.norm, self.depth, x.size(1), self.weights)
        layers = [
            GroupAddRev(nn.ModuleList(_Bound(block, self.task.graph) for block in blocks)) for blocks in stack.layers
        ]
        # A layer empties the storage of its input, and fills it again in the backward: it gets a copy of its own.
        h = entrance = x.clone().requires_grad_().clone()
        with precise(precision):
            for layer in layers:
                h = layer(h, torch.empty(2, 0))
            # The last output is given up in the backward; the loss reads a copy.
            found = gradient(self.task.loss(h.clone(), self.depth), list(stack.layers.parameters()))
        return float((entrance.detach() - x).norm() / x.norm()), found


class _Bound(nn.Module):
    """A block that knows its graph, for a layer that hands over an ``edge_index``."""

    def __init__(self, block: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.block, self.graph = block, graph

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.block(x, 0, self.graph)
        return out.to(x.dtype)


def has_pyg() -> bool:
    """Whether PyG is there to be measured."""
    try:
        import torch_geometric  # noqa: F401
    except ImportError:
        return False
    return True


def measure(depths: Sequence[int], num_nodes: int, channels: int, weights: int) -> Iterator[Row]:
    """All rows, as they come."""
    task = Task.make(num_nodes, channels)
    for norm in NORMS:
        for depth in depths:
            cases = [Case(task, norm, depth, k) for k in range(weights)]
            truths = [case.by_stack("float64", WAYS["store"])[1] for case in cases]
            for precision in PRECISIONS:
                for name in [*WAYS, *(["PyG GroupAddRev"] if has_pyg() else [])]:
                    found = [_run(case, precision, name) for case in cases]
                    rebuilt = [error for error, _ in found if error is not None]
                    errors = [
                        float((gradient - truth).norm() / truth.norm())
                        for (_, gradient), truth in zip(found, truths, strict=True)
                    ]
                    yield Row(norm, precision, depth, name, max(rebuilt, default=None), geometric_mean(errors))


def _run(case: Case, precision: str, name: str) -> tuple[float | None, Tensor]:
    with warnings.catch_warnings():
        # Drift is what is measured here.
        warnings.simplefilter("ignore")
        return case.by_stack(precision, WAYS[name]) if name in WAYS else case.by_pyg(precision)


def tables(rows: Sequence[Row]) -> str:
    """Markdown: one table per norm and precision, depths across."""
    text = []
    for norm in NORMS:
        for precision in PRECISIONS:
            chosen = [row for row in rows if (row.norm, row.precision) == (norm, precision)]
            depths = sorted({row.depth for row in chosen})
            names = list(dict.fromkeys(row.way for row in chosen))
            text += [f"### {norm.capitalize()}Norm, {precision}", ""]
            text += ["| stream | " + " | ".join(f"{depth} layers" for depth in depths) + " |"]
            text += ["|---" * (len(depths) + 1) + "|"]
            for name in names:
                cells = [_cell(row) for depth in depths for row in chosen if (row.way, row.depth) == (name, depth)]
                text += [f"| {name} | " + " | ".join(cells) + " |"]
            text.append("")
    return "\n".join(text)


def _cell(row: Row) -> str:
    rebuilt = "" if row.rebuilt is None else ("0 / " if row.rebuilt == 0 else f"{row.rebuilt:.0e} / ")
    return f"{rebuilt}{row.gradient:.1e}"


def page(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """The whole of docs/drift.md."""
    return PAGE.format(
        tables=tables(rows),
        nodes=options.nodes,
        channels=options.channels,
        weights=options.weights,
        machine=measured_on("cpu"),
    )


PAGE = """# Drift: how exact recomputed states and gradients are at depth

Generated by `benchmarks/drift.py`; {machine}.

A reversible network keeps its last state and recomputes the others by subtracting what each layer added. In floating
point a subtraction does not undo an addition to the last bit, and every layer on the way back magnifies the error. The
size of the error depends on depth, norm, precision, and on the number format of the stream:

| `state` | `segments` | bytes per element kept for the backward | recomputed states |
|---|---|---|---|
| `float` (default) | 1 | 4 | with rounding errors that grow |
| `float` | `auto`: L/32 | 4 L/32 | exact every 32 layers |
| `exact` | 1 | 4, and 1 more for every 8 doublings of the stream's range beyond 2 | bit for bit |
| `exact` | `auto` | 4 L/32 | bit for bit, with a new scale every 32 layers |
| `exact64` | 1 | 8 | bit for bit |

Each cell below is *relative error of the recomputed input* / *relative error of the gradient of all block parameters*.
The gradient is compared with float64 and every activation stored: if the second number of a row equals that of `store`,
recomputation costs no accuracy. The blocks are GCN (norm, ReLU, convolution) with {channels} channels in 2 groups, on a
random graph of {nodes} nodes with heavy-tailed degrees, at their initial weights, where drift is worst. For {weights}
sets of weights a cell shows the largest error of the recomputed input and the geometric mean of the gradient errors.
Gradient errors between 1e-6 and 1e-3 in float32 are mostly single ReLUs that a rounding error has flipped. They vary
with the weights, with `store` too, so a factor of 2 between two cells of that size means nothing.

{tables}
## What suffices

- **LayerNorm**: any state at every depth in float32. Under bfloat16 autocast the error of a bfloat16 gradient is larger
  than that of drift, which shows from about 448 layers on.
- **BatchNorm**: a float state in one segment loses gradients from about 112 layers on, and under autocast all of them
  at several hundred layers. `exact` is as good as `store` at every depth. A float state with `segments="auto"` drifts
  over 32 layers at most, which adds less than 1e-4 to `store`'s gradient error in float32, at L/32 times the memory.
  `exact64` has more digits than the branches, so the error that remains is that of the branches; nothing measured here
  needs it.
- **To check your own run**, `Stack(drift_every=n)` measures the error of the recomputed input every n steps and warns
  above 1e-4; `check_inverse` returns it layer by layer.
- **All of this requires a block that gives the same bits twice.** Kernels that add in a varying order (atomics on a
  GPU) do not: an exact state is then off by those last bits, and `check_inverse` says so.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="depths 2 and 6 on 40 nodes")
    parser.add_argument("--depths", type=int, nargs="+", default=[28, 112, 448, 1001])
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--weights", type=int, default=5, help="sets of initial weights")
    parser.add_argument("--write", type=Path, help="the page to write; without it, it is printed")
    options = parser.parse_args(arguments)
    if options.quick:
        options.depths, options.nodes, options.channels, options.weights = [2, 6], 40, 16, 1
    rows = []
    for row in measure(options.depths, options.nodes, options.channels, options.weights):
        print(json.dumps(vars(row)), file=sys.stderr, flush=True)
        rows.append(row)
    text = page(rows, options)
    if options.write is None:
        print(text)
    else:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
