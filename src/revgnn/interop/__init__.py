"""Interoperability with PyG (its `GroupAddRev`, weights and models) and with the paper's official checkpoints"""

from __future__ import annotations

from .group_add_rev import GroupAddRev
from .official import OfficialModel, convert, from_official, load_converted
from .pyg_weights import from_pyg, to_pyg
from .repeated_layers import ReversibleLayers, reversible

__all__ = [
    "GroupAddRev",
    "OfficialModel",
    "ReversibleLayers",
    "convert",
    "from_official",
    "from_pyg",
    "load_converted",
    "reversible",
    "to_pyg",
]
