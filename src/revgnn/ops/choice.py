"""Which implementation runs the ops on a device: chosen once, said once.

`REVGNN_OPS` in the environment asks for one: ``auto`` (the default: the fastest there is), ``native`` (the compiled CPU
kernels or an error) or ``reference`` (plain torch everywhere).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from . import native

Choice = Literal["auto", "native", "reference"]
Implementation = Literal["native", "reference"]

_LOG = logging.getLogger("revgnn")
_said: set[tuple[str, str]] = set()


def _checked(name: str) -> Choice:
    for choice in get_args(Choice):
        if name == choice:
            if name == "native" and not native.AVAILABLE:
                raise RuntimeError(f"REVGNN_OPS=native, but {native.STATE}; use REVGNN_OPS=auto or reference")
            chosen: Choice = choice
            return chosen
    raise ValueError(f"REVGNN_OPS must be one of {', '.join(get_args(Choice))}, got {name!r}")


_choice: Choice = _checked(os.environ.get("REVGNN_OPS", "auto"))


def implementation(device: torch.device | str) -> Implementation:
    """Name the implementation that runs the ops on ``device``: ``native`` or ``reference``."""
    device_type = device.type if isinstance(device, torch.device) else torch.device(device).type
    name: Implementation = "reference"
    if device_type == "cpu" and _choice != "reference" and native.AVAILABLE:
        name = "native"
    if (device_type, name) not in _said and not torch.compiler.is_compiling():
        _said.add((device_type, name))
        _say(device_type, name)
    return name


def _say(device_type: str, name: Implementation) -> None:
    if name == "native":
        _LOG.info("ops on %s run on the native kernels (%s, %s)", device_type, native.isa(), native.STATE)
    elif device_type == "cpu" and _choice == "auto":
        _LOG.warning("ops on cpu run on the reference implementation, several times slower: %s", native.STATE)
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
