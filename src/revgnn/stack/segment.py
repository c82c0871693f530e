"""Some layers of a stack as a module of their own, for who gathers weights before they are used and lets them go after.

Forward and backward of the layers happen between the call of the module and the gradient of its input, which is where
wrappers of modules hook in. The weights keep their names in the stack: a segment is no child of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn


class Segment(nn.Module):
    """The layers that one run of a stack takes.

    Args:
        layers: the blocks of each.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, advance: Callable[[Tensor, list[Tensor]], Tensor], x: Tensor, tensors: list[Tensor]) -> Tensor:
        """Run them.

        Args:
            advance: the run of these layers, from the stream and the context tensors to the stream behind them.
            x: [N, D] stream.
            tensors: the context tensors.
        """
        return advance(x, tensors)
