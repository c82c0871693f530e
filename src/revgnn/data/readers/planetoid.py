"""Checks Planetoid's pickle files before they are loaded, so that no code in them runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_NAMES = frozenset(
    {
        ("collections", "defaultdict"),
        ("__builtin__", "list"),
        ("builtins", "list"),
        ("_codecs", "encode"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("scipy.sparse.csr", "csr_matrix"),
        ("scipy.sparse._csr", "csr_matrix"),
    }
)
"""What the files of the three data sets name: arrays, sparse matrices, and a dictionary of lists."""

_FAULTS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which is no array; it is no file of Planetoid's")
        return super().find_class(module, name)


def check_arrays_only(path: Path) -> None:
    """Read a file as PyG will, but refuse every name that is not of an array, a sparse matrix or a dictionary of lists.

    Raises: ValueError: it names something else, or is damaged; nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            _ArraysOnly(file, encoding="latin1").load()
    except _FAULTS as error:
        raise ValueError(f"{path} {error}") from error
