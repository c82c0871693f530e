"""What a stack hands to its blocks besides the stream: context arguments, and the autocast state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor


class ChannelSplit(NamedTuple):
    """A context argument [..., D] of which each group reads its own D/C channels; made by `split`."""

    value: Tensor


def split(value: Tensor) -> ChannelSplit:
    """Mark a context argument to be chunked by groups along its last dimension; unmarked ones are shared.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> from revgnn.stack import split
        >>> class Block(torch.nn.Linear):
        ...     def forward(self, x, seed, mask):  # both of this group's width
        ...         return super().forward(x) * mask
        >>> stack = revgnn.Stack(lambda width: Block(width, width), channels=8, num_layers=3, coupling="grouped")
        >>> stack(torch.randn(5, 8), split(torch.ones(5, 8))).shape
        torch.Size([5, 8])
    """
    return ChannelSplit(value)


def split_context(
    context: tuple[object, ...], num_groups: int
) -> tuple[tuple[object, ...], tuple[tuple[int, bool], ...], list[Tensor]]:
    """Separate context arguments into a template with None for tensors, the tensors' positions, and the tensors.

    Raises: ValueError: the channels of a split argument do not divide into the groups.
    """
    template: list[object] = []
    places, tensors = [], []
    for position, value in enumerate(context):
        tensor = value.value if isinstance(value, ChannelSplit) else value
        if isinstance(tensor, Tensor):
            is_split = isinstance(value, ChannelSplit)
            if is_split and tensor.size(-1) % num_groups:
                raise ValueError(
                    f"a split context argument of {tensor.size(-1)} channels does not divide into {num_groups} groups"
                )
            places.append((position, is_split))
            tensors.append(tensor)
        template.append(None if isinstance(tensor, Tensor) else tensor)
    return tuple(template), tuple(places), tensors


class Autocast(NamedTuple):
    """The autocast state of a block's first evaluation, restored for its recomputation."""

    device_type: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def current(cls, device_type: str) -> Autocast:
        """Return the current autocast state."""
        if not torch.amp.is_autocast_available(device_type):
            device_type = "cpu"  # of tensors on meta
        return cls(device_type, torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type))

    def __call__(self) -> AbstractContextManager[object]:
        """Enter this state without a weight cache: a cast cached under no_grad would cut the recomputation's graph."""
        if not self.enabled and not torch.is_autocast_enabled(self.device_type):
            return AS_IT_IS
        return torch.autocast(self.device_type, self.dtype, self.enabled, cache_enabled=False)


AS_IT_IS = nullcontext()
