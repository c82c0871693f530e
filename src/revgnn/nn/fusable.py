"""Whether a module is still what it was made as: what a fused evaluation must know before it leaves ``forward`` out.

Users exchange parts of a network: another module in the place of a linear map, a ``forward`` put on an instance
(accelerate's hooks, adapters, quantisation), parametrized or pruned weights, parameters of another type, width, stride
or device. What is not plain is evaluated by its ``forward``, which does what it does or raises what is wrong.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from .. import ops
from ..stack import is_watched


def keeps_forward(module: nn.Module, own: type[nn.Module]) -> bool:
    """Whether a module is evaluated by the ``forward`` of ``own``: neither a subclass nor an instance has another."""
    return type(module).forward is own.forward and "forward" not in module.__dict__


def reads(module: nn.Module, name: str, like: Tensor, *shape: int) -> bool:
    """Whether an attribute is the parameter that is registered by this name, nothing computes it, and a kernel can read
    it beside ``like``; ``None`` is as good."""
    registered = module._parameters
    if name in registered:
        return ops.fits(registered[name], like, *shape)
    return module.__dict__.get(name, _COMPUTED) is None


def is_bare(lin: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear map that nobody watches or has changed: its weight may be used without it."""
    return type(lin) is nn.Linear and "forward" not in lin.__dict__ and not is_watched(lin)


def mapped(lin: nn.Module, x: Tensor) -> Tensor:
    """Return ``lin(x)``.

    Raises: RuntimeError: if a linear map that nobody moves is on another device: torch itself reads a weight without
        memory (``meta``) and returns whatever it finds.
    """
    if not torch.compiler.is_compiling() and is_bare(lin) and lin.weight.device != x.device:
        raise RuntimeError(
            f"x is on {x.device} but a linear map's weight on {lin.weight.device}; move the model with .to()"
        )
    out: Tensor = lin(x)
    return out


def is_plain(lin: nn.Module, like: Tensor, *, bias: bool) -> bool:
    """Whether a linear map is just that, from the width of ``like`` [N, D] to the same, and readable beside it.

    Args:
        lin: the map.
        like: its input.
        bias: whether it may have one.
    """
    width = like.size(1)
    return (
        type(lin) is nn.Linear
        and "forward" not in lin.__dict__
        and reads(lin, "weight", like, width, width)
        and (reads(lin, "bias", like, width) if bias else lin.bias is None)
    )


_COMPUTED = object()
