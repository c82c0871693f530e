"""The fused evaluation of an MLP of one or two linear maps: value and gradients without autograd, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from ... import ops
from ...ops import cpu
from ...stack import WorkSpace
from ..fusable import is_plain
from ..norms import ActDrop, kind_of
from .interface import Gradients, empty_grads

ROWS = 8_192
"""Rows of a block of two maps, whose hidden layer exists for one block at a time."""
RELU = ActDrop()
"""What follows the norm of a hidden layer."""


class FusedMLP(NamedTuple):
    """``lin(x)``, or ``lin_2(relu(norm(lin_1(x))))``."""

    lins: nn.ModuleList
    norms: nn.ModuleList
    """One for each hidden layer; LayerNorm or none, so that rows do not depend on each other."""

    def fuses(self, x: Tensor) -> bool:
        """Whether the fused evaluation applies to [N, in]."""
        if not 1 <= len(self.lins) <= 2:
            return False
        inside = x.size(1)
        for lin in self.lins:
            outside = getattr(lin, "out_features", 0)
            if not is_plain(lin, x, bias=True, widths=(inside, outside)):
                return False
            inside = outside
        hidden = x.new_empty(0, self._hidden)
        return all(kind_of(norm, hidden) in ("layer", "none") and RELU.fuses(norm, hidden) for norm in self.norms)

    def add_value(self, to: Tensor, sign: int, x: Tensor, plus: Tensor, work: WorkSpace) -> None:
        """Put the value at ``x + plus`` into ``to``, as `FusedBlock` says of ``sign``."""
        kernels, (first, last) = ops.kernels(x), self._ends
        if len(self.lins) == 1:
            kernels.linear(x, last.weight, last.bias, out=to, sign=sign, plus=plus)
            return
        for rows, own in _blocks(x, work):
            inner, outer = self._buffers(x[rows], own)
            kernels.linear(x[rows], first.weight, first.bias, out=inner, plus=plus[rows])
            RELU.write(self.norms[0], outer, inner, own, cpu.NO_DROP)
            kernels.linear(outer, last.weight, last.bias, out=to[rows], sign=sign)

    def add_value_and_grad(
        self, to: Tensor, sign: int, x: Tensor, plus: Tensor, cotangent: Tensor, dx: Tensor, work: WorkSpace
    ) -> Gradients:
        """Put the value into ``to``, and the gradient of x into ``dx``, which may be ``plus`` itself.

        Returns: the gradients of the parameters.
        """
        kernels, (first, last) = ops.kernels(x), self._ends
        if len(self.lins) == 1:
            return _linear_backward(last, cotangent, x, dx, plus=plus, value=to, sign=sign)
        grads: Gradients = {}
        for rows, own in _blocks(x, work):
            inner, outer = self._buffers(x[rows], own)
            kernels.linear(x[rows], first.weight, first.bias, out=inner, plus=plus[rows])
            RELU.write(self.norms[0], outer, inner, own, cpu.NO_DROP)
            found = _linear_backward(last, cotangent[rows], outer, outer, value=to[rows], sign=sign)
            dinner = own.empty("dinner", inner)
            found |= RELU.pull_back(self.norms[0], dinner, inner, outer, own, cpu.NO_DROP, accumulate=False)
            found |= _linear_backward(first, dinner, x[rows], dx[rows], plus=plus[rows])
            for parameter, share in found.items():
                grads[parameter] = grads[parameter].add_(share) if parameter in grads else share
        return grads

    def _buffers(self, x: Tensor, work: WorkSpace) -> tuple[Tensor, Tensor]:
        """Return the hidden layer's buffers before the norm, in the type of sums over x, and behind the ReLU."""
        shape = (x.size(0), self._hidden)
        return work.empty("inner", x, shape, cpu.sum_dtype(x.dtype)), work.empty("outer", x, shape)

    @property
    def _ends(self) -> tuple[nn.Linear, nn.Linear]:
        first, last = self.lins[0], self.lins[-1]
        assert isinstance(first, nn.Linear), "asked for after `fuses` only"
        assert isinstance(last, nn.Linear), "asked for after `fuses` only"
        return first, last

    @property
    def _hidden(self) -> int:
        return self._ends[0].out_features


def _blocks(x: Tensor, work: WorkSpace) -> Iterator[tuple[slice, WorkSpace]]:
    """Yield blocks of rows, each with a work space for blocks of its size."""
    for low in range(0, x.size(0), ROWS):
        rows = slice(low, min(low + ROWS, x.size(0)))
        yield rows, work.part("mlp" if rows.stop - low == ROWS else "last of mlp")


def _linear_backward(
    lin: nn.Linear,
    grad: Tensor,
    x: Tensor,
    dx: Tensor,
    *,
    plus: Tensor | None = None,
    value: Tensor | None = None,
    sign: int = 0,
) -> Gradients:
    grads = empty_grads(lin.weight, lin.bias)
    ops.kernels(x).linear_backward(
        grad, x, lin.weight, lin.bias,
        dweight=grads[lin.weight], dbias=grads.get(lin.bias), dx=dx, plus=plus, value=value, sign=sign,
    )  # fmt: skip
    return grads
