"""What a block asks of a graph convolution, and what all of them do at their border."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_uniform_, zeros_

from ...graph import Graph, as_graph
from ...stack import WorkSpace, uncompiled


class EdgeMap(NamedTuple):
    """An affine map of edge features that has not been applied: ``e W^T + b``.

    A network's shared edge encoder [E, K] -> [E, D] reaches every conv in this form, to be folded into the conv's own
    linear map [D -> d]: one K -> d product, and no [E, D] tensor.
    """

    weight: Tensor
    """[D, K]"""
    bias: Tensor | None
    """[D]"""


class Conv(Protocol):
    """What a block asks of a graph convolution."""

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
"""Of parameters, by parameter."""


@runtime_checkable
class FusedConv(Protocol):
    """A convolution that evaluates and differentiates itself without autograd, in a given work space.

    Called by `Block` where no graph has to be kept: with a `Graph`, and with what `Block` made in the work space, which
    it may overwrite. Values go to ``to`` as `FusedBlock` says.
    """

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether it can do so for these arguments, without edge features."""
        ...

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Send the value to ``to``."""
        ...

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Send the value to ``to``.

        Returns: ``J^T cotangent``, in the work space and perhaps where ``h`` was; the parameters' gradients.
        """
        ...


def border(x: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None) -> tuple[Graph, Tensor | None]:
    """A graph and edge features in its order, from either convention; torch.compile takes a `Graph` without a
    break."""
    if isinstance(graph, Tensor) and uncompiled.is_compiled():
        converted: tuple[Graph, Tensor | None] = uncompiled.call(border, x, graph, edge_attr)
        return converted
    found = as_graph(graph, x.size(0), x.device)
    if edge_attr is not None and isinstance(graph, Tensor):
        edge_attr = found.sort_edges(edge_attr)
    return found, edge_attr


def refuse_edge_attr(conv: nn.Module, edge_attr: Tensor | None) -> None:
    if edge_attr is not None:
        raise ValueError(
            f"{type(conv).__name__} takes no edge features, got {list(edge_attr.shape)}; use GENConv, or drop them"
        )


def draw_glorot(lin: nn.Linear) -> None:
    """Draw a linear map as PyG's GCNConv does: Glorot weights, uniform, and zero bias."""
    xavier_uniform_(lin.weight)
    if lin.bias is not None:
        zeros_(lin.bias)


def empty_grads(*parameters: Tensor | None) -> Gradients:
    """Memory for the gradients of parameters, by parameter."""
    return {parameter: torch.empty_like(parameter) for parameter in parameters if parameter is not None}
