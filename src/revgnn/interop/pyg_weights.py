"""Convert a PyG convolution with its weights to the one of this package that computes the same, and back.

| PyG | here | what is refused |
|---|---|---|
| `GCNConv` | `GCNConv` | improved, normalize=False |
| `SAGEConv` | `SAGEConv` | normalize, project, other aggregations than mean, sum and max |
| `GATConv` | `GATConv` | concat=False with several heads, dropout, edge_dim |
| `GENConv` | `GENConv` | in_channels other than out_channels, expansion other than 2, instance norms, power means |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .. import ops
from ..nn.convs import Conv, GATConv, GATOptions, GCNConv, GENConv, GENOptions, SAGEConv, SAGEOptions

if TYPE_CHECKING:
    from torch_geometric.nn import MessagePassing


def from_pyg(conv: MessagePassing) -> Conv:
    """Make the convolution that computes what a PyG convolution computes, with a copy of its weights.

    Args:
        conv: PyG's `GCNConv`, `SAGEConv`, `GATConv` or `GENConv` of one width of features; not a subclass.
    Returns: ours, on the same device, with the same dtype and mode.
    Raises: TypeError: another class. ValueError: an option that ours does not have; the message names it.

    Examples:
        >>> import torch
        >>> import torch_geometric.nn as pyg
        >>> import revgnn
        >>> theirs, x, edge_index = pyg.GCNConv(4, 8), torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])
        >>> torch.allclose(revgnn.from_pyg(theirs)(x, edge_index), theirs(x, edge_index), atol=1e-6)
        True
    """
    kind = type(conv)
    made = _FROM.get(kind.__name__) if kind.__module__.startswith("torch_geometric.") else None
    if made is None:
        raise TypeError(
            f"from_pyg converts PyG's {', '.join(_FROM)}, got {kind.__module__}.{kind.__name__}; of a Data "
            "revgnn.dataset_from_pyg makes a data set, and revgnn.reversible takes whole models"
        )
    _check(isinstance(conv.in_channels, int), "in_channels of two widths: bipartite graphs are not here")
    _check(conv.in_channels > 0, "in_channels=-1 is known after a first call; call the convolution once")
    _check(isinstance(conv.aggr, str) or conv.aggr is None, f"aggr={conv.aggr!r}, of several aggregations")
    _check(conv.flow == "source_to_target", f"flow={conv.flow!r}: messages flow from source to target here")
    ours, theirs = made(conv), conv.state_dict()
    names = _names(ours)
    own = ours.state_dict()
    ours.load_state_dict({name: theirs[names[name]].reshape(own[name].shape) for name in own})
    some = next(conv.parameters())
    return ours.to(some.device, some.dtype).train(conv.training)


def to_pyg(conv: Conv) -> MessagePassing:
    """Make the PyG convolution that computes what one of this package computes, with a copy of its weights.

    Args:
        conv: our `GCNConv`, `SAGEConv`, `GATConv` or `GENConv`.
    Returns: PyG's, on the same device, with the same dtype and mode.
    Raises: TypeError: another class. ValueError: an option that PyG's does not have; the message names it.

    Examples:
        >>> import revgnn
        >>> type(revgnn.to_pyg(revgnn.SAGEConv(4, 8))).__module__
        'torch_geometric.nn.conv.sage_conv'
    """
    made = _TO.get(type(conv))
    if made is None:
        raise TypeError(f"to_pyg converts {', '.join(kind.__name__ for kind in _TO)}, got {type(conv).__name__}")
    theirs, ours = made(conv), conv.state_dict()
    own, names = theirs.state_dict(), _names(conv)
    theirs.load_state_dict(own | {names[name]: ours[name].reshape(own[names[name]].shape) for name in ours})
    some = next(conv.parameters())
    converted: MessagePassing = theirs.to(some.device, some.dtype).train(conv.training)
    return converted


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"this convolution has no equal on the other side: {what}")


# ------------------------------------------------------------------ names of weights: ours -> theirs
_RENAMED: Mapping[type[Conv], tuple[tuple[str, str], ...]] = {
    GCNConv: ((r"^lin\.bias$", "bias"),),
    SAGEConv: (),
    GATConv: ((r"^lin_root\.", "res."), (r"^attn_(src|dst)$", r"att_\1")),
    GENConv: (
        (r"^t$", "aggr_module.t"),
        (r"^msg_scale$", "msg_norm.scale"),
    ),
}


def _names(conv: Conv) -> dict[str, str]:
    """Return the name of each of our tensors in PyG's state."""
    found = {}
    for name in conv.state_dict():
        new = name
        for pattern, replacement in _RENAMED[type(conv)]:
            new = re.sub(pattern, replacement, new)
        if isinstance(conv, GENConv) and name.startswith(("lins.", "norms.")):
            # PyG's MLP is a list of linear map, norm where there is one, ReLU and dropout, for each layer.
            kind, layer, rest = name.split(".", 2)
            step = 3 if conv.options.mlp_norm == "none" else 4
            new = f"mlp.{int(layer) * step + (kind == 'norms')}.{rest}"
        found[name] = new
    return found


# ------------------------------------------------------------------ from PyG
def _from_gcn(conv: MessagePassing) -> Conv:
    _check(not conv.improved, "improved=True")
    _check(conv.normalize, "normalize=False")
    _check(conv.aggr in ("add", "sum"), f"aggr={conv.aggr!r}")
    return GCNConv(
        conv.in_channels, conv.out_channels, add_self_loops=conv.add_self_loops, bias=conv.bias is not None
    )  # fmt: skip


def _from_sage(conv: MessagePassing) -> Conv:
    _check(not conv.normalize, "normalize=True")
    _check(not conv.project, "project=True")
    aggr: dict[str, ops.Reduce] = {"add": "sum", "sum": "sum", "mean": "mean", "max": "max"}
    _check(conv.aggr in aggr, f"aggr={conv.aggr!r}")
    options = SAGEOptions(aggr=aggr[conv.aggr], bias=conv.lin_l.bias is not None, root_weight=conv.root_weight)
    return SAGEConv(conv.in_channels, conv.out_channels, options=options)


def _from_gat(conv: MessagePassing) -> Conv:
    _check(conv.concat or conv.heads == 1, "concat=False averages the heads")
    _check(conv.dropout == 0.0, f"dropout={conv.dropout} of attention; set conv.dropout = 0.0, or use edge_drop here")
    _check(conv.edge_dim is None, f"edge_dim={conv.edge_dim}")
    options = GATOptions(
        heads=conv.heads,
        norm_adj=False,
        attn_dst=True,
        negative_slope=conv.negative_slope,
        root_weight=conv.res is not None,
        bias=conv.bias is not None,
        add_self_loops=conv.add_self_loops,
    )
    return GATConv(conv.in_channels, conv.heads * conv.out_channels, options=options)


def _from_gen(conv: MessagePassing) -> Conv:
    width, module = conv.out_channels, conv.aggr_module
    lins = [part for part in conv.mlp if type(part).__name__ == "Linear"]  # PyG's own class
    _check(conv.in_channels == width, f"in_channels={conv.in_channels} other than out_channels={width}")
    _check(conv.eps == _EPS, f"eps={conv.eps}, here {_EPS}")
    _check(all(lin.out_channels == 2 * width for lin in lins[:-1]), "expansion other than 2")
    aggrs: dict[str, ops.Aggr] = {"add": "sum", "sum": "sum", "mean": "mean", "max": "max", "softmax": "softmax"}
    _check(conv.aggr in aggrs, f"aggr={conv.aggr!r}, which PyG clamps at other values")
    t = getattr(module, "t", 1.0)
    edge = getattr(conv, "lin_edge", None)
    scale = getattr(getattr(conv, "msg_norm", None), "scale", None)
    options = GENOptions(
        aggr="softmax_sg" if conv.aggr == "softmax" and module.semi_grad else aggrs[conv.aggr],
        t=float(t.detach()) if isinstance(t, Tensor) else float(t),
        learn_t=isinstance(t, Tensor),
        msg_norm=scale is not None,
        learn_msg_scale=scale is not None and scale.requires_grad,
        mlp_layers=len(lins),
        mlp_norm=_norm_of(conv.mlp),
        mlp_bias=lins[0].bias is not None,
        edge_bias=edge is not None and edge.bias is not None,
    )
    return GENConv(width, width, edge_channels=None if edge is None else edge.in_channels, options=options)


_EPS = 1e-7


def _norm_of(mlp: nn.Sequential) -> ops.Norm:
    """Return our name of the norm of PyG's MLP."""
    found = [part for part in mlp if type(part).__name__ not in ("Linear", "ReLU", "Dropout")]
    if not found:
        return "none"
    _check(type(found[0]) in (nn.BatchNorm1d, nn.LayerNorm), f"the norm {found[0]} of the MLP")
    return "batch" if isinstance(found[0], nn.BatchNorm1d) else "layer"


_FROM: dict[str, Callable[[MessagePassing], Conv]] = {
    "GCNConv": _from_gcn,
    "SAGEConv": _from_sage,
    "GATConv": _from_gat,
    "GENConv": _from_gen,
}


# ------------------------------------------------------------------ to PyG
def _to_gcn(conv: GCNConv) -> MessagePassing:
    from torch_geometric import nn as pyg

    return pyg.GCNConv(
        conv.in_channels, conv.out_channels, add_self_loops=conv.add_self_loops, bias=conv.lin.bias is not None
    )  # fmt: skip


def _to_sage(conv: SAGEConv) -> MessagePassing:
    from torch_geometric import nn as pyg

    options = conv.options
    return pyg.SAGEConv(
        conv.in_channels, conv.out_channels, aggr=options.aggr, bias=options.bias, root_weight=options.root_weight
    )  # fmt: skip


def _to_gat(conv: GATConv) -> MessagePassing:
    from torch_geometric import nn as pyg

    options = conv.options
    _check(not options.norm_adj, "norm_adj=True")
    _check(options.attn_dst, "attn_dst=False")
    _check(options.edge_drop == 0.0, f"edge_drop={options.edge_drop}")
    return pyg.GATConv(
        conv.in_channels,
        conv.out_channels // options.heads,
        heads=options.heads,
        negative_slope=options.negative_slope,
        residual=options.root_weight,
        bias=options.bias,
        add_self_loops=options.add_self_loops,
    )


def _to_gen(conv: GENConv) -> MessagePassing:
    from torch_geometric import nn as pyg

    options, width, edges = conv.options, conv.out_channels, conv.edge_channels
    _check(conv.in_channels == width, f"in_channels={conv.in_channels} other than out_channels={width}")
    _check(not options.degree_scale, "degree_scale=True")
    _check(options.aggr != "power", "aggr='power', which PyG clamps at other values")
    _check(options.mlp_norm in ("batch", "layer", "none"), f"mlp_norm={options.mlp_norm!r}")
    if edges is not None and options.edge_linear:
        _check(edges != width, f"edge_channels={edges} as wide as the nodes': PyG adds them without a map")
        _check(options.edge_bias == options.mlp_bias, "edge_bias other than mlp_bias")
    return pyg.GENConv(
        width,
        width,
        aggr={"sum": "add"}.get(options.aggr, options.aggr),
        t=options.t,
        learn_t=options.learn_t,
        msg_norm=options.msg_norm,
        learn_msg_scale=options.learn_msg_scale,
        norm=None if options.mlp_norm == "none" else options.mlp_norm,
        num_layers=options.mlp_layers,
        bias=options.mlp_bias,
        edge_dim=edges if options.edge_linear else None,
    )


_TO: dict[type[Conv], Callable[[Any], MessagePassing]] = {
    GCNConv: _to_gcn,
    SAGEConv: _to_sage,
    GATConv: _to_gat,
    GENConv: _to_gen,
}
