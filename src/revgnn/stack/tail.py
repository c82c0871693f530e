"""What follows a stack row by row, evaluated in blocks of rows: so that its activations never exist for all of them.

Inside a reversible run it has a second use: the stream's last state does not leave the run, nobody else can hold it,
and the backward may take it back in the very memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .purity import rebuilding
from .seeds import fold_seed

ROWS = 4096
"""Of a block."""


@dataclass(frozen=True)
class Tail:
    """A map of single rows, ``[n, D] -> [n, T]``, and the seed of its random choices.

    Rows are taken `ROWS` at a time, and each block has a seed of its own, so that the values do not depend on where the
    tail is evaluated.
    """

    module: nn.Module
    """Whose parameters it has."""
    rows: Callable[[Tensor, int], Tensor]
    """``(rows, seed) -> values``: a pure function that treats every row alike."""
    seed: int

    def __call__(self, y: Tensor) -> Tensor:
        """[N, D] -> [N, T], as autograd follows it."""
        blocks = [self.rows(block, seed) for block, seed in self._blocks(y)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def parameters(self) -> list[nn.Parameter]:
        """Those that need gradients."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def pull_back(
        self, y: Tensor, cotangent: Tensor, add_parameter: Callable[[nn.Parameter, Tensor | None], None]
    ) -> Tensor:
        """Turn the gradient of the values into that of ``y``, block by block; parameters' go to ``add_parameter``."""
        grad = torch.empty_like(y)
        parameters = self.parameters()
        done = 0
        for block, seed in self._blocks(y):
            part = slice(done, done + block.size(0))
            with torch.enable_grad(), rebuilding():
                leaf = block.detach().requires_grad_()
                value = self.rows(leaf, seed)
            found = torch.autograd.grad(
                value, [leaf, *parameters], cotangent[part].to(value.dtype), allow_unused=True, materialize_grads=True
            )
            grad[part] = found[0]
            for parameter, share in zip(parameters, found[1:], strict=True):
                add_parameter(parameter, share)
            done = part.stop
        return grad

    def _blocks(self, y: Tensor) -> Iterator[tuple[Tensor, int]]:
        for k, first in enumerate(range(0, max(y.size(0), 1), ROWS)):
            yield y[first : first + ROWS], fold_seed(self.seed, k)
