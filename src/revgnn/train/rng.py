"""Saves and restores the states of the global random generators as tensors and JSON values, without pickle."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

_log = logging.getLogger(__name__)

_PYTHON_WORDS, _NUMPY_WORDS = 625, 624


def capture_rng() -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Capture the states of torch (CPU, and CUDA if it is initialised), Python and numpy.

    Returns: named tensors, and a few numbers as JSON values.
    """
    version, words, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{index}"] = state
    facts = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {"algorithm": algorithm, "position": position, "has_gauss": has_gauss, "cached": cached},
    }
    return tensors, facts


def restore_rng(tensors: dict[str, Tensor], facts: dict[str, dict[str, Any]]) -> None:
    """Restore the states that `capture_rng` returned.

    Raises: ValueError: a state has the wrong name, dtype or length.
    """
    wanted = {
        "torch": (torch.uint8, torch.get_rng_state().numel()),
        "python": (torch.int64, _PYTHON_WORDS),
        "numpy": (torch.int64, _NUMPY_WORDS),
    }
    for name, (dtype, length) in wanted.items():
        state = tensors.get(name)
        if state is None or state.dtype != dtype or state.shape != (length,):
            got = "nothing" if state is None else f"{state.dtype} {list(state.shape)}"
            raise ValueError(f"the random state of {name} must be {dtype} [{length}], got {got}")
    try:
        python, legacy = facts["python"], facts["numpy"]
        random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
        keys = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state((legacy["algorithm"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"]))
        torch.set_rng_state(tensors["torch"])
        _restore_cuda(tensors)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"a random state cannot be put back: {error}") from error


def _restore_cuda(tensors: dict[str, Tensor]) -> None:
    states = [tensors[f"cuda.{index}"] for index in range(len(tensors)) if f"cuda.{index}" in tensors]
    if not states:
        return
    if torch.cuda.device_count() == len(states):
        torch.cuda.set_rng_state_all(states)
    else:
        _log.warning(
            "the checkpoint has random states of %d CUDA devices and this machine has %d: they are left as they are",
            len(states),
            torch.cuda.device_count(),
        )
