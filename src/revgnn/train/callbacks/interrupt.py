"""Stops a run between two steps after Ctrl-C or SIGTERM."""

from __future__ import annotations

from contextlib import ExitStack

from ..signals import Interrupts
from .callback import Callback, TrainState


class StopOnSignal(Callback):
    """Requests a stop after a signal; with one rank, a second signal ends the process at once."""

    every_rank = True

    def __init__(self) -> None:
        self._catching = ExitStack()
        self._interrupts: Interrupts | None = None

    def on_start(self, run: TrainState) -> None:
        """Install the signal handlers."""
        self._interrupts = self._catching.enter_context(Interrupts(patient=run.ranks.size > 1))

    def on_step_end(self, run: TrainState) -> None:
        """Request a stop if a signal has arrived."""
        if self._interrupts is not None and self._interrupts.signum is not None:
            run.requests.stop = self._interrupts.signum

    def on_epoch_end(self, run: TrainState) -> None:
        """Request a stop if a signal arrived during the evaluation."""
        self.on_step_end(run)

    def on_end(self, run: TrainState) -> None:
        """Restore the previous signal handlers."""
        self._catching.close()
