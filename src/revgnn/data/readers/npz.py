"""Reads required arrays of an ``.npz`` file without pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files import DAMAGED_ARRAY


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[np.generic]]:
    """Read the named arrays of a file.

    Raises: ValueError: it is damaged or no ``.npz``, holds Python objects, or lacks a required array.
    """
    try:
        with zipfile.ZipFile(path), np.load(path) as file:
            arrays = {key: file[key] for key in (*required, *optional) if key in file}
    except DAMAGED_ARRAY as error:
        raise ValueError(f"{path} is damaged: {error}; fetch or write it again") from error
    missing = [key for key in required if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(required)}; it lacks {', '.join(missing)}")
    return arrays
