"""The peers of the paper's tables that are not a stack, thin over PyG's own modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from ...data.info import GraphInfo
from .attention import EdgeGAT, PlainGAT
from .plain import plain_gcn, plain_sage
from .propagation import DAGNN, GCN2, GCNII, SGC, SIGN
from .transformer import CrossEdges, UniMP, UniMPv2

BaselineKind = Literal[
    "gcn", "sage", "gat", "edge_gat", "gcn2", "gcnii", "dagnn", "sgc", "sign", "unimp", "unimp_cef", "unimp_v2"
]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Configuration of a baseline; a kind ignores the fields that it does not need."""

    kind: BaselineKind
    """The network, a key of `BASELINES`."""
    num_layers: int
    """L: number of convolutions, or of linear layers (dagnn, sgc, sign)."""
    hidden_channels: int
    """D: width of the hidden layers, of all heads together."""
    heads: int = 1
    """H: attention heads of gat, edge_gat and the transformers."""
    norm: bool = True
    """Whether gcn and sage have BatchNorm between their layers."""
    dropout: float = 0.5
    """Probability of dropping a hidden channel of a node."""
    input_dropout: float = 0.0
    """Probability of dropping an input feature."""
    edge_drop: float = 0.0
    """Probability of dropping an edge from attention, in training."""
    hops: int = 0
    """K: propagation steps without weights (dagnn, sgc, sign)."""
    initial: float = 0.0
    """Weight alpha of the encoded input in every layer of gcn2 and gcnii."""
    identity: float = 0.5
    """Lambda of gcn2: the weights of its layer l count ``log(lambda / l + 1)``, the identity the rest."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(BaselineKind):
            raise ValueError(f"kind={self.kind!r} is unknown; choose one of {', '.join(get_args(BaselineKind))}")
        if self.num_layers < 1 or self.hidden_channels < 1 or self.heads < 1 or self.hops < 0:
            raise ValueError(
                f"num_layers, hidden_channels and heads must be 1 or more and hops 0 or more, got {self.num_layers}, "
                f"{self.hidden_channels}, {self.heads} and {self.hops}"
            )
        if self.hidden_channels % self.heads:
            raise ValueError(f"hidden_channels={self.hidden_channels} must be divisible by heads={self.heads}")
        for name in ("dropout", "input_dropout", "edge_drop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def build(self, info: GraphInfo) -> nn.Module:
        """Make the network for a data set.

        Returns: a module called as ``(x, graph, edge_attr, seed=...)``, with weights from torch's global generator.
            What it drops is drawn from that generator too, whatever the seed.
        Raises: ValueError: the data lacks what the network needs.
        """
        if info.task_spec.has_many_graphs:
            raise ValueError(f"{info.name} is graph-level: kind={self.kind!r} answers per node; choose another model")
        if self.kind in {"edge_gat", "unimp_cef"} and info.edge_channels is None:
            raise ValueError(f"kind={self.kind!r} reads edge features, and the data has none; choose another kind")
        if self.kind in {"unimp", "unimp_cef", "unimp_v2"} and not info.label_channels:
            raise ValueError(f"kind={self.kind!r} takes labels as input; set train.labels.reuse=true")
        return BASELINES[self.kind](self, info)


def _gat(config: BaselineConfig, info: GraphInfo) -> nn.Module:
    return PlainGAT(
        info.in_channels + info.label_channels,
        config.hidden_channels,
        info.num_outputs,
        num_layers=config.num_layers,
        heads=config.heads,
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        edge_drop=config.edge_drop,
    )


def _edge_gat(config: BaselineConfig, info: GraphInfo) -> nn.Module:
    assert info.edge_channels is not None, "BaselineConfig.build has checked it"
    return EdgeGAT(
        info.in_channels + info.label_channels,
        config.hidden_channels,
        info.num_outputs,
        edge_channels=info.edge_channels,
        num_layers=config.num_layers,
        heads=config.heads,
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        edge_drop=config.edge_drop,
    )


def _gcnii(config: BaselineConfig, info: GraphInfo) -> nn.Module:
    return GCNII(
        info.in_channels + info.label_channels,
        config.hidden_channels,
        info.num_outputs,
        num_layers=config.num_layers,
        initial=config.initial,
        dropout=config.dropout,
    )


def _gcn2(config: BaselineConfig, info: GraphInfo) -> nn.Module:
    return GCN2(
        info.in_channels + info.label_channels,
        config.hidden_channels,
        info.num_outputs,
        num_layers=config.num_layers,
        initial=config.initial,
        identity=config.identity,
        dropout=config.dropout,
    )


def _unimp(config: BaselineConfig, info: GraphInfo) -> nn.Module:
    width = config.hidden_channels
    cross = None
    if config.kind == "unimp_cef":
        assert info.edge_channels is not None, "BaselineConfig.build has checked it"
        cross = CrossEdges(info.edge_channels, width // config.heads)
    return UniMP(
        info.in_channels + info.label_channels,
        width,
        info.num_outputs,
        edge_channels=info.edge_channels,
        label_channels=info.label_channels,
        num_layers=config.num_layers,
        heads=config.heads,
        dropout=config.dropout,
        cross=cross,
    )


def _unimp_v2(config: BaselineConfig, info: GraphInfo) -> nn.Module:
    return UniMPv2(
        info.in_channels + info.label_channels,
        config.hidden_channels,
        info.num_outputs,
        label_channels=info.label_channels,
        num_layers=config.num_layers,
        heads=config.heads,
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        edge_drop=config.edge_drop,
    )


def _widths(config: BaselineConfig, info: GraphInfo) -> list[int]:
    hidden = [config.hidden_channels] * (config.num_layers - 1)
    return [info.in_channels + info.label_channels, *hidden, info.num_outputs]


BASELINES: dict[str, Callable[[BaselineConfig, GraphInfo], nn.Module]] = {
    "gcn": lambda c, s: plain_gcn(_widths(c, s), norm=c.norm, dropout=c.dropout),
    "sage": lambda c, s: plain_sage(_widths(c, s), norm=c.norm, dropout=c.dropout),
    "gat": _gat,
    "edge_gat": _edge_gat,
    "gcn2": _gcn2,
    "gcnii": _gcnii,
    "dagnn": lambda c, s: DAGNN(_widths(c, s), hops=c.hops, dropout=c.dropout),
    "sgc": lambda c, s: SGC(s.in_channels + s.label_channels, s.num_outputs, hops=c.hops),
    "sign": lambda c, s: SIGN(_widths(c, s), hops=c.hops, dropout=c.dropout, input_dropout=c.input_dropout),
    "unimp": _unimp,
    "unimp_cef": _unimp,
    "unimp_v2": _unimp_v2,
}
"""Kind -> builder."""
