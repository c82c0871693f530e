"""Records Ctrl-C and SIGTERM, so that the training loop can stop between steps and the run can resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ClassVar, Self

from ..launcher import is_writer

_STDERR = 2


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run between two steps; the message says what was saved and how to resume.

    Examples:
        >>> import signal
        >>> from revgnn.train import Interrupted
        >>> try:
        ...     raise Interrupted("stopped after epoch 3", signal.SIGTERM)  # as ``fit`` does
        ... except Interrupted as stopped:
        ...     print(stopped, 128 + stopped.signum)
        stopped after epoch 3 143
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        """Signal number; the command line exits with 128 plus this number."""


class Interrupts:
    """Context that records SIGINT and SIGTERM; a second signal ends the process at once, as Python does by default.

    With ``patient``, a second signal is ignored, because launchers forward a signal that every rank has already
    received. Outside the main thread, where Python allows no signal handlers, nothing is recorded.
    """

    _open: ClassVar[list[Interrupts]] = []

    def __init__(self, *, patient: bool = False) -> None:
        self._patient, self._process = patient, os.getpid()
        self.signum: int | None = None
        """Number of the received signal; ``None``: none yet."""
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

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
            # None: the previous handler was not installed from Python, so Python cannot restore it.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    @classmethod
    def ask(cls, signum: int) -> None:
        """Request a stop in this process as if a signal had arrived; repeated calls have no effect."""
        for one in list(cls._open):
            one.signum = one.signum or signum

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            if self._patient:
                return
            raise KeyboardInterrupt
        self.signum = signum
        # All ranks receive the signal, and so do a loader's forked workers.
        if not is_writer() or os.getpid() != self._process:
            return
        # The handler may interrupt a print or log call, which is not reentrant: write to the file descriptor.
        os.write(
            _STDERR, f"\n{signal.Signals(signum).name}: stopping after this step; again to stop at once\n".encode()
        )
