"""The memory that the planner predicts of a run, set beside what the finished run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import make_batches, read_data
from ..experiment import Experiment
from ..run_folder import add_prediction
from .estimate import predicted


def set_beside(report: dict[str, Any], run: Experiment, out: Path, data_root: Path) -> dict[str, Any]:
    """Write the prediction into the report of a finished run, where it ran on the CPU and its data are in memory.

    Args:
        report: of the run.
        run: what was done.
        out: the run folder.
        data_root: where its data lie.
    Returns: the new report, or the same one where nothing is predicted.
    Cost: reads the data once more; the trials of the planner, seconds.
    """
    if report["machine"]["device"] != "cpu":
        return report
    dataset = read_data(run.dataset, run.loader, data_root)
    expected = predicted(run, dataset, make_batches(dataset, run.batch_size, run.train.seed, run.loader))
    return report if expected is None else add_prediction(out, expected)
