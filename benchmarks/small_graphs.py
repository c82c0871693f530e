"""Measure what a layer and group of a deep network on a small graph costs beside its kernels.

    python -m benchmarks.small_graphs [--nodes 1797] [--layers 1001]

One thread, CPU time, medians of steps (forward and backward) in turns. "kernels" is the time inside the kernels,
"autograd" that of torch for a function that has as many parameters and allocates their gradients, "rest" what is left.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.nn.model import ModelConfig, build_model
from revgnn.ops import recording

_CHANNELS, _FEATURES, _CLASSES, _GROUPS = 64, 64, 10, 2


def main() -> None:
    """Print a line for every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1797, help="nodes, of six edges each")
    parser.add_argument("--layers", type=int, default=1001)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--parts", default="gcn layer,gcn batch,sage layer,sage batch", help="convolutions and norms")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"us a layer and group, {arguments.layers} layers, {arguments.nodes} nodes: all, kernels, autograd, rest")
    for part in arguments.parts.split(","):
        whole, kernels, autograd = _measure(*part.split(), arguments)
        print(f"{part:12s} {whole:8.1f} {kernels:8.1f} {autograd:8.1f} {whole - kernels - autograd:8.1f}", flush=True)


def _measure(conv: str, norm: str, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """Return the microseconds of a layer and group: of the step, of the kernels, of autograd."""
    edges = torch.randint(arguments.nodes, (2, 3 * arguments.nodes), generator=torch.Generator().manual_seed(0))
    graph = Graph.from_edge_index(torch.cat([edges, edges.flip(0)], 1), arguments.nodes)
    sizes = {"num_layers": arguments.layers, "hidden_channels": _CHANNELS, "num_groups": _GROUPS}
    config = ModelConfig(conv=conv, norm=norm, dropout=0.2, backprop="reversible", **sizes)  # type: ignore[arg-type]
    model = build_model(config, GraphInfo(in_channels=_FEATURES, num_outputs=_CLASSES))
    x, y = torch.randn(arguments.nodes, _FEATURES), torch.randint(_CLASSES, (arguments.nodes,))
    parameters, leaf = list(model.stack.parameters()), torch.zeros(1, requires_grad=True)
    inside: list[float] = []
    call_all = recording.call_all

    def timed(*values: object) -> None:
        begin = time.process_time()
        call_all(*values)  # type: ignore[arg-type]
        inside.append(time.process_time() - begin)

    def step() -> None:
        inside.clear()
        for parameter in model.parameters():
            parameter.grad = None
        torch.nn.functional.cross_entropy(model(x, graph, seed=1), y).backward()

    def nothing() -> None:
        for parameter in parameters:
            parameter.grad = None
        _Nothing.apply(leaf, *parameters).backward()  # type: ignore[no-untyped-call]

    with mock.patch.object(recording, "call_all", timed):
        found = [(_seconds(step), sum(inside), _seconds(nothing)) for _ in range(2 + arguments.steps)]
    each = 1e6 / (_GROUPS * arguments.layers)
    whole, kernels, autograd = (statistics.median(times) * each for times in zip(*found[2:], strict=True))
    return whole, kernels, autograd


def _seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


class _Nothing(torch.autograd.Function):
    """Takes parameters, and gives them gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        parameters: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad, *map(torch.empty_like, parameters)


if __name__ == "__main__":
    main()
