"""The interface of graph convolutions, and the checks and conversions of inputs that they share"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_uniform_, zeros_

from ...graph import Graph, as_graph
from ...stack import WorkSpace, uncompiled


class EdgeMap(NamedTuple):
    """An affine map of edge features, not applied yet: ``e W^T + b``.

    A network passes its shared edge encoder [E, K] -> [E, D] to every convolution in this form. The convolution folds
    it into its own linear map [D -> d]: one K -> d product, and no [E, D] tensor.
    """

    weight: Tensor
    """[D, K]"""
    bias: Tensor | None
    """[D]"""


class Conv(Protocol):
    """The interface of a graph convolution."""

    takes_edge_attr: bool

    def __call__(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[N, in] -> [N, out]."""
        ...


Gradients = dict[Tensor | None, Tensor]
"""Gradients by parameter."""


@runtime_checkable
class FusedConv(Protocol):
    """A convolution with a fused evaluation: value and gradients without autograd, in buffers of a `WorkSpace`.

    `Block` uses it where no graph has to be kept, with a `Graph` and an input ``h`` in the work space, which the
    convolution may overwrite. ``to`` and ``sign`` are those of `FusedBlock`.
    """

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation supports these arguments, without edge features."""
        ...

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Put the value into ``to``."""
        ...

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Put the value into ``to`` and compute the gradients.

        Returns: ``J^T cotangent``, in the work space and possibly in the memory of ``h``; the parameters' gradients.
        """
        ...


def convert_inputs(x: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None) -> tuple[Graph, Tensor | None]:
    """Convert a graph or ``edge_index`` to a `Graph`, and edge features to its edge order.

    torch.compile takes a `Graph` without a graph break.
    """
    if isinstance(graph, Tensor) and uncompiled.is_compiled():
        converted: tuple[Graph, Tensor | None] = uncompiled.call(convert_inputs, x, graph, edge_attr)
        return converted
    found = as_graph(graph, x.size(0), x.device)
    if edge_attr is not None and isinstance(graph, Tensor):
        edge_attr = found.sort_edges(edge_attr)
    return found, edge_attr


def refuse_edge_attr(conv: nn.Module, edge_attr: Tensor | None) -> None:
    """Raise ValueError if a convolution without edge features gets some."""
    if edge_attr is not None:
        raise ValueError(
            f"{type(conv).__name__} takes no edge features, got {list(edge_attr.shape)}; use GENConv, or drop them"
        )


def draw_glorot(lin: nn.Linear) -> None:
    """Initialise a linear map as PyG's GCNConv does: uniform Glorot weights and zero bias."""
    xavier_uniform_(lin.weight)
    if lin.bias is not None:
        zeros_(lin.bias)


def empty_grads(*parameters: Tensor | None) -> Gradients:
    """Allocate the gradients of parameters."""
    return {parameter: torch.empty_like(parameter) for parameter in parameters if parameter is not None}
