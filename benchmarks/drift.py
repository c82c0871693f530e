"""What the gradients of a reversible network are worth at depth: the generator of docs/drift.md.

A stack of GCN blocks at its initial weights, on a random graph, is differentiated in float64 with everything stored:
the truth. Then in float32, or with branches under bfloat16 autocast, by every way to hold its stream, and by PyG's
`GroupAddRev` with the same weights. Two numbers each: how far the rebuilt input is from the true one, and how far the
gradient of all block parameters is from the truth.

    python benchmarks/drift.py --write docs/drift.md     all of it: about an hour on one core
    python benchmarks/drift.py --quick                   two small depths, printed
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
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
    """Relative error of the rebuilt input; None where nothing is rebuilt."""
    gradient: float
    """Relative error of the gradient of all block parameters, against float64."""


def make_stack(norm: Any, depth: int, channels: int, **choices: Any) -> Stack:
    """The network, always with the same weights."""
    torch.manual_seed(0)
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


def by_stack(task: Task, norm: str, precision: str, depth: int, choices: dict[str, Any]) -> tuple[float | None, Tensor]:
    """Rebuilt error and gradient of this project's stack."""
    stack = make_stack(norm, depth, task.x.size(1), **choices)
    dtype = torch.float64 if precision == "float64" else torch.float32
    stack.to(dtype)
    if stack.backprop == "reversible":
        stack.drift_every = 1
    with precise(precision):
        h = stack(task.x.to(dtype), task.graph, seed=0)
    found = gradient(task.loss(h, depth), list(stack.layers.parameters()))
    return stack.drift, found


def by_pyg(task: Task, norm: str, precision: str, depth: int) -> tuple[float | None, Tensor]:
    """The same of PyG's reversible layers around the same blocks, forward and backward under the same autocast."""
    from torch_geometric.nn import GroupAddRev

    stack = make_stack(norm, depth, task.x.size(1))
    blocks = [GroupAddRev(nn.ModuleList(_Bound(block, task.graph) for block in layer)) for layer in stack.layers]
    # A layer empties the storage of its input, and fills it again in the backward: it gets a copy of its own.
    x = task.x.float().requires_grad_()
    h = entrance = x.clone()
    with precise(precision):
        for block in blocks:
            h = block(h, torch.empty(2, 0))
        # The last output is given up in the backward; the loss reads a copy.
        found = gradient(task.loss(h.clone(), depth), list(stack.layers.parameters()))
    return float((entrance.detach().double() - task.x).norm() / task.x.norm()), found


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


def measure(depths: Sequence[int], num_nodes: int, channels: int) -> Iterator[Row]:
    """All rows, as they come."""
    task = Task.make(num_nodes, channels)
    for norm in NORMS:
        for depth in depths:
            _, truth = by_stack(task, norm, "float64", depth, WAYS["store"])
            for precision in PRECISIONS:
                for name, way in _ways(task, norm, precision, depth).items():
                    with warnings.catch_warnings():
                        # Drift is what is measured here.
                        warnings.simplefilter("ignore")
                        rebuilt, found = way()
                    yield Row(norm, precision, depth, name, rebuilt, float((found - truth).norm() / truth.norm()))


def _ways(task: Task, norm: str, precision: str, depth: int) -> dict[str, Callable[[], tuple[float | None, Tensor]]]:
    ways: dict[str, Callable[[], tuple[float | None, Tensor]]] = {
        name: lambda choices=choices: by_stack(task, norm, precision, depth, choices)  # type: ignore[misc]
        for name, choices in WAYS.items()
    }
    if has_pyg():
        ways["PyG GroupAddRev"] = lambda: by_pyg(task, norm, precision, depth)
    return ways


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


def page(rows: Sequence[Row], num_nodes: int, channels: int) -> str:
    """The whole of docs/drift.md."""
    return PAGE.format(
        tables=tables(rows),
        num_nodes=num_nodes,
        channels=channels,
        date=datetime.date.today().isoformat(),
        machine=f"{platform.machine()}, {_processor()}, {torch.get_num_threads()} thread(s)",
        versions=", ".join(_versions()),
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    yield f"torch {torch.__version__}"
    if has_pyg():
        import torch_geometric

        yield f"torch_geometric {torch_geometric.__version__}"


PAGE = """# Drift: what rebuilt states and gradients are worth at depth

Generated by `benchmarks/drift.py` on {date}; {machine}; {versions}.

{tables}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="depths 2 and 6 on 40 nodes")
    parser.add_argument("--depths", type=int, nargs="+", default=[28, 112, 448, 1001])
    parser.add_argument("--nodes", type=int, default=400)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--write", type=Path, help="the page to write; without it, it is printed")
    options = parser.parse_args(arguments)
    if options.quick:
        options.depths, options.nodes, options.channels = [2, 6], 40, 16
    rows = []
    for row in measure(options.depths, options.nodes, options.channels):
        print(json.dumps(vars(row)), file=sys.stderr, flush=True)
        rows.append(row)
    text = page(rows, options.nodes, options.channels)
    if options.write is None:
        print(text)
    else:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
