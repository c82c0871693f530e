"""Parameters around the ops: convolutions, norms, the block that a stack repeats, encoders and heads."""

from __future__ import annotations

from ..stack.batch_norm import synchronise
from .block import Block
from .convs import CONVS, Conv, GATConv, GCNConv, GENConv, SAGEConv
from .encoders import CategoricalEncoder, SpeciesEncoder, append_labels
from .norms import NormActDrop

__all__ = [
    "CONVS",
    "Block",
    "CategoricalEncoder",
    "Conv",
    "GATConv",
    "GCNConv",
    "GENConv",
    "NormActDrop",
    "SAGEConv",
    "SpeciesEncoder",
    "append_labels",
    "synchronise",
]
