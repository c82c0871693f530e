"""What a rank may ask of the loop between two steps, and every rank then does: stop, or write a checkpoint."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from .distributed.ranks import Ranks


@dataclass(kw_only=True)
class Requests:
    """Requests that are not met yet. Callbacks set them; the loop shares and meets them after a step or an epoch."""

    stop: int | None = None
    """Number of the signal to end with, as if it had come; ``None``: go on."""
    checkpoint: bool = False
    """Whether to write a checkpoint."""

    def share(self, ranks: Ranks) -> None:
        """Let every rank have what any of them asked for, so that all stop after the same step."""
        stopping, writing = ranks.total(float(self.stop is not None), float(self.checkpoint))
        if stopping and self.stop is None:
            self.stop = signal.SIGTERM
        self.checkpoint = writing > 0
