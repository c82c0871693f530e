"""Chains of `GroupAddRev` and their stored twins, for the tests of several files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

from revgnn.interop import GroupAddRev

N, E, D = 20, 61, 12


class Example(nn.Module):
    """The block of PyG's example: norm, ReLU, a mask that comes as an argument, convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = pyg.SAGEConv(channels, channels)

    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        self.conv.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        x = self.norm(x).relu()
        if self.training and dropout_mask is not None:
            x = x * dropout_mask
        return self.conv(x, edge_index)


class Moving(nn.Module):
    """A block with everything that moves: batch statistics, and dropout of its own, as a function and as a module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.conv = pyg.SAGEConv(channels, channels)
        self.drop = nn.Dropout(0.3)
        # Not a plain number, which is put back after an evaluation that repeats another one.
        self.calls: list[None] = []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.calls.append(None)
        x = nn.functional.dropout(self.norm(x).relu(), 0.3, self.training)
        return self.drop(self.conv(x, edge_index))


def graph(num_nodes: int = N, num_edges: int = E) -> Tensor:
    return torch.randint(num_nodes, (2, num_edges), generator=torch.Generator().manual_seed(0))


def features(num_nodes: int = N, channels: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_nodes, channels, dtype=torch.double, generator=generator).requires_grad_()


def make_layers(block: Callable[[int], nn.Module] = Example, depth: int = 4, num_groups: int = 2) -> nn.ModuleList:
    layers = [GroupAddRev(block(D // num_groups), num_groups=num_groups) for _ in range(depth)]
    return nn.ModuleList(layers).double()


def chain(layers: Sequence[nn.Module], x: Tensor, *args: Any) -> Tensor:
    for layer in layers:
        x = layer(x, *args)
    return x


def stored(layers: nn.Module) -> nn.Module:
    """The same layers, differentiated plainly by autograd: the oracle."""
    twin = copy.deepcopy(layers)
    for module in twin.modules():
        if isinstance(module, GroupAddRev):
            module.disable = True
    return twin


def weighted(y: Tensor, seed: int = 2) -> Tensor:
    """A loss with a random cotangent."""
    return (y * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))).sum()


Program = Callable[[nn.ModuleList, Tensor], Tensor | Sequence[Tensor | None]]


def assert_as_stored(layers: nn.ModuleList, program: Program, tolerance: float = 1e-12) -> None:
    """Run a program on the layers and on their stored twin: gradients (or what it returns), buffers, random state."""
    found = []
    for variant in (layers, stored(layers)):
        torch.manual_seed(5)
        x = features()
        result = program(variant, x)
        if isinstance(result, Tensor):
            wanted = [x, *(p for p in variant.parameters() if p.requires_grad)]
            result = torch.autograd.grad(result, wanted, allow_unused=True)
        found.append([*result, *variant.buffers(), torch.rand(3)])
    for actual, expected in zip(*found, strict=True):
        assert (actual is None) == (expected is None)
        if actual is not None:
            difference = (actual.detach() - expected.detach()).double().norm()
            assert float(difference) <= tolerance * max(1.0, float(expected.detach().double().norm()))
