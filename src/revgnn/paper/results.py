"""Record finished runs of recipes as rows of ``runs.jsonl``, each with its differences from the recipe.

A row has the recipe, the seed, every field that differs from the recipe (so that a shortened run is never taken for a
full one), the scores, the machine, the date and the commit. Rows are made from reports only, never by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from ..data import TASKS
from ..data.readers.ogb import OGB
from ..experiment import Experiment, as_json
from ..files import parts_of, read_object
from ..plain_config import flatten
from ..repeat import RUNS_FILE
from ..report.facts import Configuration, Report
from ..report.row import resident_growth
from ..run_folder import read_report
from ..run_lock import appending
from ..train.curve import CURVE_FILE, Score, read_curve
from .recipes import find_recipe

ROWS_FILE = "runs.jsonl"
FORMAT = 1
DEFAULT_FOLDER = Path("benchmarks") / "results"

IRRELEVANT = frozenset(
    {
        "train.seed",
        "train.checkpoint_every",
        "train.checkpoint_minutes",
        "train.keep_checkpoints",
        "train.keep_logits",
        "loader.prefetch",
    }
)
"""Fields that may differ from the recipe: the run still reproduces its row of the paper."""
_PATHS = frozenset({"train.teacher.path"})
"""Fields with a path, which may differ from the recipe's if both are set."""


Changed = dict[str, list[object]]
"""Field -> its value in the recipe and in the run."""


class RunRow(TypedDict):
    """A finished run of a recipe."""

    format: int
    kind: str
    recipe: str
    changed: Changed
    seed: int
    metric: str
    scores: dict[str, Score]
    best_epoch: int
    epochs: int
    stopped: str
    curve: list[dict[str, float | None]]
    """The evaluated epochs: "epoch", training "loss", and the metric of each split."""
    observed: NotRequired[dict[str, list[float | None]]]
    """Name -> value of every epoch; ``None``: not in that epoch. Missing where the model reports nothing."""
    parameters: int
    peak_bytes: int | None
    memory_how: str | None
    resident_bytes: int | None
    seconds_per_step: float
    training_seconds: float
    device: str
    hardware: str
    precision: str
    implementation: str
    dataset: dict[str, object]
    versions: dict[str, str | None]
    commit: str | None
    date: str


def find_results(folder: Path | None) -> Path | None:
    """Return the folder of results: the given one, or benchmarks/results in the current folder if it exists.

    Raises: FileNotFoundError: the given folder does not exist.
    """
    if folder is None:
        return DEFAULT_FOLDER if DEFAULT_FOLDER.is_dir() else None
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of results at {folder}; name another one with --results")
    return folder


def rows_of(run: Path) -> list[RunRow]:
    """Make the rows of a finished run, or of all seeds of a folder of several runs.

    Raises:
        FileNotFoundError: the folder has no report.
        ValueError: the run is not that of a recipe.
    """
    with parts_of(run):
        if not (run / RUNS_FILE).is_file():
            return [_row(run)]
        folders = [one["folder"] for one in read_object(run / RUNS_FILE)["runs"]]
        outside = [folder for folder in folders if Path(folder).name != folder]
        if outside:
            raise ValueError(f"{run / RUNS_FILE} names {outside[0]!r}, which is no folder inside {run}; run it again")
        return [_row(run / folder) for folder in folders]


def append_rows(rows: Sequence[RunRow], results: Path) -> int:
    """Append rows to ``runs.jsonl``, except those that it has already.

    Args:
        rows: rows of `rows_of`.
        results: the folder of results; created if missing.
    Returns: the number of appended rows.
    """
    with appending(results / ROWS_FILE) as file:
        known = [_key(row) for row in read_rows(results)]
        new = [row for row in rows if _key(row) not in known]
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in new)
    return len(new)


def read_rows(results: Path) -> list[RunRow]:
    """Read the rows of finished runs from all ``*.jsonl`` of a folder of results; skip rows of another kind.

    Raises: ValueError: a line that is no JSON, with file and line.
    """
    lines = (row for path in sorted(results.glob("*.jsonl")) for row in read_lines(path))
    return [cast(RunRow, row) for row in lines if isinstance(row, dict) and row.get("kind") == "run"]


def read_lines(path: Path) -> Iterator[object]:
    """Read a file of JSON values, one per line.

    Raises: ValueError: a line that is no JSON, with file and line.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} must be one JSON object: {error}; remove it") from error


def _row(run: Path) -> RunRow:
    report = read_report(run)
    name = report["name"].partition(" with ")[0]
    try:
        recipe = find_recipe(name)
    except ValueError as error:
        raise ValueError(f"{run} is no run of a recipe, and only those compare with the paper: {error}") from None
    machine, seed = report["machine"], report["config"]["train"]["seed"]
    if not isinstance(seed, int):
        raise TypeError(f"the seed must be an integer, got {seed!r}")
    row: RunRow = {
        "format": FORMAT,
        "kind": "run",
        "recipe": name,
        "changed": {**_changed(_as_run(recipe(), report), report["config"]), **_other_data(report["dataset"])},
        "seed": seed,
        "metric": report["result"]["metric"],
        "scores": report["result"]["scores"],
        "best_epoch": report["result"]["best_epoch"],
        "epochs": report["result"]["epochs"],
        "stopped": report["result"]["stopped"],
        "curve": _curve(run),
        "parameters": report["parameters"],
        "peak_bytes": report["memory"]["peak_bytes"],
        "memory_how": report["memory"]["how"],
        "resident_bytes": resident_growth(report["memory"]),
        "seconds_per_step": report["time"]["seconds_per_step_median"],
        "training_seconds": report["time"]["training_seconds"],
        "device": str(machine["device"]),
        "hardware": str(machine["cpu"] if machine["device"] == "cpu" else machine["gpu"] or machine["device"]),
        "precision": str(machine["precision"]),
        "implementation": report["implementation"],
        "dataset": report["dataset"],
        "versions": report["versions"],
        "commit": report["git_commit"],
        "date": report["date"],
    }
    if observed := _observed(run):
        row["observed"] = observed
    return row


def _as_run(recipe: Experiment, report: Report) -> Configuration:
    """The configuration of a recipe, with the loss that the task of the data decides where it names none."""
    if recipe.train.loss is None:
        loss = next(task.loss for task in TASKS.values() if str(task) == report["dataset"]["task"])
        recipe = replace(recipe, train=replace(recipe.train, loss=loss))
    return as_json(recipe)


def _curve(run: Path) -> list[dict[str, float | None]]:
    """Return the evaluated epochs of a run: epoch, training loss, and the metric on each split."""
    return [
        {
            "epoch": row["epoch"],
            "loss": row["loss"],
            **{split: score["metric"] for split, score in row["scores"].items()},
        }
        for row in read_curve(run / CURVE_FILE, is_finished=True)
        if row["scores"]
    ]


def _observed(run: Path) -> dict[str, list[float | None]]:
    """Return what the model reported of every epoch, such as residuals, to 4 digits."""
    rows = [row["observed"] for row in read_curve(run / CURVE_FILE, is_finished=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [float(f"{row[name]:.4g}") if name in row else None for row in rows] for name in names}


def _changed(recipe: Configuration, ran: Configuration) -> Changed:
    """Return every field in which a run differs from its recipe, with both values."""
    wanted, got = flatten(json.loads(json.dumps(recipe, default=str))), flatten(ran)
    changed: Changed = {}
    for name in sorted(wanted.keys() | got.keys()):
        one, other = wanted.get(name), got.get(name)
        both_set = name in _PATHS and one is not None and other is not None
        if one != other and name not in IRRELEVANT and not both_set:
            changed[name] = [one, other]
    return changed


def _other_data(dataset: Mapping[str, object]) -> Changed:
    """Return the number of nodes or graphs, if it differs from that of the published data set of the same name."""
    facts = OGB.get(str(dataset["name"]))
    if facts is None:
        return {}
    unit, size = f"{facts.info.level}s", facts.info.num_rows
    return {} if dataset[unit] == size else {f"data.{unit}": [size, dataset[unit]]}


def _key(row: RunRow) -> dict[str, object]:
    """Return everything that identifies a run: all of its row but the date of its report."""
    return {key: value for key, value in row.items() if key != "date"}
