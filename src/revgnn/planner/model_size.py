"""Reads depth and width from any model's configuration, for the planner's estimates."""

from __future__ import annotations

from typing import NamedTuple

from ..experiment import ModelBuilder

WIDTH = 64
"""Assumed of a model that has no ``hidden_channels``."""


class ModelSize(NamedTuple):
    """The fields of a model's configuration that describe its size, with defaults for a model that lacks them."""

    layers: int = 1
    """L, its ``num_layers``."""
    width: int = WIDTH
    """D, its ``hidden_channels``."""
    hops: int = 0
    """Steps of propagation without weights, its ``hops``."""
    kind: str = ""
    """Which baseline it is."""


def size_of(model: ModelBuilder) -> ModelSize:
    """Read the size of a model from its configuration."""
    fields = {"layers": "num_layers", "width": "hidden_channels", "hops": "hops", "kind": "kind"}
    return ModelSize(**{name: getattr(model, field) for name, field in fields.items() if hasattr(model, field)})
