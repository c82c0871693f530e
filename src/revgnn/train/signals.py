"""Ctrl-C and SIGTERM as a question that the loop asks between steps, so that a run stops where it can go on from."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from ..launcher import is_writer

_STDERR = 2


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and did, between two steps; the message says what was kept and how to go on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        """The signal that asked; a command line exits with 128 plus it."""


class Interrupts:
    """Catch SIGINT and SIGTERM while inside; a second one of them stops at once, as Python would.

    With ``patient``, a second one changes nothing: launchers pass on what every rank has already received.
    Outside the main thread, where Python allows no handlers, it catches nothing.
    """

    _open: ClassVar[list[Interrupts]] = []

    def __init__(self, *, patient: bool = False) -> None:
        self._patient, self._process = patient, os.getpid()
        self.signum: int | None = None
        """The signal that came; ``None``: none yet."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._open.append(self)
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.remove(self)
        for signum, handler in self._before.items():
            # None stands for a handler that was not installed from Python and cannot be put back from it.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    @classmethod
    def ask(cls, signum: int) -> None:
        """Ask whoever catches in this process to stop, as a signal would that does not reach it; once is enough."""
        for one in list(cls._open):
            one.signum = one.signum or signum

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            if self._patient:
                return
            raise KeyboardInterrupt
        self.signum = signum
        # Ranks hear it together, and so do a loader's workers, which were forked.
        if not is_writer() or os.getpid() != self._process:
            return
        # A handler may run in the middle of a print or a log call, which must not be entered twice: write directly.
        os.write(
            _STDERR, f"\n{signal.Signals(signum).name}: stopping after this step; again to stop at once\n".encode()
        )
