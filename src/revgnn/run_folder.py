"""Writes and reads the files of a run folder outside training: ``run.json`` and the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

from torch import nn

from .data import Dataset, GraphInfo, Store
from .files import parts_of, read_object, write_whole
from .launcher import world_size
from .meter import resident_peak
from .ops import implementation
from .report import build_report, circumstances, write_report
from .report.facts import Configuration, Described, Predicted, Published, Report, RunFacts
from .resident import ResidentFacts, ResidentPeak
from .run_file import FORMAT, RUN_FILE, read_run_file
from .run_lock import claimed
from .train import Callback, FitResult, MemoryRecorder, TrainState, own_statistics
from .train.callbacks.tracking import TRACK_FOLDER
from .train.checkpoint import CHECKPOINT_FOLDER
from .train.curve import CURVE_FILE

REPORT_FILE = "report.json"


class _ResidentOfTraining(Callback):
    """Reads the peak of the process when the best weights are selected, before the evaluation is described."""

    def __init__(self, peak: ResidentPeak) -> None:
        self._peak = peak
        self.facts: ResidentFacts | None = None

    def on_selected(self, run: TrainState) -> None:
        """Read the peak."""
        self.facts = self._peak.facts()


class RunRecord:
    """Collects the facts of a run for its report; created after the data is read, written at the end.

    Args:
        name: name of the run in reports.
        dataset: the run's data.
        info: its metadata, as the model reads it.
    """

    def __init__(self, name: str, dataset: Dataset | Store, info: GraphInfo) -> None:
        self._resident = _ResidentOfTraining(resident_peak(dataset))
        self._memory = MemoryRecorder()
        # Record the commit now: the code is loaded, and the checkout may change during the run.
        self._name, self._info, self._where = name, info, circumstances()

    @property
    def callbacks(self) -> list[Callback]:
        """Callbacks that the training must call."""
        return [self._memory, self._resident]

    def write(
        self,
        out: Path,
        config: Configuration,
        model: nn.Module,
        result: FitResult,
        described: Described,
    ) -> Report:
        """Write ``run.json`` and the report.

        Args:
            out: the run folder, with the files that training wrote.
            config: the whole configuration of the run.
            model: the trained model.
            result: the result of training.
            described: what the experiment knows of the run.
        Returns: the report.
        """
        warning = own_statistics(model, synchronise=bool(config["train"]["sync_batchnorm"]))
        facts: RunFacts = {
            "format": FORMAT,
            "name": self._name,
            "ranks": world_size(),
            "dataset": describe(self._info),
            "schema": asdict(self._info.without_counts()),
            "where": self._where,
            "warnings": [] if warning is None else [warning],
            "config": config,
            "paper": described["paper"],
            "evaluation": described["evaluation"],
            "changed": described["changed"],
            "implementation": implementation(result.device),
            "memory_how": self._memory.how,
            "resident": self._resident.facts,
        }
        return _write(out, facts)


def add_prediction(out: Path, predicted: Predicted) -> Report:
    """Add the planner's prediction to the report of a finished run, and return the new report.

    Args:
        out: a run folder.
        predicted: the prediction.
    """
    _, facts = read_facts(out)
    return _write(out, {**facts, "predicted": predicted})


def _write(out: Path, facts: RunFacts) -> Report:
    write_whole(out / RUN_FILE, json.dumps(facts, indent=1, default=str) + "\n")
    return report_on(out)


def check_out(out: Path) -> None:
    """Check that a folder is empty or a run folder, so that no user's files are overwritten."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} must be a folder for the run, it is a file; choose another --out")
    names = {path.name for path in out.iterdir() if path.name != TRACK_FOLDER and not path.name.startswith(".")}
    if names and not names & {CURVE_FILE, CHECKPOINT_FOLDER, RUN_FILE}:
        if any((out / name / CURVE_FILE).exists() for name in names):
            raise FileExistsError(f"{out} holds several runs; choose another --out, or go on with them by --runs")
        raise FileExistsError(f"{out} holds {min(names)!r} and no run; choose another --out, or empty the folder")


def read_facts(out: Path) -> tuple[Path, RunFacts]:
    """Read ``run.json`` of a finished run; return it with its path.

    Raises: FileNotFoundError: the folder has no finished run; ValueError: the file has another format.
    """
    path, facts = read_run_file(out)
    return path, cast(RunFacts, facts)


def describe(info: GraphInfo) -> dict[str, str | int | None]:
    """Return the facts of a data set for a report."""
    return {
        "name": info.name,
        "task": str(info.task_spec),
        "nodes": info.counts.nodes,
        "edges": info.counts.edges,
        "graphs": info.counts.graphs,
        "features": info.in_channels,
        "edge features": info.edge_channels,
        "outputs": info.num_outputs,
        **{f"{split} {info.level}s": rows for split, rows in info.counts.splits},
    }


def report_on(out: Path) -> Report:
    """Write the report of a finished run from the files in its folder.

    Args:
        out: a run folder.
    Returns: the report, as written to ``report.json`` and ``report.html``.
    Raises:
        FileNotFoundError, ValueError: the folder has no finished run, or its files are damaged.
        ClaimedError: a run is writing to it.
    """
    _, facts = read_facts(out)
    with claimed(out), parts_of(out):
        warnings = [*_warnings(facts["paper"]), *facts.get("warnings", ())]
        report = build_report(out, {**facts, "warnings": warnings})
        write_report(out, report)
    return report


def read_report(out: Path) -> Report:
    """Read ``report.json`` of a finished run.

    Raises: FileNotFoundError: the folder has no finished run.
    """
    path = out / REPORT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{out} holds no finished run ({REPORT_FILE} is missing); finish or resume it first")
    return cast(Report, read_object(path))


def _warnings(paper: Published | None) -> list[str]:
    if not paper:
        return []
    assumed = paper.get("assumed")
    said = [f"The paper does not say everything: assumed here are {', '.join(assumed)}."] if assumed else []
    return [*said, *paper.get("notes", ())]
