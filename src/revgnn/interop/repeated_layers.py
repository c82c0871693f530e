"""`reversible`: make the repeated layers of a PyG model a reversible stack of the modules that they are.

A layer f of width D becomes one of C groups of a reversible layer on a stream of C x D channels, which starts as C
copies of its input and ends as their mean: ``y_i = x_i + f_i(y_{i-1})``. So a layer keeps its width and its weights,
and gains a skip connection, without which nothing can be reconstructed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from torch import Tensor, nn

from .group_add_rev import GroupAddRev, initialise

if TYPE_CHECKING:
    from torch_geometric.nn import DeepGCNLayer
    from torch_geometric.nn.models.basic_gnn import BasicGNN

_M = TypeVar("_M", bound=nn.Module)


class ReversibleLayers(nn.Module):
    """Repeated layers of one width as a reversible stack: [N, D] -> [N, D].

    Args:
        layers: modules called as ``layer(x, *args, **kwargs)``, each [N, D] -> [N, D] without a skip connection.
        num_groups: C, layers in one reversible layer. Of L layers the first ``L % C`` are residual layers before them,
            which store what autograd needs.
    Cost: two evaluations of each layer per step; C x N x D is kept at any depth.

    Examples:
        >>> import torch
        >>> from revgnn.interop import ReversibleLayers
        >>> layers = ReversibleLayers([torch.nn.Linear(8, 8) for _ in range(40)])
        >>> layers(torch.randn(5, 8)).shape
        torch.Size([5, 8])
    """

    def __init__(self, layers: Sequence[nn.Module], num_groups: int = 2) -> None:
        super().__init__()
        if num_groups < 2 or len(layers) < num_groups:
            raise ValueError(
                f"num_groups must be 2 or more and at most the number of layers, {len(layers)}, got {num_groups}"
            )
        rest = len(layers) % num_groups
        self.num_groups = num_groups
        self.stored = nn.ModuleList(layers[:rest])
        self.layers = nn.ModuleList(
            GroupAddRev(nn.ModuleList(layers[low : low + num_groups]), split_args=[])
            for low in range(rest, len(layers), num_groups)
        )

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Evaluate the stack; every layer gets all arguments after x."""
        for layer in self.stored:
            x = x + layer(x, *args, **kwargs)
        x = x.repeat(1, self.num_groups)
        for layer in self.layers:
            x = layer(x, *args, **kwargs)
        return x.view(x.size(0), self.num_groups, -1).mean(1)

    def reset_parameters(self) -> None:
        """Initialise every layer again."""
        for layer in (*self.stored, *self.layers):
            initialise(layer)


def reversible(model: nn.Module, *, num_groups: int = 2) -> nn.Module:
    """Make the repeated layers of a model a reversible stack that needs the activations of one layer at any depth.

    The new model has the modules and parameters of the old one and computes something else, because its repeated layers
    gain skip connections: train it, from the start or further. The old model is not changed.

    - A ``ModuleList`` or ``Sequential`` of layers [N, D] -> [N, D] becomes `ReversibleLayers`.
    - In a PyG model such as `torch_geometric.nn.GCN`, all convolutions between the first and the last become one
      stack, with the norm, activation and dropout between them, in the same order.
    - In any other model, a ``ModuleList`` of `DeepGCNLayer` keeps its first layer, which such models use on its own,
      and the others become one stack behind it. The model's forward must iterate the list, not count its layers.

    Args:
        model: one of these.
        num_groups: C, layers in one reversible layer; the stream is C times as wide as a layer.
    Returns: the reversible model.
    Raises: ValueError: the layers do not allow it; the message says which and why.

    Examples:
        >>> import torch_geometric.nn as pyg
        >>> import revgnn
        >>> deep = revgnn.reversible(pyg.GraphSAGE(16, 32, num_layers=42, out_channels=4, norm="batch"))
        >>> sum(isinstance(module, revgnn.GroupAddRev) for module in deep.modules())
        20
    """
    if isinstance(model, nn.ModuleList | nn.Sequential):
        layers = [_without_skip(layer) for layer in model]
        if reason := _why_not(layers, num_groups):
            raise ValueError(f"the layers cannot be reversed: {reason}")
        return ReversibleLayers(layers, num_groups)
    if _is_basic_gnn(model):
        return _of_basic_gnn(model, num_groups)
    changed, reasons = _of_lists(model, num_groups)
    if changed is None:
        raise ValueError(
            f"{type(model).__name__} has no repeated layers that can be reversed"
            + ("".join(f"; {reason}" for reason in reasons) or ": it has no ModuleList of layers")
            + ". For layers of your own, call reversible on a ModuleList of them, or wrap a convolution in "
            "revgnn.GroupAddRev"
        )
    return changed


def _why_not(layers: Sequence[nn.Module], num_groups: int) -> str | None:
    """Return why layers cannot be a stack, as far as their attributes show it; ``None``: they can."""
    if len(layers) < num_groups:
        return f"there are {len(layers)} layers, and one reversible layer takes num_groups={num_groups}"
    widths = [_widths(layer) for layer in layers]
    for number, found in enumerate(widths):
        if found is not None and found[0] != found[1]:
            return f"layer {number} maps {found[0]} to {found[1]} channels; all must keep the width"
    known = [(number, found[0]) for number, found in enumerate(widths) if found is not None]
    for (_, before), (number, after) in pairwise(known):
        if before != after:
            return f"layer {number} has {after} channels and the one before {before}; all must have one width"
    return None


def _widths(layer: nn.Module) -> tuple[int, int] | None:
    """Return the widths of input and output of a convolution that says them; ``None``: it does not."""
    conv: nn.Module = layer.conv if isinstance(layer, _Branch) else layer
    inside, outside = getattr(conv, "in_channels", None), getattr(conv, "out_channels", None)
    if not isinstance(inside, int) or not isinstance(outside, int):
        return None
    # GATConv and TransformerConv of PyG give the width of one head.
    by_heads = type(conv).__module__.startswith("torch_geometric.") and getattr(conv, "concat", False) is True
    return inside, outside * (getattr(conv, "heads", 1) if by_heads else 1)


# ------------------------------------------------------------------ layers without their skip connection
class _Branch(nn.Module):
    """Norm, activation, dropout and convolution, in this order or with the convolution first."""

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None,
        act: nn.Module | None,
        drop: float,
        *,
        conv_first: bool = False,
        act_first: bool = False,
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act
        self.drop, self.conv_first, self.act_first = nn.Dropout(drop), conv_first, act_first

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if self.conv_first:
            return self._between(self.conv(x, *args, **kwargs))
        out: Tensor = self.conv(self._between(x), *args, **kwargs)
        return out

    def _between(self, x: Tensor) -> Tensor:
        for part in (self.act, self.norm) if self.act_first else (self.norm, self.act):
            x = x if part is None else part(x)
        out: Tensor = self.drop(x)
        return out


def _is_deep_layer(layer: nn.Module) -> TypeGuard[DeepGCNLayer]:
    return type(layer).__name__ == "DeepGCNLayer"


def _without_skip(layer: nn.Module) -> nn.Module:
    """Return PyG's DeepGCNLayer without its skip connection, and any other layer as it is."""
    if not _is_deep_layer(layer):
        return layer
    if layer.block == "dense":
        raise ValueError("the layers cannot be reversed: DeepGCNLayer(block='dense') widens the stream; use 'res+'")
    return _Branch(layer.conv, layer.norm, layer.act, layer.dropout, conv_first=layer.block != "res+")


# ------------------------------------------------------------------ whole models
def _shallow(model: _M) -> _M:
    """Return a model with the same submodules, parameters and hooks, in dictionaries of its own."""
    made, own = copy.copy(model), vars(model)
    made.__dict__.update((name, own[name].copy()) for name in vars(nn.Module()) if isinstance(own[name], dict | set))
    return made


def _is_basic_gnn(model: nn.Module) -> TypeGuard[BasicGNN]:
    return any(kind.__name__ == "BasicGNN" for kind in type(model).__mro__)


def _of_basic_gnn(model: BasicGNN, num_groups: int) -> nn.Module:
    name = type(model).__name__
    if model.jk_mode is not None:
        raise ValueError(f"{name} with jk={model.jk_mode!r} reads every layer's output, which a stack does not keep")
    if model.supports_norm_batch and getattr(model.norms[0], "mode", None) != "node":
        raise ValueError(
            f"{name} gives batch to its norm {model.norms[0]}, which a stack cannot; use norm='batch', or "
            "norm='layer' with norm_kwargs={'mode': 'node'}"
        )
    convs, norms, act = list(model.convs), list(model.norms), model.act
    if act is not None and not isinstance(act, nn.Module):
        raise ValueError(f"{name} has the function {act!r} as activation; use a module, such as torch.nn.ReLU()")
    inner: list[nn.Module] = convs[1:-1]
    if reason := _why_not(inner, num_groups):
        raise ValueError(f"{name} cannot be reversed between its first and its last convolution: {reason}")
    # The norm behind the last layer of the stack stays in the model, which applies it itself.
    for number in range(1, len(inner)):
        inner[number] = _Branch(inner[number], norms[number], act, model.dropout.p, act_first=model.act_first)
    made: BasicGNN = _shallow(model)
    made.convs = nn.ModuleList([convs[0], ReversibleLayers(inner, num_groups), convs[-1]])
    made.norms = nn.ModuleList([norms[0], norms[-2], norms[-1]])
    made.num_layers = 3
    made.inference = _refuse_by_layers
    found: nn.Module = made
    return found


def _refuse_by_layers(*args: object, **kwargs: object) -> None:
    raise RuntimeError(
        "inference layer by layer samples one hop for each layer, and the reversible stack is one layer of several "
        "hops; call the model on the whole graph, or on neighbourhoods of as many hops as it has convolutions"
    )


def _of_lists(model: nn.Module, num_groups: int) -> tuple[nn.Module | None, list[str]]:
    """Return a model with its lists of layers reversed, and why others were not; ``None``: none was."""
    made, reasons, found = _shallow(model), [], False
    for name, child in model.named_children():
        if not isinstance(child, nn.ModuleList):
            continue
        kinds = {type(layer).__name__ for layer in child}
        if not kinds or not all(_is_deep_layer(layer) for layer in child):
            reasons.append(f"{name} is a list of {', '.join(sorted(kinds)) or 'nothing'}, not of DeepGCNLayer")
            continue
        rest = [_without_skip(layer) for layer in child[1:]]
        if reason := _why_not(rest, num_groups):
            reasons.append(f"{name}: {reason}")
            continue
        made._modules[name] = nn.ModuleList([child[0], ReversibleLayers(rest, num_groups)])
        found = True
    return (made if found else None), reasons
