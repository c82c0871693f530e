"""`ModelConfig` and `build_model`: the paper's networks of encoder, stack and head from a configuration.

| the paper's model | coupling | weight_tied | backprop | activations kept | parameters |
|---|---|---|---|---|---|
| ResGNN | residual | no | store | L N D | L D^2 |
| ResGNN + checkpointing | residual | no | checkpoint | N D per segment | L D^2 |
| RevGNN | grouped | no | reversible | N D | L D^2 / C |
| WT-ResGNN | residual | yes | store | L N D | D^2 |
| WT-RevGNN | grouped | yes | reversible | N D | D^2 / C |
| DEQ-GNN | residual | yes | implicit | N D | D^2 |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from torch import nn

from ..data.info import GraphInfo
from ..implicit.equilibrium import Equilibrium
from ..plain_config import check_literals
from ..stack import Stack
from ..stack.choices import StackChoices, check_choices
from ..stack.fused_head import ROWS
from .block import Block, EquilibriumBlock
from .contractive import ContractiveBlock, Injection
from .convs import Conv, GATOptions, GENOptions, SAGEOptions, find_conv
from .encoders import CategoricalEncoder, SpeciesEncoder
from .equilibrium import EquilibriumOptions
from .gnn import GNN
from .heads import HEADS, ConvHead, NodeHead
from .norms import NormActDrop

_logger = logging.getLogger(__name__)

__all__ = ["GNN", "EquilibriumOptions", "ModelConfig", "build_model"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of a network: convolution, depth, width, backpropagation, norm and dropout.

    Examples:
        >>> import revgnn
        >>> config = revgnn.ModelConfig(conv="gen", num_layers=112, hidden_channels=64, norm="layer", dropout=0.2)
        >>> config.coupling, config.backprop
        ('grouped', 'reversible')
    """

    conv: str = "gcn"
    """The graph convolution of every layer: "gcn", "sage", "gen", "gat", or a class as "package.module:Name"."""
    num_layers: int = 28
    """L: number of convolutions on the longest path. The first one of a residual network precedes the stack; with
    conv='gat' the first precedes it and the last follows it."""
    hidden_channels: int = 128
    """D: width of the stream; for GAT the width of all heads together."""
    coupling: Literal["residual", "grouped"] = "grouped"
    """How a layer is added to the stream: residual, or grouped reversible."""
    num_groups: int = 2
    """C, the number of channel groups; only with the grouped coupling."""
    backprop: Literal["store", "checkpoint", "reversible", "implicit"] = "reversible"
    """Backpropagation: store all activations, recompute from checkpoints, reverse the layers, or differentiate a fixed
    point implicitly (DEQ-GNN)."""
    segments: int | Literal["auto"] | None = None
    """Number of segments of the stack; None: 1 for reversible, one per layer for checkpoint; auto: one per 32 layers
    for reversible, which bounds the drift of a float state."""
    state: Literal["float", "exact", "exact64"] = "float"
    """Number format of a reversible stack's state: its own dtype (fastest; drifts), or 32- or 64-bit fixed point, which
    is reconstructed bit for bit."""
    memory_budget: int | str | None = None
    """Bytes, or text like '2GB', that a step over the reversible stack may allocate: as many layers as fit are stored,
    the others recomputed. None: all are recomputed."""
    weight_tied: bool = False
    """Whether layers share weights."""
    num_distinct: int = 2
    """Number of distinct layers of a weight-tied network, including a residual network's first convolution."""
    schedule: Literal["cycle", "head_repeat"] = "cycle"
    """Order in which the distinct layers of a weight-tied stack run."""
    norm: Literal["layer", "batch", "graph", "none"] = "layer"
    """Norm at the start of every block and before the last linear layer."""
    dropout: float = 0.5
    """Probability of dropping a channel of a node."""
    dropout_mask: Literal["auto", "shared", "independent"] = "auto"
    """One dropout mask per step for all layers (N x D bits), or one per layer from a seed; auto: shared for the grouped
    coupling."""
    input_dropout: float = 0.0
    """Dropout on the input features."""
    head_rows: int = ROWS
    """Rows that the head takes at a time, each block with a dropout seed of its own: fewer need less memory."""
    edge_encoder: bool = True
    """Whether a shared linear map takes edge features to D before each convolution's own; False: raw features."""
    species: int = 0
    """Number of last input columns that are a one-hot species with its own linear map (ogbn-proteins: 8)."""
    sage: SAGEOptions = field(default_factory=SAGEOptions)
    """Options of conv='sage'."""
    gen: GENOptions = field(default_factory=GENOptions)
    """Options of conv='gen'."""
    gat: GATOptions = field(default_factory=GATOptions)
    """Options of conv='gat'."""
    equilibrium: EquilibriumOptions = field(default_factory=EquilibriumOptions)
    """Options of backprop='implicit'."""

    def __post_init__(self) -> None:
        check_literals(self)
        least = 2 if self.has_own_ends else 1
        if self.num_layers < least:
            raise ValueError(f"num_layers must be {least} or more for conv={self.conv!r}, got {self.num_layers}")
        if self.hidden_channels < 1:
            raise ValueError(f"hidden_channels must be 1 or more, got {self.hidden_channels}")
        if self.head_rows < 1:
            raise ValueError(f"head_rows must be 1 or more, got {self.head_rows}")
        for name in ("dropout", "input_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.num_distinct != type(self).num_distinct and not self.weight_tied:
            raise ValueError(f"num_distinct={self.num_distinct} says how many layers are shared; set weight_tied=True")
        divisor = self.conv_type.width_divisor
        groups = self.num_groups if self.coupling == "grouped" else 1
        if divisor is not None and self.hidden_channels % (groups * getattr(self.conv_options, divisor)):
            own = getattr(self.conv_options, divisor)
            step = groups * own
            raise ValueError(
                f"hidden_channels={self.hidden_channels} must be divisible by {self.conv}.{divisor}={own}"
                f"{f' times num_groups={groups}' if groups > 1 else ''}; "
                f"choose {max(step, self.hidden_channels // step * step)}, or another {self.conv}.{divisor}"
            )
        if self.backprop == "implicit":
            self._check_implicit()
        else:
            check_choices(self.hidden_channels, self.stack_arguments(), channels_name="hidden_channels")

    def _check_implicit(self) -> None:
        if self.coupling != "residual" or not self.weight_tied:
            raise ValueError(
                "backprop='implicit' solves for one block's fixed point; set coupling='residual' and weight_tied=True"
            )
        if self.segments is not None or self.state != "float" or self.memory_budget is not None:
            raise ValueError(
                "segments, state and memory_budget apply to recomputed layers; backprop='implicit' has none: leave "
                "them at None, 'float' and None"
            )
        if self.has_own_ends:
            raise ValueError(
                f"backprop='implicit' injects its input into every iteration; choose another conv than {self.conv!r}"
            )

    @property
    def conv_type(self) -> type[Conv]:
        """The class of the convolution."""
        return find_conv(self.conv)

    @property
    def conv_options(self) -> Any:
        """The options of the convolution; ``None``: it has none, or none that are a field here."""
        wanted = self.conv_type.options_type
        mine = (each for each in vars(self).values() if wanted is not None and isinstance(each, wanted))
        return next(mine, None)

    @property
    def has_own_ends(self) -> bool:
        """Whether the first layer reads the raw features, and the last gives the answer."""
        return self.conv_type.last_options is not None

    @property
    def is_contractive(self) -> bool:
        """Whether it is an equilibrium of a map that contracts by construction."""
        return self.backprop == "implicit" and self.equilibrium.contraction is not None

    def build(self, info: GraphInfo) -> GNN:
        """Make the network for a data set: see `build_model`."""
        return build_model(self, info)

    def stack_arguments(self) -> StackChoices:
        """Return the arguments of `Stack`, without the width and the block."""
        assert self.backprop != "implicit", "an equilibrium replaces the stack"
        stem_is_distinct = self.coupling == "residual" and not self.has_own_ends
        outside = 2 if self.has_own_ends else int(stem_is_distinct)
        return {
            "num_layers": self.num_layers - outside,
            "coupling": self.coupling,
            "num_groups": self.num_groups,
            "backprop": self.backprop,
            "segments": self.segments,
            "state": self.state,
            "memory_budget": self.memory_budget,
            "weight_tied": self.weight_tied,
            "num_distinct": self.num_distinct - stem_is_distinct if self.weight_tied else 1,
            "schedule": self.schedule,
        }


def build_model(
    config: ModelConfig,
    info: GraphInfo | None = None,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    edge_channels: int | None = None,
) -> GNN:
    """Make the network that a configuration describes, for the data that a `GraphInfo` or plain widths describe.

    ``build_model(config, in_channels=16, out_channels=4)`` is a network for node labels on tensors of your own.

    Args:
        config: what it is made of.
        info: of the data: widths of features, of edge features and of the answer, categories, and what carries a label.
        in_channels: F, in place of ``info``: number of node feature columns.
        out_channels: T, in place of ``info``: classes, or columns of the answer.
        edge_channels: K, beside ``in_channels``: number of edge feature columns; ``None``: the edges have no features.
    Returns: the network, with weights from torch's global generator.
    Raises: ValueError: where data and configuration do not go together, or both or neither of ``info`` and the widths
        are given.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> config = revgnn.ModelConfig(conv="gen", num_layers=4, hidden_channels=16)
        >>> model = revgnn.build_model(config, in_channels=4, out_channels=2, edge_channels=3)
        >>> model(torch.randn(5, 4), torch.tensor([[0, 1], [1, 2]]), torch.randn(2, 3)).shape
        torch.Size([5, 2])
    """
    widths = (in_channels, out_channels, edge_channels)
    if info is None and in_channels is not None and out_channels is not None:
        info = GraphInfo(in_channels=in_channels, num_outputs=out_channels, edge_channels=edge_channels)
    elif info is None or any(width is not None for width in widths):
        raise ValueError(
            "build_model needs either info, the GraphInfo of a data set, or in_channels and out_channels; got "
            f"info={'None' if info is None else info.name}, in_channels={in_channels}, out_channels={out_channels}, "
            f"edge_channels={edge_channels}"
        )
    edge_channels = info.edge_channels if config.conv_type.takes_edge_attr else None
    weighs = _weighs_edges(config, info)
    edge_encoder = None
    if edge_channels is not None and config.edge_encoder:
        edge_encoder = nn.Linear(edge_channels, config.hidden_channels)
    block_edges = config.hidden_channels if edge_encoder is not None else edge_channels
    encoder, stem = _encoder(config, info, block_edges)
    is_shared = config.dropout_mask == "shared" or (config.dropout_mask == "auto" and config.coupling == "grouped")
    return GNN(
        encoder=encoder,
        stem=stem,
        stack=_stack(config, block_edges),
        head=_head(config, info),
        edge_encoder=edge_encoder,
        uses_edge_attr=edge_channels is not None,
        uses_edge_weight=weighs,
        input_dropout=config.input_dropout,
        mask_dropout=config.dropout if is_shared else 0.0,
        options=config.equilibrium,
    )


def _weighs_edges(config: ModelConfig, info: GraphInfo) -> bool:
    """Whether the network multiplies messages by the edges' weights; says once what of the edges it ignores."""
    if info.edge_channels is None or config.conv_type.takes_edge_attr:
        return False
    if info.edge_weight and config.conv_type.takes_edge_weight:
        if getattr(config.conv_options, "aggr", None) == "max":
            raise ValueError(
                "sage.aggr=max cannot weigh edges, and the edges have weights; choose mean or sum, or "
                "dataset.edge_features=false"
            )
        return True
    names = ", ".join(each.name for each in info.edge_features) or f"{info.edge_channels} columns"
    what, others = ("weights", "gcn, sage and gen do") if info.edge_weight else ("features", "gen does")
    _say(f"edge {what} are ignored ({names}): conv={config.conv} reads none; {others} (--set model.conv=)")
    return False


@cache
def _say(text: str) -> None:
    """Log a text once in this process, also where logging is not set up."""
    _logger.warning("%s", text)


def _norm(config: ModelConfig, channels: int) -> NormActDrop:
    return NormActDrop(channels, config.norm, dropout=config.dropout)


def _conv(
    config: ModelConfig, in_channels: int, out_channels: int, edge_channels: int | None = None, *, is_last: bool = False
) -> Conv:
    kind, options = config.conv_type, config.conv_options
    arguments: dict[str, Any] = {"edge_channels": edge_channels} if kind.takes_edge_attr else {}
    if options is not None:
        arguments["options"] = replace(options, **(kind.last_options or {})) if is_last else options
    return kind(in_channels, out_channels, **arguments)


def _stack(config: ModelConfig, edge_channels: int | None) -> Stack | Equilibrium:
    """Build the stack of layers, or the equilibrium that replaces it."""
    width = config.hidden_channels
    if config.backprop != "implicit":
        return Stack(_block(config, edge_channels), channels=width, **config.stack_arguments())
    options = config.equilibrium
    block: nn.Module
    if options.contraction is not None:
        block = ContractiveBlock(
            width, bound=options.contraction, norm=options.contraction_norm, init=options.contraction_init
        )
    else:
        block = EquilibriumBlock(
            _conv(config, width, width, edge_channels),
            _conv(config, width, width, edge_channels),
            middle=_norm(config, width),
            last=NormActDrop(width, config.norm, act=False),
        )
    return options.build(block)


def _block(config: ModelConfig, edge_channels: int | None) -> Callable[[int], Block]:
    return lambda width: Block(_norm(config, width), _conv(config, width, width, edge_channels))


def _encoder(config: ModelConfig, info: GraphInfo, edge_channels: int | None) -> tuple[nn.Module, nn.Module | None]:
    """The map to the stream's width, and the convolution before the stack where the architecture has one."""
    width, in_channels, categories = config.hidden_channels, info.in_channels + info.label_channels, info.categories
    if config.has_own_ends:
        if categories is not None or config.species:
            raise ValueError(
                f"conv={config.conv!r} encodes numeric features by its first layer; categories and species need "
                "another conv"
            )
        return nn.Identity(), _conv(config, in_channels, width, edge_channels)
    encoder: nn.Module
    if categories is not None:
        encoder = CategoricalEncoder(categories, width)
    elif config.species:
        encoder = SpeciesEncoder(in_channels, width, species=config.species)
    else:
        encoder = nn.Linear(in_channels, width)
    if config.is_contractive:
        head = NormActDrop(width, config.norm, act=False, dropout=config.dropout)
        return encoder, Injection(_conv(config, width, width, edge_channels), head)
    has_stem = config.coupling == "residual" and config.backprop != "implicit"
    return encoder, _conv(config, width, width, edge_channels) if has_stem else None


def _head(config: ModelConfig, info: GraphInfo) -> nn.Module:
    norm = _norm(config, config.hidden_channels)
    if config.backprop == "implicit" and not config.is_contractive:  # the block already normalises the fixed point
        norm = NormActDrop(config.hidden_channels, "none", act=False)
    head = HEADS[info.task_spec.head]
    if not config.has_own_ends:
        if head is NodeHead:
            return NodeHead(norm, info.num_outputs, block_rows=config.head_rows)
        return head(norm, info.num_outputs)
    if head is not NodeHead:
        raise ValueError(
            f"conv={config.conv!r} has a last layer with logits per node; choose another conv for graph-level tasks"
        )
    return ConvHead(norm, _conv(config, config.hidden_channels, info.num_outputs, is_last=True), info.num_outputs)
