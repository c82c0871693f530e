"""The interface of fused blocks: value and vector-Jacobian product in one evaluation, in place, in shared buffers.

Autograd differentiates every block. A block that implements `FusedBlock` is used through it wherever no graph has to be
kept; the numerics tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Protocol, TypeGuard, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from .conditions import parts_of
from .surface import is_watched
from .surroundings import are_modified


class WorkSpace:
    """Named buffers that the blocks of one run share: allocated on first use, freed with the run.

    The next block overwrites a buffer, so no block may keep a result in one beyond its evaluation.

    Examples:
        >>> import torch
        >>> from revgnn.stack import WorkSpace
        >>> work = WorkSpace()
        >>> rows = work.empty("rows", torch.ones(5, 8))
        >>> work.empty("rows", torch.ones(5, 8)) is rows  # the next block writes into the same memory
        True
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._parts: dict[str, WorkSpace] = {}

    def part(self, name: str) -> WorkSpace:
        """Return a work space of its own, whose names are not those of this one; made on first use."""
        return self._parts.setdefault(name, WorkSpace())

    def empty(
        self, name: str, like: Tensor, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return a contiguous, uninitialised buffer on the device of ``like``, with its shape and dtype unless they are
        given."""
        size, dtype = like.shape if shape is None else tuple(shape), like.dtype if dtype is None else dtype
        found = self._buffers.get(name)
        if found is None or found.shape != size or found.dtype is not dtype or found.device != like.device:
            found = self._buffers[name] = torch.empty(size, dtype=dtype, device=like.device)
        return found


@runtime_checkable
class FusedBlock(Protocol):
    """A block with a fused evaluation that builds no graph.

    `add_value` and `add_value_and_grad` give the same value, bit for bit, for the same arguments. Both put it into
    ``to``: overwrite for ``sign`` 0, add for 1, subtract for -1.

    Examples:
        >>> import revgnn
        >>> from revgnn.stack import FusedBlock
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2), in_channels=4, out_channels=2)
        >>> isinstance(model.stack.layers[0][0], FusedBlock)
        True
    """

    def fuses(self, x: Tensor, *context: object) -> bool:
        """Whether the fused evaluation supports these arguments; constant within a step."""
        ...

    def add_value(self, to: Tensor, sign: int, x: Tensor, seed: int, *context: object, work: WorkSpace) -> None:
        """Put ``f(x)`` into ``to``, which may be ``x`` itself."""
        ...

    def add_value_and_grad(
        self,
        to: Tensor,
        sign: int,
        x: Tensor,
        cotangent: Tensor,
        dx: Tensor,
        seed: int,
        *context: object,
        accumulate: bool,
        work: WorkSpace,
    ) -> Mapping[Tensor | None, Tensor]:
        """Put ``f(x)`` into ``to`` and ``J^T cotangent`` into ``dx``: add to it with ``accumulate``, else overwrite.

        Neither ``to`` nor ``dx`` shares memory with an input.

        Returns: the gradients of the parameters, and of the tensors in ``context`` that this block has a share in.
        """
        ...


def is_fused(block: nn.Module, x: Tensor, arguments: Sequence[object]) -> TypeGuard[FusedBlock]:
    """Whether a block's fused evaluation supports these arguments; the caller checks for hooks."""
    kind: type = type(block)
    return _offers_fusion(kind) and cast(FusedBlock, block).fuses(x, *arguments)


@cache
def _offers_fusion(kind: type) -> bool:
    """Whether a class implements `FusedBlock`; cached, because the check takes as long as a small kernel."""
    return issubclass(kind, FusedBlock)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module or a submodule has hooks or a replaced forward.

    Examples:
        >>> import torch
        >>> from revgnn.stack import has_hooks
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> handle = net[0].register_forward_hook(print)
        >>> has_hooks(net)
        True
    """
    return any(is_watched(part) for part in parts_of(module))


def is_observed() -> bool:
    """Whether dispatch modes of the caller see every operator, except those that count memory or replace tensors."""
    modes = _get_current_dispatch_mode_stack() if torch._C._len_torch_dispatch_stack() else []
    return bool(modes) and not any(
        getattr(mode, "counts_memory_only", False) or getattr(mode, "_mode_key", None) is not None for mode in modes
    )


def unobserved() -> AbstractContextManager[object]:
    """Hide what is evaluated inside from the caller's dispatch modes: selective checkpointing, for example, expects the
    same operators in every forward. Modes that count memory or replace tensors stay."""
    return _disable_current_modes() if is_observed() else nullcontext()


def is_anything_watched() -> bool:
    """Whether hooks of all modules, or a mode that observes or changes functions, must see every module's call."""
    if are_modified():
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and any(
        not getattr(mode, "counts_memory_only", False) for mode in _get_current_dispatch_mode_stack()
    )
