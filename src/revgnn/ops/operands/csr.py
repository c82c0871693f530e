"""The `Csr` type: the edges that a kernel iterates, and the dtypes that kernels support."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import dense, sum_dtype

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""Element types that the kernels have code for."""

Fields = tuple[int, ...]
"""The fields of a kernel's C struct up to its last operand: sizes, addresses and row strides."""


@dataclass(frozen=True, eq=False, slots=True)
class Csr:
    """The edges of one direction of a graph, as checked plain tensors."""

    indptr: Tensor
    """[N+1] int32."""
    indices: Tensor
    """[E] int32."""
    edge_ids: Tensor | None = None
    """[E] int64 position of each edge's values; ``None``: the edge's own position."""
    num_sources: int | None = None
    """Number of source rows; ``None``: N."""
    on: tuple[torch.device, int, int, int] = field(init=False, repr=False)
    """The device, N, E, and how many rows the indices name."""

    def __post_init__(self) -> None:
        device, num_rows, num_edges = self.indptr.device, self.indptr.numel() - 1, self.indices.numel()
        dense(self.indptr, "indptr", torch.int32, device, num_rows + 1)
        dense(self.indices, "indices", torch.int32, device, num_edges)
        dense(self.edge_ids, "edge_ids", torch.int64, device, num_edges)
        ends = self.indptr[:: max(num_rows, 1)].tolist() if device.type == "cpu" else [0, num_edges]
        if not (ends and ends[0] == 0 and ends[-1] == num_edges):
            raise ValueError(f"indptr must go from 0 to the {num_edges} edges; Graph.from_edge_index makes it so")
        sources = num_rows if self.num_sources is None else self.num_sources
        object.__setattr__(self, "on", (device, num_rows, num_edges, sources))

    def fields(self) -> Fields:
        """The fields of the C struct."""
        _, num_rows, num_edges, _ = self.on
        edge_ids = 0 if self.edge_ids is None else self.edge_ids.data_ptr()
        return num_rows, num_edges, self.indptr.data_ptr(), self.indices.data_ptr(), edge_ids


def types_of(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The type of the elements, and of sums over them."""
    found = _TYPES.get(x.dtype)
    if found is None:
        raise TypeError(f"the kernels have code for float32, bfloat16 and float64, got {x.dtype}; use the ops")
    return found


_TYPES = {dtype: (dtype, sum_dtype(dtype)) for dtype in DTYPES}
