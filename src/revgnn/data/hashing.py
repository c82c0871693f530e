"""Hash ids reproducibly: the same id gives the same part on every machine, engine and version.

Integers are mixed by the finaliser of splitmix64. A string's hash mixes the polynomial of its UTF-8 bytes in an odd
constant modulo 2^64 with its length. The hash is not cryptographic: chosen ids can all fall into one part.
Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", for the finaliser.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HASH_NAME = "revgnn-poly64-splitmix64-v1"

_BASE = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hash_ids(ids: pa.Array, seed: int) -> NDArray[np.uint64]:
    """Hash a column of ids.

    Args:
        ids: int64 or large_string Arrow array without nulls.
        seed: different seeds give independent hashes.
    Returns: [rows] uint64.
    Cost: a few passes; for strings, 8 bytes of temporary memory per byte of text.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(seed % 2**64) + _BASE)
        if pa.types.is_integer(ids.type):
            hashes: NDArray[np.uint64] = _mix(np.asarray(ids).astype(np.int64).view(np.uint64) ^ start)
            return hashes
        values, lengths = _polynomials(ids)
        hashes = _mix(values ^ _mix(lengths.astype(np.uint64) ^ start))
        return hashes


def uniform(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Convert hashes to numbers in [0, 1), from their upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: Any) -> Any:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def _polynomials(ids: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Evaluate ``sum_k byte_k base^k`` of every string, as differences of one running sum modulo 2^64."""
    _, offsets, text = ids.buffers()
    ends = (
        np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1] if len(ids) else np.zeros(1, np.int64)
    )
    lengths = np.diff(ends)
    count = int(ends[-1] - ends[0])
    if not count:
        return np.zeros(len(ids), np.uint64), lengths
    data = np.frombuffer(text, np.uint8)[ends[0] : ends[-1]].astype(np.uint64)
    powers = np.full(int(lengths.max()), _BASE, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    starts = ends[:-1] - ends[0]
    place = np.arange(count) - np.repeat(starts, lengths)
    running = np.zeros(count + 1, np.uint64)
    np.cumsum(data * powers[place], out=running[1:])
    return running[starts + lengths] - running[starts], lengths
