"""Which implementation runs the ops on a device: chosen once, said once.

`REVGNN_OPS` in the environment asks for one: ``auto`` (the default: the fastest there is), ``native`` (the compiled CPU
kernels or an error), ``triton`` (the CUDA kernels or an error; on the CPU with TRITON_INTERPRET=1, for tests) or
``reference`` (plain torch everywhere).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from . import cpu, triton

Choice = Literal["auto", "native", "triton", "reference"]
Implementation = Literal["native", "triton", "reference"]

_LOG = logging.getLogger("revgnn")
_SLOW = ("cpu", "cuda")
_said: set[tuple[str, str]] = set()


def _checked(name: str) -> Choice:
    for choice in get_args(Choice):
        if name == choice:
            if name == "native" and not cpu.AVAILABLE:
                raise RuntimeError(f"REVGNN_OPS=native, but {cpu.STATE}; use REVGNN_OPS=auto or reference")
            if name == "triton" and not triton.AVAILABLE:
                raise RuntimeError(f"REVGNN_OPS=triton, but {triton.STATE}; use REVGNN_OPS=auto or reference")
            chosen: Choice = choice
            return chosen
    raise ValueError(f"REVGNN_OPS must be one of {', '.join(get_args(Choice))}, got {name!r}")


_choice: Choice = _checked(os.environ.get("REVGNN_OPS", "auto"))


def implementation(device: torch.device | str) -> Implementation:
    """Name the implementation that runs the ops on ``device``: ``native``, ``triton`` or ``reference``.

    Raises: RuntimeError: if Triton was asked for and has no way to run on ``device``.
    """
    device_type = device.type if isinstance(device, torch.device) else torch.device(device).type
    name = _compiled(device_type) if _choice != "reference" else "reference"
    if (device_type, name) not in _said and not torch.compiler.is_compiling():
        _said.add((device_type, name))
        _say(device_type, name)
    return name


def _compiled(device_type: str) -> Implementation:
    if device_type == "cpu" and _choice == "triton":
        if not triton.interpreted():
            raise RuntimeError(
                "REVGNN_OPS=triton, but the tensors are on the CPU, where its kernels can only be interpreted; move "
                "them to CUDA, use REVGNN_OPS=auto, or set TRITON_INTERPRET=1 before the start (very slow: for tests)"
            )
        return "triton"
    if device_type == "cpu" and cpu.AVAILABLE:
        return "native"
    return "triton" if device_type == "cuda" and triton.AVAILABLE else "reference"


def kernels(x: Tensor) -> ModuleType:
    """Return the functions of the compiled implementation for a tensor: `revgnn.ops.cpu` or `revgnn.ops.triton`.

    What one's forward saved the other's backward can read, and neither is asked for where the reference runs.
    """
    return triton if x.is_cuda or _choice == "triton" else cpu


def _say(device_type: str, name: Implementation) -> None:
    if name == "native":
        _LOG.info("ops on %s run on the native kernels (%s, %s)", device_type, cpu.isa(), cpu.STATE)
    elif name == "triton":
        how = " in its interpreter, for tests" if device_type == "cpu" else ""
        _LOG.info("ops on %s run on the kernels for Triton%s", device_type, how)
    elif _choice == "auto" and device_type in _SLOW:
        why = cpu.STATE if device_type == "cpu" else triton.STATE
        _LOG.warning("ops on %s run on the reference implementation, several times slower: %s", device_type, why)
    else:
        _LOG.info("ops on %s run on the reference implementation", device_type)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Run the ops on another implementation for a while; in every thread.

    Raises: ValueError, RuntimeError: for a choice that does not exist, or not here.
    """
    global _choice
    before, _choice = _choice, _checked(choice)
    try:
        yield
    finally:
        _choice = before
