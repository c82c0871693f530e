"""The graph convolutions, each with its parameters: `CONVS` names them.

A convolution takes ``(x, graph, edge_attr=None)``, the graph as `Graph` or as PyG's ``edge_index``; one that is a
`FusedConv` too can be evaluated and differentiated without autograd. torch.compile traces all of it where it gets a
`Graph`; an ``edge_index`` is converted in a break before.
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
