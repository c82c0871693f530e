"""Interoperability: a drop-in for PyG's `GroupAddRev`, and checkpoints of the paper's official code"""

from __future__ import annotations

from .group_add_rev import GroupAddRev
from .official import OfficialModel, convert, from_official, load_converted

__all__ = ["GroupAddRev", "OfficialModel", "convert", "from_official", "load_converted"]
