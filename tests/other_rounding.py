"""Products and sums of torch on the CPU as another processor might round them.

Libraries of linear algebra add in another order on other processors, for other numbers of rows, for other strides and
on other numbers of threads. `imitate` moves every entry of a product or sum by up to half a unit in the last place of
itself, or of the root of the sum of its squared terms where that is larger. The amount is drawn from the seed, the
shapes, the strides and the place of the entry: the same call gives the same bits twice, calls of other shapes do not,
and another seed is another processor. What is exact in every order stays as it is.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def spare(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory of numpy's, which no recorder of torch's memory counts."""
    dtype = dtype or like.dtype
    size = dtype.itemsize * max(like.numel(), 1)
    return torch.from_numpy(np.zeros(size, np.uint8)).view(dtype)[: like.numel()].view(like.shape)


def imitate(seed: int) -> torch.library.Library:
    """Replace torch's products and sums on the CPU while the returned library lives."""
    library = torch.library.Library("aten", "IMPL")

    def moved(name: str, out: Tensor, into: Callable[..., object], *inputs: Tensor) -> Tensor:
        """``into(out, *inputs)``, and as far from it as another order of the terms might end."""
        into(out, *inputs)
        if not all(x.is_floating_point() for x in (out, *inputs)):
            return out
        if all(torch.eq(x, torch.round(x, out=spare(x)), out=spare(x, torch.bool)).numpy().all() for x in inputs):
            return out
        size, terms, share = spare(out), spare(out), spare(out)
        into(size, *(torch.mul(x, x, out=spare(x)) for x in inputs))
        into(terms, *(torch.ne(x, 0, out=spare(x)) for x in inputs))
        one = torch.lt(terms, 1.5, out=spare(out, torch.bool))
        torch.maximum(size.sqrt_(), torch.abs(out, out=terms), out=size)
        key = repr((seed, name, [(tuple(x.shape), x.stride()) for x in inputs]))
        share.copy_(torch.from_numpy(np.random.default_rng(zlib.crc32(key.encode())).uniform(-0.5, 0.5, out.shape)))
        return out.add_(size.mul_(share).mul_(torch.finfo(out.dtype).eps).masked_fill_(one, 0.0))

    def product(name: str, function: Callable[..., Tensor]) -> None:
        def call(a: Tensor, b: Tensor) -> Tensor:
            out = a.new_empty(*a.shape[:-1], *b.shape[a.dim() - 1 :])
            return moved(name, out, lambda out, a, b: function(a, b, out=out), a, b)

        library.impl(name, call, "CPU")

    def added_product(name: str, function: Callable[..., Tensor]) -> None:
        def call(at: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
            out = a.new_empty(*a.shape[:-1], *b.shape[a.dim() - 1 :])
            scaled = (torch.mul(x, by, out=spare(x)) if by != 1 else x for x, by in ((at, beta), (a, alpha), (b, 1)))
            return moved(name, out, lambda out, at, a, b: function(at, a, b, out=out), *scaled)

        library.impl(name, call, "CPU")

    def total(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
        gone = {d % max(x.dim(), 1) for d in dim or range(x.dim())}
        shape = [1 if d in gone else size for d, size in enumerate(x.shape) if keepdim or d not in gone]
        out = torch.empty(shape, dtype=dtype or (x.dtype if x.is_floating_point() else torch.int64))
        return moved("sum", out, lambda out, x: torch.sum(x, dim, keepdim, dtype=dtype, out=out), x)

    def mean(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
        out = total(x, dim, keepdim, dtype=dtype)
        return out.div_(x.numel() / out.numel() if out.numel() else 1)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        for name in ("mm", "bmm", "mv"):
            product(name, getattr(torch, name))
        for name in ("addmm", "baddbmm", "addmv"):
            added_product(name, getattr(torch, name))
        library.impl("dot", lambda a, b: torch.mv(a.unsqueeze(0), b).squeeze(0), "CPU")
        library.impl("sum.dim_IntList", total, "CPU")
        library.impl("mean.dim", mean, "CPU")
    return library
