"""Prepare a graph on disk from tables of any size: described by graph.yaml, checked, partitioned"""

from __future__ import annotations

from .config import Edges, FeatureConfig, GraphConfig, Masks, Nodes, Parts, Split, read_config
from .initial_config import chosen_config, write_first
from .stages import DropFaulty, Prepared, prepare

__all__ = [
    "DropFaulty",
    "Edges",
    "FeatureConfig",
    "GraphConfig",
    "Masks",
    "Nodes",
    "Parts",
    "Prepared",
    "Split",
    "chosen_config",
    "prepare",
    "read_config",
    "write_first",
]
