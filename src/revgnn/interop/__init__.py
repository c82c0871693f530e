"""For people who are already somewhere: a drop-in for PyG's reversible layer, and the official code's checkpoints."""

from __future__ import annotations

from .group_add_rev import GroupAddRev
from .official import OfficialModel, convert, from_official, load_converted

__all__ = ["GroupAddRev", "OfficialModel", "convert", "from_official", "load_converted"]
