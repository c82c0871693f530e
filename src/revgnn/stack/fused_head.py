"""What follows a stack row by row, evaluated in blocks of rows: so that its activations never exist for all of them.

Inside a reversible run it has a second use: the stream's last state does not leave the run, nobody else can hold it,
and the backward may take it back in the very memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from .gradients import pull_back
from .recompute import Recompute, View
from .seeds import fold_seed

ROWS = 4096
"""Rows of a block where nothing else is asked for."""


@dataclass(frozen=True)
class FusedHead:
    """A map of single rows, ``[n, D] -> [n, T]``, and the seed of its random choices.

    Rows are taken ``block_rows`` at a time, and each block has a seed of its own, so that the values do not depend on
    where the head is evaluated.
    """

    module: nn.Module
    """Whose parameters it has."""
    rows: Callable[[Tensor, int], Tensor]
    """``(rows, seed) -> values``: a pure function that treats every row alike."""
    seed: int
    block_rows: int = ROWS
    """Rows that are evaluated at a time; the fewer, the less memory for their activations."""

    @cached_property
    def recompute(self) -> Recompute:
        """What evaluates the rows, and evaluates them again."""
        devices = (parameter.device for parameter in self.module.parameters())
        return Recompute({self.module: View(self.module)}, next(devices, torch.device("cpu")))

    def __call__(self, y: Tensor, *, keep: bool = False) -> Tensor:
        """[N, D] -> [N, T], as autograd follows it; ``keep``: `pull_back` follows."""
        blocks = []
        for key, (block, seed) in enumerate(self._blocks(y)):
            evaluate = partial(self.rows, block, seed)
            blocks.append(self.recompute.first(key, self.module, seed, evaluate, keep=keep))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def pull_back(self, y: Tensor, cotangent: Tensor, add_parameter: Callable[[int, Tensor | None], None]) -> Tensor:
        """Turn the gradient of the values into that of ``y``, block by block; parameters' go to ``add_parameter`` with
        their position in `recompute`."""
        grad = torch.empty_like(y)
        parameters = self.recompute.leaves_of(self.module)
        done = 0
        for key, (block, seed) in enumerate(self._blocks(y)):
            part = slice(done, done + block.size(0))
            with self.recompute.again(key, self.module, seed):
                with torch.enable_grad():
                    leaf = block.detach().requires_grad_()
                    value = self.rows(leaf, seed)
                found = pull_back(value, cotangent[part].to(value.dtype), [leaf, *parameters.values()])
            grad[part] = 0.0 if found[0] is None else found[0]
            for position, share in zip(parameters, found[1:], strict=True):
                add_parameter(position, share)
            done = part.stop
        return grad

    def _blocks(self, y: Tensor) -> Iterator[tuple[Tensor, int]]:
        for k, first in enumerate(range(0, max(y.size(0), 1), self.block_rows)):
            yield y[first : first + self.block_rows], fold_seed(self.seed, k)
