"""The `Sampler` type: a way to divide the graph of a node-level data set into the steps of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..subgraphs import Training
from .parts import Partition


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """An entry of `SAMPLERS`.

    Examples:
        >>> from revgnn.data import SAMPLERS, Sampler
        >>> isinstance(SAMPLERS["random"], Sampler), dict(SAMPLERS["random"].needs)
        (True, {'num_parts': '10'})
    """

    make: Callable[..., Training]
    """``(source, partition, seed, **fields)`` -> training batches, from a `GraphSource`, a partition, a seed of 0 or
    above, and the fields named below."""
    partition: Callable[..., Partition] | None = None
    """``(source, **fields)`` -> partition for evaluations in parts, also passed to ``make``; ``None``: random."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Required fields of `LoaderConfig` -> a suggested value."""
    takes: tuple[str, ...] = ()
    """Optional fields of `LoaderConfig` that the sampler reads."""
