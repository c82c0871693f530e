"""Wrap one segment of a stack as a module, so that FSDP gathers its weights before use and frees them afterwards.

Forward and backward of the layers happen between the module's call and the gradient of its input, where module wrappers
hook in. A segment is not a submodule of the stack, so the weights keep their names there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn


class Segment(nn.Module):
    """The layers of one run of a stack.

    Args:
        layers: the layers, each a ModuleList of blocks.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, advance: Callable[[Tensor, list[Tensor]], Tensor], x: Tensor, tensors: list[Tensor]) -> Tensor:
        """Run the layers.

        Args:
            advance: ``(x, tensors) -> x``, the run of these layers.
            x: [N, D] stream.
            tensors: the context tensors.
        Returns: [N, D].
        """
        return advance(x, tensors)
