"""What a sampler is: one way to cut the graph of a node-level data set into the steps of an epoch"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..subgraphs import Training
from .parts import Partition


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """An entry of `SAMPLERS`."""

    make: Callable[..., Training]
    """``(source, partition, seed, **fields)`` -> the batches of training, of a `GraphSource`, a partition, a seed from
    0 on, and the fields named below."""
    partition: Callable[..., Partition] | None = None
    """``(source, **fields)`` -> the partition by which an evaluation in parts is cut, handed to ``make`` too; ``None``:
    random parts."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Fields of `LoaderConfig` that it cannot do without -> a value to begin with."""
    takes: tuple[str, ...] = ()
    """Further fields that it reads; they may be ``None``."""
