"""Measures the resident memory of a run's process, and of the interpreter with its libraries."""

from __future__ import annotations

from functools import lru_cache

import torch

from .data import Dataset, Store
from .measure import living_blocks, tensor_bytes
from .resident import ResidentPeak, give_back, load_libraries, resident_now


def resident_peak(dataset: Dataset | Store) -> ResidentPeak:
    """Begin to measure the peak resident size of a run; its loaded data counts as part of the run."""
    load_libraries()
    tensors = (
        [] if isinstance(dataset, Store) else [value for value in vars(dataset).values() if torch.is_tensor(value)]
    )
    return ResidentPeak(held=tensor_bytes(tensors))


@lru_cache(maxsize=1)
def interpreter_bytes() -> int:
    """Return the resident size of the interpreter and its libraries without tensors, measured at the first call, which
    loads the libraries; a typical value if the system does not report it."""
    load_libraries()
    give_back()
    present = resident_now()
    return _USUAL if present is None else present - sum(living_blocks().values())


_USUAL = 500_000_000
"""Typical bytes of an interpreter with torch's CPU build and PyG, rounded down."""
