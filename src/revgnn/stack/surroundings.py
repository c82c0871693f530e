"""What acts on all modules at once, as a forward found it: common hooks, `torch.overrides` modes, the default dtype"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.modules import module as common
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._device import DeviceContext

_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_hooks_with_kwargs",
    "_global_forward_hooks_always_called",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_NOTHING = nullcontext()


class Surroundings:
    """What is active at construction."""

    def __init__(self) -> None:
        self._found = _modes(), _hooks(), torch.get_default_dtype()
        self._is_usual = not self._found[0] and not self._found[1]

    def put(self) -> AbstractContextManager[object]:
        """Return a context with this in place of what is active."""
        if self._is_usual and not _are_active() and torch.get_default_dtype() is self._found[2]:
            return _NOTHING
        return _NOTHING if self._found == (_modes(), _hooks(), torch.get_default_dtype()) else self._exchanged()

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        before = Surroundings()
        try:
            self._exchange()
            yield
        finally:
            before._exchange()

    def _exchange(self) -> None:
        modes, hooks, dtype = self._found
        _exchange_modes(modes)
        _exchange_hooks(hooks)
        torch.set_default_dtype(dtype)


def _are_active() -> bool:
    return has_hooks_of_all() or torch._C._len_torch_function_stack() > 0


def are_modified() -> bool:
    """Whether a common hook, or a mode other than a default device, may change what modules and functions do."""
    if has_hooks_of_all():
        return True
    return torch._C._len_torch_function_stack() > 0 and any(not isinstance(mode, DeviceContext) for mode in _modes())


def has_hooks_of_all() -> bool:
    """Whether there are hooks of all modules."""
    return bool(common._has_any_global_hook())  # type: ignore[no-untyped-call]


def _modes() -> Sequence[TorchFunctionMode]:
    """The modes from the outermost on."""
    return _get_current_function_mode_stack() if torch._C._len_torch_function_stack() else []  # type: ignore[no-untyped-call]


def _hooks() -> Mapping[str, Any]:
    return {name: getattr(common, name).copy() for name in _HOOKS} if has_hooks_of_all() else {}


def _exchange_modes(wanted: Sequence[TorchFunctionMode]) -> None:
    for _ in _modes():
        _pop_mode()  # type: ignore[no-untyped-call]
    for mode in wanted:
        _push_mode(mode)  # type: ignore[no-untyped-call]


def _exchange_hooks(wanted: Mapping[str, Any]) -> None:
    for name in _HOOKS:
        found = getattr(common, name)
        found.clear()
        found.update(wanted.get(name, {}))
