"""Stops a run between two steps where Ctrl-C or SIGTERM comes."""

from __future__ import annotations

from contextlib import ExitStack

from ..signals import Interrupts
from .callback import Callback, TrainState


class StopOnSignal(Callback):
    """Asks the loop to stop once a signal has come; a second signal ends the process at once, on one rank alone."""

    every_rank = True

    def __init__(self) -> None:
        self._catching = ExitStack()
        self._interrupts: Interrupts | None = None

    def on_start(self, run: TrainState) -> None:
        """Catch signals from now on."""
        self._interrupts = self._catching.enter_context(Interrupts(patient=run.ranks.size > 1))

    def on_step_end(self, run: TrainState) -> None:
        """Hand a signal on."""
        if self._interrupts is not None and self._interrupts.signum is not None:
            run.requests.stop = self._interrupts.signum

    def on_epoch_end(self, run: TrainState) -> None:
        """Hand a signal on that came in the evaluation."""
        self.on_step_end(run)

    def on_end(self, run: TrainState) -> None:
        """Give the signals back to who had them before."""
        self._catching.close()
