"""Check what a block returns, once that it repeats it, and in every backward that all it uses gets a gradient."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakSet

from torch import Tensor, nn

from .conditions import version_of
from .drift import relative_error


class Checked:
    """The blocks that passed `check_repeats`."""

    def __init__(self) -> None:
        self.repeats: WeakSet[nn.Module] = WeakSet()

    def __reduce__(self) -> tuple[type[Checked], tuple[()]]:
        # A copy has other blocks.
        return Checked, ()


def check_repeats(value: Tensor, other: Tensor, what: str) -> None:
    """Raise RuntimeError if a module returned another value when it was evaluated again.

    Args:
        value, other: the values of the first and the second evaluation.
        what: name of the module, for the message.
    """
    if type(value) is not Tensor or value.is_meta:
        return  # without numbers, or with arithmetic of its own
    error, limit = relative_error([other], [value]), 5e-2 if value.dtype.itemsize == 2 else 1e-3
    if not error <= limit and bool(value.isfinite().all()):
        raise RuntimeError(
            f"{what} gave another value when it was evaluated again with the same arguments (relative difference "
            f"{error:.1e}), so that the backward would be wrong. Its value must depend on its arguments, parameters, "
            "registered buffers and torch's random numbers alone; look for random numbers of Python or numpy, "
            "counters, or caches; or choose backprop='store'"
        )


def check_unwritten(x: Tensor, version: int | None, what: str) -> None:
    """Raise RuntimeError if a module wrote to its input, which is memory of the stream.

    Args:
        x: the input.
        version: its `version_of` before the evaluation.
        what: name of the module, for the message.
    """
    if version_of(x) != version:
        raise RuntimeError(
            f"{what} writes to its input, which is part of the stream; "
            "make its first operation one that returns a new tensor (inplace=False)"
        )


def check_width(value: object, x: Tensor, remedy: str) -> Tensor:
    """Return the value of a block.

    Raises: TypeError, ValueError: it cannot be added to its stream ``x``; ``remedy`` ends the message.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"a block must return one tensor, got {type(value).__name__}; unpack it inside the block")
    if value.shape != x.shape:
        raise ValueError(
            f"a block must keep the shape of its input: got {list(value.shape)} from {list(x.shape)}; {remedy}"
        )
    return value


def check_closed(value: Tensor, leaves: Iterable[Tensor], what: str) -> None:
    """Raise RuntimeError if a value depends on a tensor that needs a gradient and would get none.

    Args:
        value: a module's output.
        leaves: the tensors that get a gradient.
        what: name of the module, for the message.
    """
    found = _hidden_leaf(value, leaves)
    if found is not None:
        raise RuntimeError(
            f"{what} uses a tensor of shape {list(found.shape)} that needs a gradient and is neither an argument nor a "
            "registered parameter of it, so that it would get none; pass it as an argument of its own (not inside a "
            "container), register it, or detach it"
        )


def _hidden_leaf(value: Tensor, leaves: Iterable[Tensor]) -> Tensor | None:
    """Return a tensor in the graph of a value that requires a gradient and is not among the leaves, or None."""
    known = {id(leaf) for leaf in leaves}
    waiting = [value.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        found: Tensor | None = getattr(node, "variable", None)
        if found is not None and id(found) not in known:
            return found
        for before, _ in () if node is None else node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return None
