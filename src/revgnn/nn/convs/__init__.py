"""Graph convolutions with their parameters, by name in `CONVS`.

A convolution takes ``(x, graph, edge_attr=None)``, the graph as `Graph` or as PyG's ``edge_index``; a `FusedConv` can
also be evaluated and differentiated without autograd. torch.compile traces a convolution of a `Graph` fully; it
converts an ``edge_index`` behind a graph break.
"""

from __future__ import annotations

from torch import nn

from .gat import GATConv, GATOptions
from .gcn import GCNConv
from .gen import GENConv, GENOptions
from .interface import Conv, EdgeMap, FusedConv
from .sage import SAGEConv, SAGEOptions

__all__ = [
    "CONVS",
    "Conv",
    "EdgeMap",
    "FusedConv",
    "GATConv",
    "GATOptions",
    "GCNConv",
    "GENConv",
    "GENOptions",
    "SAGEConv",
    "SAGEOptions",
]

CONVS: dict[str, type[nn.Module]] = {"gcn": GCNConv, "sage": SAGEConv, "gen": GENConv, "gat": GATConv}
