"""What a stack finds out about its blocks, kept from step to step for as long as nobody changes a module.

To look at every module takes longer than a small graph's kernels. That a module is what it was is seen faster: its
attributes are the very same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from operator import is_
from typing import Any

import torch
from torch import nn

from .conditions import View, parts_of
from .recompute import Slots
from .recomputing import turns
from .surface import is_replaced, plain_of
from .surroundings import has_hooks_of_all

_TOGETHER = 64
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Survey:
    """The blocks of a stack, what their evaluation depends on, and whether it still does.

    Args:
        layers: the layers, each a ModuleList.
        blocks: of every layer.
    """

    def __init__(self, layers: nn.ModuleList, blocks: Sequence[Sequence[nn.Module]]) -> None:
        self.blocks = blocks
        self.views: Mapping[nn.Module, View] = {block: View(block) for layer in blocks for block in layer}
        """The `View` of every block."""
        views = list(self.views.values())
        self.is_training = any(view.is_training for view in views)
        self.is_bare = all(view.is_bare for view in views)
        self.is_lasting = not torch.compiler.is_compiling() and all(map(_is_plain, views))
        """Whether `holds` can tell that it is still true."""
        self._slots: dict[tuple[int, int], Slots] = {}
        self.are_alike = self.is_lasting and _are_alike(views)
        """Whether all blocks compute the same, with parameters of their own."""
        self._layers, parts = layers, parts_of(layers) if self.is_lasting else []
        self._kinds = set(map(type, parts))
        self._snapshots = [_Snapshot(parts[k : k + _TOGETHER]) for k in range(0, len(parts), _TOGETHER)]

    def holds(self, layers: nn.ModuleList) -> bool:
        """Whether modules, attributes, parameters and hooks are those of the construction, and none is of all modules.

        Cost: some microseconds a block.
        """
        return (
            self.is_lasting
            and self._layers is layers
            and all(map(_Snapshot.holds, self._snapshots))
            and not has_hooks_of_all()
            and not any(map(is_replaced, self._kinds))
        )

    def slots(self, first: int, layers: Sequence[Sequence[nn.Module]]) -> Slots:
        """Return where the parameters of a run are held: ``layers``, which begin with the ``first`` of the stack."""
        key = first, len(layers)
        if key not in self._slots or not self.is_lasting:
            self._slots[key] = Slots.found({block: self.views[block] for blocks in layers for block in blocks})
        return self._slots[key]

    def has_its_modules(self) -> bool:
        """Whether no module was added, removed or exchanged; False where it is not lasting."""
        return self.is_lasting and all(map(_Snapshot.has_its_modules, self._snapshots))


class _Snapshot:
    """Some modules: few, so that all that is asked of one is asked while it is in the cache."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self._parts, self._kinds = parts, list(map(type, parts))
        own = [part.__dict__ for part in parts]
        self._hooks = [one[name] for one in own for name in _HOOKS]
        self._attributes, self._children = _Values(own), _Values([one["_modules"] for one in own])
        self._tensors = _Values([one[name] for one in own for name in ("_parameters", "_buffers") if one[name]])

    def holds(self) -> bool:
        """Whether types, attributes, submodules and parameters are the same, and there are no hooks."""
        return (
            list(map(type, self._parts)) == self._kinds
            and self._attributes.hold("forward")
            and self._children.hold()
            and self._tensors.hold()
            and not any(self._hooks)
        )

    def has_its_modules(self) -> bool:
        """Whether the submodules are the same."""
        return self._children.hold()


class _Values:
    """The very values of dictionaries at construction."""

    def __init__(self, dicts: Sequence[dict[str, Any]]) -> None:
        self._dicts, self._sizes = dicts, list(map(len, dicts))
        self._found = list(self._present())

    def hold(self, without: str = "") -> bool:
        """Whether they are still the values, and none has the name ``without``."""
        return (
            list(map(len, self._dicts)) == self._sizes
            and all(map(is_, self._present(), self._found))
            and not any(map(dict.__contains__, self._dicts, repeat(without)))
        )

    def _present(self) -> Iterator[object]:
        return chain.from_iterable(map(dict.values, self._dicts))


class Surveys:
    """The surveys of a stack, one for training and one for evaluation."""

    def __init__(self) -> None:
        self._found: dict[bool, Survey] = {}

    def of(
        self, layers: nn.ModuleList, blocks: Callable[[], Sequence[Sequence[nn.Module]]], *, training: bool
    ) -> Survey:
        """Return the survey of a stack's layers, whose ``blocks`` are listed where they have changed."""
        with turns():
            found = self._found.get(training)
            if found is None or not found.holds(layers):
                found = Survey(layers, blocks())
                if found.is_lasting:
                    self._found[training] = found
            return found

    def __reduce__(self) -> tuple[type[Surveys], tuple[()]]:
        # A copy has other blocks.
        return Surveys, ()


def _is_plain(view: View) -> bool:
    """Whether no evaluation changes an attribute of a block, and it has parameters, not tensors in their places."""
    return view.is_bare and view.is_pure and all(type(holder[name]) is nn.Parameter for holder, name in view.slots)


def _are_alike(views: Sequence[View]) -> bool:
    """Whether blocks are made of the same modules with the same attributes, and their values depend on no buffer."""
    if not views or any(view.buffers for view in views):
        return False
    first = _made_of(views[0])
    return all(_made_of(view) == first for view in views[1:])


def _made_of(view: View) -> list[tuple[type[nn.Module], dict[str, object], list[tuple[str, bool]]]]:
    """Types, attributes and the names of the tensors of a block's modules; of an attribute that can change which object
    it is."""
    found = []
    for part in view.parts:
        own, tensors = part.__dict__, chain(part._parameters.items(), part._buffers.items())
        plain = plain_of(own)
        attributes = {name: plain.get(name, id(own[name])) for name in own.keys() - _TORCHS_OWN | plain.keys()}
        found.append((type(part), attributes, [(name, value is None) for name, value in tensors]))
    return found


_TORCHS_OWN = frozenset(vars(nn.Module()))
