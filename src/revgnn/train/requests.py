"""Requests to the training loop to stop or to write a checkpoint, which all ranks share between steps."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from .distributed.ranks import Ranks


@dataclass(kw_only=True)
class Requests:
    """Pending requests. Callbacks set them; the loop shares and handles them after a step or an epoch."""

    stop: int | None = None
    """Signal number to stop with, as if the signal had arrived; ``None``: continue."""
    checkpoint: bool = False
    """Whether to write a checkpoint."""

    def share(self, ranks: Ranks) -> None:
        """Share the requests among all ranks, so that all stop after the same step."""
        stopping, writing = ranks.total(float(self.stop is not None), float(self.checkpoint))
        if stopping and self.stop is None:
            self.stop = signal.SIGTERM
        self.checkpoint = writing > 0
