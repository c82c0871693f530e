"""Selects the backend that runs the ops on a device, and logs the choice once.

The environment variable `REVGNN_OPS` selects one: ``auto`` (the default: the fastest available), ``native`` (the
compiled CPU kernels, or an error), ``triton`` (the CUDA kernels, or an error; on the CPU with TRITON_INTERPRET=1, for
tests) or ``reference`` (plain torch everywhere).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from ..edge_index import is_for_onnx
from . import cpu, triton
from .backend import REFERENCE, Backend

Choice = Literal["auto", "native", "triton", "reference"]

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


def implementation(device: torch.device | str) -> str:
    """Name the implementation that runs the ops on ``device``: ``native``, ``triton`` or ``reference``.

    Raises: RuntimeError: if Triton was asked for and has no way to run on ``device``.

    Examples:
        >>> from revgnn import ops
        >>> ops.implementation("cpu") in ("native", "reference", "triton")
        True
    """
    return backend_for(device).name


def backend_for(device: torch.device | str) -> Backend:
    """Return the backend that runs the ops on ``device``; log it on the first call.

    Raises: RuntimeError: if Triton was asked for and has no way to run on ``device``.
    """
    device_type = device.type if isinstance(device, torch.device) else torch.device(device).type
    if is_for_onnx():
        return REFERENCE
    backend = _compiled(device_type) if _choice != "reference" else REFERENCE
    if (device_type, backend.name) not in _said and not torch.compiler.is_compiling():
        _said.add((device_type, backend.name))
        _say(device_type, backend.name)
    return backend


def _compiled(device_type: str) -> Backend:
    if device_type == "cpu" and _choice == "triton":
        if not triton.interpreted():
            raise RuntimeError(
                "REVGNN_OPS=triton, but the tensors are on the CPU, where its kernels can only be interpreted; move "
                "them to CUDA, use REVGNN_OPS=auto, or set TRITON_INTERPRET=1 before the start (very slow: for tests)"
            )
        return triton.BACKEND
    if device_type == "cpu" and cpu.AVAILABLE:
        return cpu.BACKEND
    return triton.BACKEND if device_type == "cuda" and triton.AVAILABLE else REFERENCE


def kernels(x: Tensor) -> Backend:
    """Return the backend whose kernels can read a tensor, the CPU's or Triton's, independent of the selected one.

    Each backend's backward can read what the other's forward saved; neither is used if the reference runs. A
    `Recording` of this thread takes the place of the CPU's.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> type(ops.kernels(torch.ones(1))).__name__
        'Backend'
    """
    return triton.BACKEND if x.is_cuda or _choice == "triton" else _recording.backend or cpu.BACKEND


class _Recording(threading.local):
    backend: Backend | None = None


_recording = _Recording()


@contextmanager
def recording_on(backend: Backend) -> Iterator[None]:
    """Context in which `kernels` returns this backend for tensors on the CPU, in this thread."""
    before, _recording.backend = _recording.backend, backend
    try:
        yield
    finally:
        _recording.backend = before


def lacks(backend: Backend, device: torch.device, op: str) -> None:
    """Log once that an op has no kernels in the selected backend."""
    if (device.type, op) not in _said and not torch.compiler.is_compiling():
        _said.add((device.type, op))
        _LOG.warning(
            "%s on %s runs on the reference implementation: %s has no kernel for it", op, device.type, backend.name
        )


def _say(device_type: str, name: str) -> None:
    if name == "native":
        _LOG.info("ops on %s run on the native kernels (%s)", device_type, cpu.isa())
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
    """Context in which the ops run on another implementation, in every thread.

    Raises: ValueError, RuntimeError: the implementation does not exist, or is not available here.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> with ops.using("reference"):
        ...     print(ops.implementation("cpu"))
        reference
    """
    global _choice
    before, _choice = _choice, _checked(choice)
    try:
        yield
    finally:
        _choice = before
