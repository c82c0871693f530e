"""Graph convolutions with their parameters, by name in `CONVS`.

A convolution takes ``(x, graph, edge_attr=None)``, the graph as `Graph` or as PyG's ``edge_index``; a `FusedConv` can
also be evaluated and differentiated without autograd. torch.compile traces a convolution of a `Graph` fully; it
converts an ``edge_index`` behind a graph break.
"""

from __future__ import annotations

import inspect

from ...by_name import find_object, is_name
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
    "find_conv",
]

CONVS: dict[str, type[Conv]] = {"gcn": GCNConv, "sage": SAGEConv, "gen": GENConv, "gat": GATConv}
"""Name -> class. What is particular about one is declared on the class: see `Conv`.

Examples:
    >>> from revgnn.nn import CONVS
    >>> sorted(CONVS)
    ['gat', 'gcn', 'gen', 'sage']
"""


def find_conv(name: str) -> type[Conv]:
    """Give the convolution of a name.

    Args:
        name: a key of `CONVS`, or ``package.module:Name`` of a class of one's own, which is imported.
    Raises: ValueError: there is none, it cannot be imported, or it is no `Conv`.
    """
    if name in CONVS:
        return CONVS[name]
    if not is_name(name):
        raise ValueError(
            f"conv={name!r} is unknown; choose one of {', '.join(CONVS)}, or name a class as 'package.module:Name'"
        )
    try:
        found = find_object(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"conv={name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Conv)):
        raise ValueError(f"conv={name!r} must be a subclass of revgnn.nn.Conv, got {found!r:.80}")
    try:
        inspect.signature(found.forward).bind(None, None, None, None, edge_map=None, seed=None)
    except TypeError as error:
        raise ValueError(
            f"conv={name!r} must have forward(self, x, graph, edge_attr=None, *, edge_map=None, seed=None): {error}"
        ) from error
    if found.forward is Conv.forward:
        raise ValueError(f"conv={name!r} must have a forward(x, graph, edge_attr) of its own")
    return found
