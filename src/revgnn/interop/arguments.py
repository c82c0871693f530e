"""Separate the tensors from the other arguments of a reversible layer's call, and split them by groups.

One documented rule, by an argument's name and shape, or the user decides which arguments are split; width alone never
decides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of a layer's call after x."""

    args: tuple[object, ...]
    """Positional arguments, with a `_Place` instead of each tensor."""
    kwargs: Mapping[str, object]
    """Keyword arguments, with a `_Place` instead of each tensor."""
    tensors: tuple[Tensor, ...]
    """The tensors, also those inside tuples, lists and dictionaries."""
    is_split: tuple[bool, ...]
    """Whether each of them is split by groups."""
    dim: int
    """The dimension of the split, counted from the last."""

    def of_group(
        self, group: int, num_groups: int, tensors: Sequence[Tensor]
    ) -> tuple[list[object], dict[str, object]]:
        """Return positional and keyword arguments of a group's block, with ``tensors`` in place of the call's own."""

        def fill(place: _Place) -> Tensor:
            tensor = tensors[place.number]
            return self.part(tensor, group, num_groups) if self.is_split[place.number] else tensor

        args = [_replaced(value, _Place, fill) for value in self.args]
        return args, {name: _replaced(value, _Place, fill) for name, value in self.kwargs.items()}

    def part(self, tensor: Tensor, group: int, num_groups: int) -> Tensor:
        """Return a group's channels of a split tensor."""
        width = tensor.size(self.dim) // num_groups
        return tensor.narrow(self.dim, group * width, width)

    def detached(self) -> Arguments:
        """Return the arguments with tensors detached from their graphs."""
        return replace(self, tensors=tuple(t.detach() if t.requires_grad else t for t in self.tensors))


@dataclass(frozen=True)
class _Place:
    """Placeholder for a tensor."""

    number: int


@dataclass(frozen=True, kw_only=True)
class ChannelSplitRule:
    """The rule that decides which arguments are split by groups.

    By default an argument is split if it is a floating-point or Boolean tensor (not inside a tuple, list or dictionary)
    of two or more dimensions that broadcasts to x and has x's width at the split dimension, unless its name in the
    block's ``forward`` starts with ``edge``. All other arguments are shared. An argument without a name (``*args``)
    that has this shape and as many rows as there are edges is ambiguous, and raises.
    """

    num_groups: int
    names: tuple[str, ...]
    """Names of the block's positional arguments after x; fewer if it takes ``*args``."""
    chosen: tuple[int | str, ...] | None
    """Positions (0 is the first after x) and names of split arguments; ``None``: the rule above."""

    def apply(self, x: Tensor, dim: int, args: Sequence[object], kwargs: Mapping[str, object]) -> Arguments:
        """Separate the tensors of a call's arguments and decide which of them are split.

        Args:
            x: the stream.
            dim: the split dimension, counted from the last.
            args, kwargs: the arguments after x.
        Raises: ValueError: an ambiguous argument, or a split one whose width the groups do not divide.
        """
        tensors: list[Tensor] = []
        is_split: list[bool] = []
        num_edges = _num_edges(args, kwargs)

        def template(value: object, position: int | None, name: str | None) -> object:
            splits = self._splits(value, x, dim, num_edges, position, name)

            def put(tensor: Tensor) -> _Place:
                if splits:
                    self._check_width(tensor, dim, position if name is None else name)
                tensors.append(tensor)
                is_split.append(splits)
                return _Place(len(tensors) - 1)

            return _replaced(value, Tensor, put)

        self._check_chosen(len(args), kwargs)
        names = [self.names[k] if k < len(self.names) else None for k in range(len(args))]
        positional = tuple(template(value, k, name) for k, (value, name) in enumerate(zip(args, names, strict=True)))
        named = {name: template(value, None, name) for name, value in kwargs.items()}
        return Arguments(positional, named, tuple(tensors), tuple(is_split), dim)

    def _splits(
        self, value: object, x: Tensor, dim: int, num_edges: int | None, position: int | None, name: str | None
    ) -> bool:
        if self.chosen is not None:
            return position in self.chosen or name in self.chosen
        if not isinstance(value, Tensor) or not _matches(value, x, dim):
            return False
        if name is None and value.size(0) == num_edges:
            raise ValueError(
                f"argument {position} after x is {list(value.shape)}: with {num_edges} edges and as many nodes it may "
                "belong to either; say which arguments are cut by groups: split_args=[...], or [] for none"
            )
        return name is None or not name.startswith("edge")

    def _check_chosen(self, num_args: int, kwargs: Mapping[str, object]) -> None:
        known = {*range(num_args), *self.names, *kwargs}
        unknown = [name for name in self.chosen or () if name not in known]
        if unknown:
            raise ValueError(
                f"split_args names {unknown[0]!r}, but the call has the arguments "
                f"{[*self.names[:num_args], *kwargs]} after x; count from 0, or use these names"
            )

    def _check_width(self, tensor: Tensor, dim: int, what: int | str | None) -> None:
        if tensor.dim() < -dim or tensor.size(dim) % self.num_groups:
            raise ValueError(
                f"argument {what!r} of shape {list(tensor.shape)} cannot be cut into {self.num_groups} groups at "
                f"dimension {dim}; leave it out of split_args to share it"
            )


def names_after_x(block: nn.Module) -> tuple[str, ...]:
    """Return the names of a block's positional arguments after its first."""
    try:
        parameters = list(inspect.signature(block.forward).parameters.values())
    except (TypeError, ValueError):
        # A compiled forward may have no Python signature.
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)[1:]


def _matches(value: Tensor, x: Tensor, dim: int) -> bool:
    """Whether a tensor has a value for every channel of x: it broadcasts to x and has its width at ``dim``."""
    if not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
        return False
    if value.layout != torch.strided or not 2 <= value.dim() <= x.dim() or value.dim() < -dim:
        return False
    from_the_right = range(-1, -value.dim() - 1, -1)
    return value.size(dim) == x.size(dim) and all(value.size(k) in (1, x.size(k)) for k in from_the_right)


def _num_edges(args: Sequence[object], kwargs: Mapping[str, object]) -> int | None:
    """Return the number of edges of the first argument that is a graph; ``None``: no argument is."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            if value.layout != torch.strided:
                return int(value._nnz())
            if value.dtype in (torch.int64, torch.int32) and value.dim() == 2 and value.size(0) == 2:
                return value.size(1)
        elif isinstance(edges := getattr(value, "num_edges", None), int):
            return edges
    return None


def _replaced(value: object, kind: type[_T], change: Callable[[_T], object]) -> object:
    """Copy nested tuples, lists and dictionaries and apply ``change`` to every value of a type."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        members = [_replaced(member, kind, change) for member in value]
        # A named tuple takes its members as separate arguments.
        return getattr(value, "_make", type(value))(members)
    if type(value) is list:
        return [_replaced(member, kind, change) for member in value]
    if type(value) is dict:
        return {key: _replaced(member, kind, change) for key, member in value.items()}
    return value
