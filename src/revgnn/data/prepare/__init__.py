"""A user's tables, of any size, as a prepared graph: described by graph.yaml, checked whole, cut into parts."""

from __future__ import annotations

from .config import Edges, FeatureConfig, GraphConfig, Nodes, Parts, Split, read_config
from .initial_config import chosen_config, write_first
from .stages import DropFaulty, Prepared, prepare

__all__ = [
    "DropFaulty",
    "Edges",
    "FeatureConfig",
    "GraphConfig",
    "Nodes",
    "Parts",
    "Prepared",
    "Split",
    "chosen_config",
    "prepare",
    "read_config",
    "write_first",
]
