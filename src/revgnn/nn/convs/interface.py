"""The interface of graph convolutions, and the checks and conversions of inputs that they share"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_uniform_, zeros_

from ...graph import Graph, as_graph
from ...stack import WorkSpace, keep_forwards, uncompiled


class EdgeMap(NamedTuple):
    """An affine map of edge features, not applied yet: ``e W^T + b``.

    A network passes its shared edge encoder [E, K] -> [E, D] to every convolution in this form. The convolution folds
    it into its own linear map [D -> d]: one K -> d product, and no [E, D] tensor.
    """

    weight: Tensor
    """[D, K]"""
    bias: Tensor | None
    """[D]"""


class Conv(nn.Module):
    """The interface of a graph convolution, and what a network must know to be built from one.

    Made as ``Conv(in_channels, out_channels)``, with ``edge_channels=`` (K or ``None``) where it reads edge features,
    and with ``options=`` where it has an `options_type`. It keeps the rows: [N, in] -> [N, out], and row i depends on
    the rows of node i and its sources alone. Degrees of sources are those of `Graph.trimmed_from` where it is set.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> from revgnn.nn import Conv
        >>> class MeanConv(Conv):
        ...     def __init__(self, in_channels, out_channels):
        ...         super().__init__()
        ...         self.lin = torch.nn.Linear(in_channels, out_channels)
        ...
        ...     def forward(self, x, graph, edge_attr=None, *, edge_map=None, seed=None):
        ...         return self.lin(ops.spmm(x, graph, reduce="mean"))
    """

    takes_edge_attr: ClassVar[bool] = False
    """Whether it reads edge features."""
    takes_edge_weight: ClassVar[bool] = False
    """Whether it weighs messages by the weights of a `Graph.weighted`."""
    calls_kernels_alone: ClassVar[bool] = False
    """Whether its fused evaluation, without edge features, does nothing but call kernels, whose operands are
    parameters, rows, and what the graph and the work space keep."""
    options_type: ClassVar[type | None] = None
    """The dataclass of its options, which is the type of a field of `ModelConfig`; ``None``: it has none."""
    width_divisor: ClassVar[str | None] = None
    """Field of its options that must divide the width of the stream; ``None``: any width will do."""
    last_options: ClassVar[Mapping[str, object] | None] = None
    """Fields of its options that differ in the last layer, where a network begins and ends with this convolution
    itself; ``None``: it begins with an encoder and ends with a linear map."""

    def __init_subclass__(cls, **more: object) -> None:
        super().__init_subclass__(**more)
        keep_forwards(cls)

    def forward(
        self,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        *,
        edge_map: EdgeMap | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Compute one layer.

        Args:
            x: [N, in].
            graph: incoming edges by destination; or PyG's ``edge_index``, which `border` makes one of.
            edge_attr: [E, K] in the caller's order: that of ``edge_index``, also of one that the graph was made from.
            edge_map: a shared encoder of ``edge_attr`` that is not applied yet.
            seed: of every random choice of the layer.
        Returns: [N, out].
        """
        raise NotImplementedError

    def over(self, edge_attr: Tensor | None, edge_map: EdgeMap | None) -> FusedConv | None:
        """Return a fused evaluation with edge features, for `Block`; ``None``: autograd differentiates them.

        Its gradients may have ``edge_map``'s tensors as keys beside the parameters.
        """
        return None


Gradients = dict[Tensor | None, Tensor]
"""Gradients by parameter."""


@runtime_checkable
class FusedConv(Protocol):
    """A convolution with a fused evaluation: value and gradients without autograd, in buffers of a `WorkSpace`.

    `Block` uses it where no graph has to be kept, with a `Graph` and an input ``h`` in the work space, which the
    convolution may overwrite. ``to`` and ``sign`` are those of `FusedBlock`. Under autocast ``h`` and its gradient are
    bfloat16; ``to``, ``cotangent`` and the parameters stay float32.
    """

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation supports these arguments; here ``h`` has the parameters' dtype."""
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
    """Convert a graph or ``edge_index`` to a `Graph`, and edge features from the caller's order of edges to its own.

    torch.compile takes a `Graph` without a graph break.
    """
    if isinstance(graph, Tensor) and uncompiled.is_compiled():
        return uncompiled.call(convert_inputs, x, graph, edge_attr)
    found = as_graph(graph, x.size(0), x.device)
    if edge_attr is not None:
        edge_attr = found.sort_edges(edge_attr)
    return found, edge_attr


def looped(graph: Graph) -> Graph:
    """Return `Graph.self_looped`; torch.compile finds loops that are not cached behind a graph break."""
    if uncompiled.is_compiled() and not graph.has_loops_ready:
        return uncompiled.call(looped, graph)
    return graph.self_looped


def refuse_edge_attr(conv: nn.Module, edge_attr: Tensor | None) -> None:
    """Raise ValueError if a convolution without edge features gets some."""
    if edge_attr is not None:
        raise ValueError(
            f"{type(conv).__name__} takes no edge features, got {list(edge_attr.shape)}; use GENConv, or drop them"
        )


def refuse_edge_weight(conv: nn.Module, graph: Graph) -> None:
    """Raise ValueError if a convolution that reads no weights gets a weighted graph."""
    if graph.edge_weight is not None:
        raise ValueError(
            f"{type(conv).__name__} reads no edge weights, and the graph has some; use GCNConv or SAGEConv, or a graph "
            "without weights"
        )


def draw_glorot(lin: nn.Linear) -> None:
    """Initialise a linear map as PyG's GCNConv does: uniform Glorot weights and zero bias."""
    xavier_uniform_(lin.weight)
    if lin.bias is not None:
        zeros_(lin.bias)


def empty_grads(*parameters: Tensor | None) -> Gradients:
    """Allocate the gradients of parameters."""
    return {parameter: torch.empty_like(parameter) for parameter in parameters if parameter is not None}
