"""Timing in turns: every entrant runs once per round, so that whatever slows the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

Clock = Literal["wall", "cpu"]


@dataclass
class Times:
    """Seconds of each run, by both clocks."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads together: untouched by other programs, but blind to how well threads share the work."""

    def summary(self, clock: Clock) -> dict[str, float]:
        """What a result says of them; ``median_s`` and ``min_s`` are by ``clock``."""
        chosen = self.wall if clock == "wall" else self.cpu
        return {
            "median_s": statistics.median(chosen),
            "min_s": min(chosen),
            "wall_median_s": statistics.median(self.wall),
            "cpu_median_s": statistics.median(self.cpu),
        }


def in_turns(
    runs: Mapping[str, Callable[[], object]], device: str, *, repeats: int, warmup: int = 1, budget: float = 0.0
) -> dict[str, Times]:
    """Run A, B, C, A, B, C, ... and keep the time of each.

    Args:
        runs: name -> what to run.
        device: CUDA is waited for before and after each run.
        repeats: rounds that count, at least 1.
        warmup: rounds before them that do not.
        budget: seconds after which no further round is begun; 0 for none. One round counts always.
    Returns: name -> times, as many of each.
    """
    times = {name: Times() for name in runs}
    started = time.perf_counter()
    for round_ in range(warmup + repeats):
        if budget and round_ > warmup and time.perf_counter() - started > budget:
            break
        for name, run in runs.items():
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            _wait(device)
            if round_ >= warmup:
                times[name].cpu.append(time.process_time() - cpu)
                times[name].wall.append(time.perf_counter() - wall)
    return times


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
