"""Calls that torch.compile leaves as they are: of what branches on data, draws seeds, or hands memory to kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_T = TypeVar("_T")


def is_compiled() -> bool:
    """Whether torch.compile is tracing the caller; torch.export, which wants all of it, is not that."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def is_constant(number: int) -> bool:
    """Whether a number is the same in every call of the function that is being compiled."""
    return torch.fx.experimental.symbolic_shapes.has_static_value(number)


def _call(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    return function(*args, **kwargs)


def __getattr__(name: str) -> Any:
    """Make `call` when a compiler asks for it: importing the compiler takes seconds and 150 MB of who does not."""
    if name != "call":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = torch.compiler.disable(_call, reason=_REASON)  # type: ignore[no-untyped-call]
    return globals()[name]


_REASON = "revgnn runs this part as it is: its kernels are compiled already, and its seeds change at every step"
