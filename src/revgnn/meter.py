"""What the process of a run takes of the machine: where its growth begins, and what is there without a run."""

from __future__ import annotations

from functools import lru_cache

import torch

from .data import Dataset, Store
from .measure import living_blocks, tensor_bytes
from .resident import ResidentPeak, give_back, load_libraries, resident_now


def resident_peak(dataset: Dataset | Store) -> ResidentPeak:
    """Begin to follow the resident size of a run; its data are read already, and count."""
    load_libraries()
    tensors = (
        [] if isinstance(dataset, Store) else [value for value in vars(dataset).values() if torch.is_tensor(value)]
    )
    return ResidentPeak(held=tensor_bytes(tensors))


@lru_cache(maxsize=1)
def interpreter_bytes() -> int:
    """Give what the interpreter and its libraries take: what is resident beside tensors at the first call, which loads
    them; a usual value where the system does not tell."""
    load_libraries()
    give_back()
    present = resident_now()
    return _USUAL if present is None else present - sum(living_blocks().values())


_USUAL = 500_000_000
"""Bytes of an interpreter with torch's CPU build and PyG, rounded down."""
