"""Exclude calls from torch.compile: code that branches on data, draws seeds, or passes pointers to kernels.

Examples:
    >>> from revgnn.stack import uncompiled
    >>> uncompiled.call(max, 1, 2)  # the same value; inside torch.compile a graph break
    2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_compiled() -> bool:
    """Whether torch.compile traces the caller; false under torch.export, which needs the full program."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def is_constant(number: int) -> bool:
    """Whether a number is a compile-time constant of the function being compiled."""
    return torch.fx.experimental.symbolic_shapes.has_static_value(number)


def _call(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    return function(*args, **kwargs)


if TYPE_CHECKING:
    call = _call


def __getattr__(name: str) -> object:
    """Create `call` on first use, because importing the compiler takes seconds and 150 MB."""
    if name != "call":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = torch.compiler.disable(_call, reason=_REASON)  # type: ignore[no-untyped-call]
    return globals()[name]


_REASON = "revgnn runs this part uncompiled: its kernels are compiled already, and its seeds change at every step"
