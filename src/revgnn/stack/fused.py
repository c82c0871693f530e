"""Blocks that differentiate themselves: value and gradient from one visit, in place, in memory that layers share.

Autograd serves every block. One that offers `FusedBlock` too is asked first, wherever no graph has to be kept, and the
numerics tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .recompute import is_watched, parts_of


class WorkSpace:
    """Buffers by name, for the blocks of one run to use in turn: made when first asked for, gone with the run.

    What a block leaves in one is overwritten by the next, so nothing of a block may outlive its evaluation there.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def empty(self, name: str, like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """A dense buffer of the dtype and device of ``like``, and of its shape where none is given; its content is
        whatever was left there."""
        size = torch.Size(like.shape if shape is None else shape)
        found = self._buffers.get(name)
        if found is None or found.shape != size or found.dtype != like.dtype or found.device != like.device:
            found = self._buffers[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return found


@runtime_checkable
class FusedBlock(Protocol):
    """A block with an evaluation of its own that makes no graph.

    Both evaluations give the same value, bit for bit, for the same arguments. Both send it to ``to``: written with
    ``sign`` 0, added with 1, subtracted with -1.
    """

    def fuses(self, x: Tensor, *context: Any) -> bool:
        """Whether these arguments can be taken; the answer depends on nothing that changes within a step."""
        ...

    def add_value(self, to: Tensor, sign: int, x: Tensor, seed: int, *context: Any, work: WorkSpace) -> None:
        """Send ``f(x)`` to ``to``, which may be ``x`` itself."""
        ...

    def add_value_and_grad(
        self,
        to: Tensor,
        sign: int,
        x: Tensor,
        cotangent: Tensor,
        dx: Tensor,
        seed: int,
        *context: Any,
        accumulate: bool,
        work: WorkSpace,
    ) -> Mapping[Any, Tensor]:
        """Send ``f(x)`` to ``to``, and ``J^T cotangent`` to ``dx``: added with ``accumulate``, else written.

        Returns: the gradients of the parameters. Neither ``to`` nor ``dx`` shares memory with an input.
        """
        ...


def is_fused(block: nn.Module, x: Tensor, arguments: Sequence[Any]) -> bool:
    """Whether a block evaluates itself for these arguments, if nobody waits to see its parts at work."""
    return isinstance(block, FusedBlock) and block.fuses(x, *arguments)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody waits to see a module, or one inside it, at work, or has replaced a forward there."""
    return any(is_watched(part) for part in parts_of(module))


def is_anything_watched() -> bool:
    """Whether hooks of all modules, or a mode that counts or changes operators, wait to see every module at work."""
    if _has_any_global_hook():  # type: ignore[no-untyped-call]
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and any(
        not getattr(mode, "counts_memory_only", False) for mode in _get_current_dispatch_mode_stack()
    )
