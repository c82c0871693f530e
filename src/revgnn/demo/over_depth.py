"""Measures the memory of training steps over depth: of tensors, and of a separate process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ..data import load_dataset
from ..experiment import Experiment
from ..nn.model import ModelConfig
from ..planner.isolated import resident_in_isolation
from ..planner.measured import training_memory

Curve = Mapping[str, Mapping[int, int]]
"""Model -> depth -> bytes."""


def memory_over_depth(runs: Mapping[str, Experiment], depths: Sequence[int], progress: Console) -> Curve:
    """Measure the peak bytes of tensors in training steps of each run at each depth.

    Args:
        runs: name -> run, all on one data set that needs no root; their own depth does not matter.
        depths: numbers of layers.
        progress: where a bar is shown.
    """
    dataset = load_dataset(next(iter(runs.values())).dataset, Path())
    curve: dict[str, dict[int, int]] = {name: {} for name in runs}
    for name, depth in _tracked(runs, depths, progress, "memory over depth"):
        curve[name][depth] = training_memory(as_deep(runs[name], depth), dataset)
    return curve


def resident_over_depth(runs: Mapping[str, Experiment], depths: Sequence[int], progress: Console) -> Curve:
    """Measure the growth of a separate process during training steps of each run at each depth.

    Args: as in `memory_over_depth`.
    Returns: depth -> bytes of each run; empty if the system does not report resident sizes.
    """
    curve: dict[str, dict[int, int]] = {name: {} for name in runs}
    for name, depth in _tracked(runs, depths, progress, "growth of the process over depth"):
        found = resident_in_isolation(as_deep(runs[name], depth), Path())
        if found is not None:
            curve[name][depth] = found.growth
    return curve


def as_deep(run: Experiment, depth: int) -> Experiment:
    """Return a run with another number of layers in its `ModelConfig`."""
    assert isinstance(run.model, ModelConfig), "the models that are compared over depth have layers"
    return replace(run, model=replace(run.model, num_layers=depth))


def _tracked(names: Iterable[str], depths: Sequence[int], progress: Console, what: str) -> Iterator[tuple[str, int]]:
    points = [(name, depth) for depth in depths for name in names]
    if progress.is_terminal:
        yield from track(points, description=what, console=progress)
        return
    progress.print(f"{what}: {len(points)} measurements", highlight=False)
    yield from points
