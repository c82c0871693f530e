"""Writes and reads the files of a run folder outside training: ``run.json`` and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from torch import nn

from .data import Dataset, GraphInfo, Store
from .files import check_format, parts_of, read_object, write_whole
from .launcher import world_size
from .meter import resident_peak
from .ops import implementation
from .report import build_report, circumstances, write_report
from .report.facts import Configuration, Predicted, Published, Report, RunFacts
from .run_lock import claimed
from .train import Callback, FitResult, MemoryRecorder, own_statistics
from .train.callbacks.tracking import TRACK_FOLDER
from .train.checkpoint import CHECKPOINT_FOLDER
from .train.curve import CURVE_FILE

RUN_FILE = "run.json"
REPORT_FILE = "report.json"
FORMAT = 2


class RunRecord:
    """Collects the facts of a run for its report; created after the data is read, written at the end.

    Args:
        name: name of the run in reports.
        dataset: the run's data.
    """

    def __init__(self, name: str, dataset: Dataset | Store) -> None:
        self._resident = resident_peak(dataset)
        self._memory = MemoryRecorder()
        # Record the commit now: the code is loaded, and the checkout may change during the run.
        self._name, self._info, self._where = name, dataset.info, circumstances()

    @property
    def callbacks(self) -> list[Callback]:
        """Callbacks that the training must call."""
        return [self._memory]

    def write(
        self,
        out: Path,
        config: Configuration,
        target: Published | None,
        model: nn.Module,
        result: FitResult,
    ) -> Report:
        """Write ``run.json`` and the report.

        Args:
            out: the run folder, with the files that training wrote.
            config: the whole configuration of the run.
            target: published results.
            model: the trained model.
            result: the result of training.
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
            "paper": target,
            "implementation": implementation(result.device),
            "memory_how": self._memory.how,
            "resident": self._resident.facts(),
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
        raise FileExistsError(f"{out} holds {min(names)!r} and no run; choose another --out, or empty the folder")


def read_schema(out: Path) -> GraphInfo:
    """Read the metadata of the graph that a finished run's model was built for.

    Raises: FileNotFoundError: the folder has no finished run; ValueError: the metadata is invalid.
    """
    path, facts = read_facts(out)
    try:
        return GraphInfo.from_json(facts["schema"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say what its model reads: {error!r}; train it again with this revgnn"
        ) from error


def read_facts(out: Path) -> tuple[Path, RunFacts]:
    """Read ``run.json`` of a finished run; return it with its path.

    Raises: FileNotFoundError: the folder has no finished run; ValueError: the file has another format.
    """
    path = out / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{out} holds no finished run ({RUN_FILE} is missing); train into it, or resume it")
    facts = read_object(path)
    remedy = f", which {_writer(facts)} wrote; use that version, or train again"
    check_format(path, facts, FORMAT, remedy=remedy)
    return path, cast(RunFacts, facts)


def _writer(facts: Mapping[str, object]) -> str:
    """Name the version that wrote a run folder."""
    where = facts.get("where")
    versions = where.get("versions") if isinstance(where, Mapping) else None
    version = versions.get("revgnn") if isinstance(versions, Mapping) else None
    return f"revgnn {version}" if isinstance(version, str) else "another revgnn"


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
