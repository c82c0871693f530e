"""Whether kernels may be called on given tensors in place, and the dtype of the rows that they then work on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Graph
from .checks import is_readable, is_transformed
from .choice import backend_for
from .tracing import is_traced


def runs_in_place(x: Tensor, graph: Graph) -> bool:
    """Whether the functions of `kernels`, which write into given tensors without an autograd graph, may be called for
    these arguments: float32 or float64, outside torch.compile; under autocast float32, with rows of `row_dtype`.

    Examples:
        >>> import torch
        >>> from revgnn import Graph, ops
        >>> graph = Graph.from_edge_index(torch.tensor([[0, 1], [2, 2]]), 3)
        >>> ops.runs_in_place(torch.randn(3, 4, dtype=torch.float16), graph)
        False
    """
    device = x.device
    return (
        x.dtype in (torch.float32, torch.float64)
        and not is_traced(x)
        and (
            not torch.is_autocast_enabled(device.type)
            or (row_dtype(x) is torch.bfloat16 and backend_for(device).narrow_rows)
        )
        and x.dim() == 2
        and x.size(0) == graph.num_nodes > 0
        and device == graph.device
        and graph.indices.dtype == torch.int32
        and x.size(1) > 0
        and bool(backend_for(device).names)
        and not is_transformed()
        and is_readable(x)
    )


def row_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a block's rows between its norm and its products: bfloat16 for float32 under autocast to it,
    else that of ``x``; autocast to float16, which the kernels do not have, leaves float32.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     print(ops.row_dtype(torch.ones(1)))
        torch.bfloat16
    """
    if x.dtype is torch.float32 and torch.is_autocast_enabled(x.device.type):
        narrow = torch.get_autocast_dtype(x.device.type)
        return narrow if narrow is torch.bfloat16 else x.dtype
    return x.dtype
