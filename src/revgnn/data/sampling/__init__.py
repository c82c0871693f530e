"""Samplers: one file for each way to divide a graph into training steps, and batches of whole graphs."""

from __future__ import annotations

from . import clusters, neighbor, random, saint
from .sampler import Sampler

__all__ = ["SAMPLERS", "Sampler"]

SAMPLERS: dict[str, Sampler] = {
    "random": random.SAMPLER,
    "clusters": clusters.SAMPLER,
    "neighbor": neighbor.SAMPLER,
    "saint": saint.SAMPLER,
}
"""Kind of `LoaderConfig` -> sampler, of a graph in memory.

Examples:
    >>> from revgnn.data import SAMPLERS
    >>> list(SAMPLERS)
    ['random', 'clusters', 'neighbor', 'saint']
"""
