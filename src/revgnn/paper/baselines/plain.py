"""GCN and GraphSAGE as in OGB's examples, from PyG's modules, and the sparse matrices that those take.

Source: Hu et al. 2020 (arXiv:2005.00687), examples/nodeproppred of the ogb package.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.readers.pyg import quiet_pyg
from ...graph import Graph


class PlainNet(nn.Module):
    """Convolutions with BatchNorm, ReLU and dropout between them: ``x = drop(relu(norm(conv(x))))``, then ``conv(x)``.

    Args:
        convs: PyG modules called as ``conv(x, adjacency)``.
        widths: F, the hidden widths, T.
        norm: whether to use BatchNorm.
        dropout: probability of dropping.
        normalised: whether the convolutions take ``D^-1/2 (A + I) D^-1/2``, else A.
    """

    def __init__(
        self, convs: Iterable[nn.Module], widths: Sequence[int], *, norm: bool, dropout: float, normalised: bool
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for width in widths[1:-1])
        self.dropout, self.normalised = dropout, normalised

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        matrix = (normalised_adjacency if self.normalised else adjacency)(graph, x.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = F.dropout(norm(conv(x, matrix)).relu(), self.dropout, self.training)
        out: Tensor = self.convs[-1](x, matrix)
        return out


def plain_gcn(widths: Sequence[int], *, norm: bool, dropout: float) -> PlainNet:
    """Build a GCN; the adjacency is normalised once for all layers."""
    with quiet_pyg():
        from torch_geometric.nn import GCNConv
    convs = (GCNConv(a, b, normalize=False) for a, b in pairwise(widths))
    return PlainNet(convs, widths, norm=norm, dropout=dropout, normalised=True)


def plain_sage(widths: Sequence[int], *, norm: bool, dropout: float) -> PlainNet:
    """Build a GraphSAGE with mean aggregation."""
    with quiet_pyg():
        from torch_geometric.nn import SAGEConv
    convs = (SAGEConv(a, b) for a, b in pairwise(widths))
    return PlainNet(convs, widths, norm=norm, dropout=dropout, normalised=False)


def adjacency(graph: Graph, dtype: torch.dtype) -> Tensor:
    """Return A for PyG's modules: [N, N] sparse CSR with destinations as rows; cached on the graph."""

    def make() -> Tensor:
        return _csr(graph, torch.ones(graph.num_edges, dtype=dtype, device=graph.device))

    matrix: Tensor = graph.keep(f"pyg adjacency {dtype}", make)
    return matrix


def normalised_adjacency(graph: Graph, dtype: torch.dtype) -> Tensor:
    """Return ``D^-1/2 (A + I) D^-1/2`` in the same form, normalised by PyG's ``gcn_norm``; cached on the graph."""

    def make() -> Tensor:
        with quiet_pyg():
            from torch_geometric.nn.conv.gcn_conv import gcn_norm
        looped = graph.self_looped
        # The graph already has self loops; PyG would add them in a new edge order.
        _, weight = gcn_norm(looped.edge_index, None, looped.num_nodes, add_self_loops=False, dtype=dtype)
        return _csr(looped, weight)

    matrix: Tensor = graph.keep(f"pyg normalised adjacency {dtype}", make)
    return matrix


def _csr(graph: Graph, values: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # torch warns on first use that CSR tensors are in beta.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            graph.indptr.long(), graph.indices.long(), values, (graph.num_nodes, graph.num_nodes)
        )
