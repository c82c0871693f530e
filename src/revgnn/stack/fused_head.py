"""A row-wise head fused with a stack: evaluated and differentiated in blocks of rows, to save its activations.

Inside a reversible run it also saves a copy: the run's last state has no other reference, so the backward may invert it
in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from .conditions import View
from .gradients import pull_back
from .recompute import Recompute
from .repeatable import check_closed
from .seeds import fold_seed

ROWS = 4096
"""Rows per block by default."""


@dataclass(frozen=True)
class FusedHead:
    """A row-wise map ``[n, D] -> [n, T]`` and its seed.

    It is evaluated on ``block_rows`` rows at a time with a seed per block, so that the values do not depend on whether
    a stack evaluates it.

    Examples:
        >>> import torch
        >>> from revgnn.stack import FusedHead
        >>> linear = torch.nn.Linear(8, 3)
        >>> head = FusedHead(linear, lambda rows, seed: linear(rows), seed=0, block_rows=50)
        >>> head(torch.randn(120, 8)).shape  # three blocks of rows; a stack takes it as ``stack(x, head=head)``
        torch.Size([120, 3])
    """

    module: nn.Module
    """The module that owns its parameters."""
    rows: Callable[[Tensor, int], Tensor]
    """``(rows, seed) -> values``: a pure function of each row."""
    seed: int
    block_rows: int = ROWS
    """Rows that are evaluated at a time; the fewer, the less memory for their activations."""

    @cached_property
    def recompute(self) -> Recompute:
        """The evaluator of the module, which can repeat its evaluations."""
        devices = (parameter.device for parameter in self.module.parameters())
        return Recompute({self.module: View(self.module)}, next(devices, torch.device("cpu")))

    def __call__(self, *columns: Tensor, keep: bool = False) -> Tensor:
        """Return [N, T] values for [N, D] rows, recorded by autograd if enabled; ``keep``: `pull_back` follows. The
        rows are one tensor, or several whose columns follow one another."""
        blocks = []
        for key, (block, seed) in enumerate(self._blocks(columns)):
            evaluate = partial(self.rows, block, seed)
            blocks.append(self.recompute.first(key, self.module, seed, evaluate, keep=keep))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def pull_back(
        self,
        columns: Sequence[Tensor],
        cotangent: Tensor,
        num_parts: int,
        add_parameter: Callable[[int, Tensor | None], None],
    ) -> Tensor:
        """Return the gradient of the rows for that of the values, block by block.

        Args:
            columns: the [N, D] rows, as `__call__` takes them.
            cotangent: [N, T] gradient of the values.
            num_parts: C, which divides D.
            add_parameter: receives each parameter's position in `recompute` and its gradient.
        Returns: [C, N, D/C], parts whose columns follow one another.
        """
        width = sum(part.size(1) for part in columns) // num_parts
        grads = columns[0].new_empty(num_parts, columns[0].size(0), width)
        done = 0
        for key, (block, seed) in enumerate(self._blocks(columns)):
            part = slice(done, done + block.size(0))
            with self.recompute.again(key, self.module, seed):
                parameters = self.recompute.leaves()
                with torch.enable_grad():
                    leaf = block.detach().requires_grad_()
                    value = self.rows(leaf, seed)
                leaves = [leaf, *parameters.values()]
                check_closed(value, leaves, type(self.module).__name__)
                found = pull_back(value, cotangent[part].to(value.dtype), leaves)
            for i, grad in enumerate(grads):
                grad[part] = 0.0 if found[0] is None else found[0].narrow(1, i * width, width)
            for position, share in zip(parameters, found[1:], strict=True):
                add_parameter(position, share)
            done = part.stop
        return grads

    def _blocks(self, columns: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
        for k, first in enumerate(range(0, max(columns[0].size(0), 1), self.block_rows)):
            parts = [part[first : first + self.block_rows] for part in columns]
            yield parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), fold_seed(self.seed, k)
