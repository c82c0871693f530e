"""Check that a module is unmodified, so that a fused evaluation may use its weights directly.

Users modify networks: they replace a linear map by another module, patch the ``forward`` of an instance (accelerate's
hooks, adapters, quantisation), parametrize or prune weights, or change the dtype, width, stride or device of
parameters. A modified module is evaluated through its ``forward``.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from .. import ops
from ..stack import is_watched, keep_forwards

keep_forwards(nn.Linear)


def keeps_forward(module: nn.Module, own: type[nn.Module]) -> bool:
    """Whether a module uses the ``forward`` of ``own``: neither a subclass nor the instance overrides it."""
    return type(module).forward is own.forward and not is_watched(module)


def reads(module: nn.Module, name: str, like: Tensor, *shape: int) -> bool:
    """Whether an attribute is None, or a registered parameter (not a computed one) that a kernel can read together with
    ``like``."""
    registered = module._parameters
    if name in registered:
        return ops.fits(registered[name], like, *shape)
    return module.__dict__.get(name, _COMPUTED) is None


def is_bare(lin: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is an `nn.Linear` without hooks or a patched forward, so its weight may be used directly."""
    return type(lin) is nn.Linear and not is_watched(lin)


def mapped(lin: nn.Module, x: Tensor, *, wide: bool = False) -> Tensor:
    """Return ``lin(x)``; with ``wide`` in float32 also under autocast to bfloat16, where kernels do that.

    What becomes or is added to a stack's float32 stream is wide.

    Raises: RuntimeError: if an unmodified linear map is on another device than x: torch itself would read a ``meta``
        weight and return garbage.
    """
    if not torch.compiler.is_compiling() and is_bare(lin) and lin.weight.device != x.device:
        raise RuntimeError(
            f"x is on {x.device} but a linear map's weight on {lin.weight.device}; move the model with .to()"
        )
    if wide and _keeps_sums(x) and is_bare(lin) and lin.weight.dtype is torch.float32:
        return ops.linear(x, lin.weight, lin.bias, narrow=True)
    out: Tensor = lin(x)
    return out


def _keeps_sums(x: Tensor) -> bool:
    """Whether autocast multiplies these rows in bfloat16, and `ops.linear` has kernels for them.

    Not under a compiler, which would not fuse them with what is around.
    """
    return (
        x.dim() == 2
        and (x.dtype if x.dtype is torch.bfloat16 else ops.row_dtype(x)) is torch.bfloat16
        and not torch.compiler.is_compiling()
        and ops.kernels(x).narrow_rows
    )


def is_plain(lin: nn.Module, like: Tensor, *, bias: bool, widths: tuple[int, int] | None = None) -> bool:
    """Whether a module is an unmodified linear map whose parameters a kernel can read together with ``like``.

    Args:
        lin: the module.
        like: [N, D], its input, or a tensor of that type.
        bias: whether the map may have a bias.
        widths: columns of its input and of its output; ``None``: D and D.
    """
    inside, outside = widths or (like.size(1), like.size(1))
    return (
        is_bare(lin)
        and reads(lin, "weight", like, outside, inside)
        and (reads(lin, "bias", like, outside) if bias else lin.bias is None)
    )


_COMPUTED = object()
