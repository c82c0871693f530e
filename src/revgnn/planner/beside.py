"""Adds the planner's memory prediction to the report of a finished run."""

from __future__ import annotations

from pathlib import Path

from ..data import make_batches, read_data
from ..experiment import Experiment
from ..report.facts import Report
from ..run_folder import add_prediction
from .estimate import predicted


def set_beside(report: Report, run: Experiment, out: Path, data_root: Path) -> Report:
    """Write the prediction into the report of a finished run, if it ran on the CPU with data in memory.

    Args:
        report: the run's report.
        run: the experiment.
        out: the run folder.
        data_root: folder of the data.
    Returns: the new report, or the same one if there is no prediction.
    Cost: reads the data once more; the planner's trials take seconds.
    """
    if report["machine"]["device"] != "cpu":
        return report
    dataset = read_data(run.dataset, run.loader, data_root)
    expected = predicted(run, dataset, make_batches(dataset, run.batch_size, run.train.seed, run.loader))
    return report if expected is None else add_prediction(out, expected)
