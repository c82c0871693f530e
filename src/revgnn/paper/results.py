"""Record finished runs of recipes as rows of ``runs.jsonl``, each with its differences from the recipe.

A row has the recipe, the seed, every field that differs from the recipe (so that a shortened run is never taken for a
full one), the scores, the machine, the date and the commit. Rows are made from reports only, never by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import TASKS
from ..data.readers.ogb import OGB
from ..experiment import Experiment, as_json
from ..files import parts_of, read_object
from ..plain_config import flatten
from ..repeat import RUNS_FILE
from ..report.row import resident
from ..run_folder import REPORT_FILE
from ..run_lock import appending
from ..train.curve import CURVE_FILE, read_curve
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


def find_results(folder: Path | None) -> Path | None:
    """Return the folder of results: the given one, or benchmarks/results in the current folder if it exists.

    Raises: FileNotFoundError: the given folder does not exist.
    """
    if folder is None:
        return DEFAULT_FOLDER if DEFAULT_FOLDER.is_dir() else None
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of results at {folder}; name another one with --results")
    return folder


def rows_of(run: Path) -> list[dict[str, Any]]:
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


def append_rows(rows: Sequence[Mapping[str, Any]], results: Path) -> int:
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


def read_rows(results: Path) -> list[dict[str, Any]]:
    """Read the rows of finished runs from all ``*.jsonl`` of a folder of results; skip rows of another kind.

    Raises: ValueError: a line that is no JSON, with file and line.
    """
    lines = (row for path in sorted(results.glob("*.jsonl")) for row in read_lines(path))
    return [row for row in lines if isinstance(row, dict) and row.get("kind") == "run"]


def read_lines(path: Path) -> Iterator[Any]:
    """Read a file of JSON values, one per line.

    Raises: ValueError: a line that is no JSON, with file and line.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} must be one JSON object: {error}; remove it") from error


def _row(run: Path) -> dict[str, Any]:
    path = run / REPORT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no finished run ({REPORT_FILE} is missing); finish or resume it first")
    report = read_object(path)
    name = report["name"].partition(" with ")[0]
    try:
        recipe = find_recipe(name)
    except ValueError as error:
        raise ValueError(f"{run} is no run of a recipe, and only those compare with the paper: {error}") from None
    machine = report["machine"]
    return {
        "format": FORMAT,
        "kind": "run",
        "recipe": name,
        "changed": {**_changed(_as_run(recipe(), report), report["config"]), **_other_data(report["dataset"])},
        "seed": report["config"]["train"]["seed"],
        "metric": report["result"]["metric"],
        "scores": report["result"]["scores"],
        "best_epoch": report["result"]["best_epoch"],
        "epochs": report["result"]["epochs"],
        "stopped": report["result"]["stopped"],
        "curve": _curve(run),
        **_observed(run),
        "parameters": report["parameters"],
        "peak_bytes": report["memory"]["peak_bytes"],
        "memory_how": report["memory"]["how"],
        "resident_bytes": resident(report),
        "seconds_per_step": report["time"]["seconds_per_step_median"],
        "training_seconds": report["time"]["training_seconds"],
        "device": machine["device"],
        "hardware": machine["cpu"] if machine["device"] == "cpu" else machine["gpu"] or machine["device"],
        "precision": machine["precision"],
        "implementation": report["implementation"],
        "dataset": report["dataset"],
        "versions": report["versions"],
        "commit": report["git_commit"],
        "date": report["date"],
    }


def _as_run(recipe: Experiment, report: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a recipe, with the loss that the task of the data decides where it names none."""
    config = as_json(recipe)
    if recipe.train.loss is None:
        config["train"]["loss"] = next(task.loss for task in TASKS.values() if str(task) == report["dataset"]["task"])
    return config


def _curve(run: Path) -> list[dict[str, Any]]:
    """Return the evaluated epochs of a run: epoch, training loss, and the metric on each split."""
    return [
        {
            "epoch": row["epoch"],
            "loss": row["loss"],
            **{split: score["metric"] for split, score in row["scores"].items()},
        }
        for row in read_curve(run / CURVE_FILE)
        if row["scores"]
    ]


def _observed(run: Path) -> dict[str, dict[str, list[float | None]]]:
    """Return what the model reported of every epoch, such as residuals, to 4 digits: ``{}`` if it reported nothing."""
    rows = [row["observed"] for row in read_curve(run / CURVE_FILE)]
    names = dict.fromkeys(name for row in rows for name in row)
    observed = {name: [float(f"{row[name]:.4g}") if name in row else None for row in rows] for name in names}
    return {"observed": observed} if observed else {}


def _changed(recipe: Mapping[str, Any], ran: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return every field in which a run differs from its recipe, with both values."""
    wanted, got = flatten(json.loads(json.dumps(recipe, default=str))), flatten(ran)
    changed = {}
    for name in sorted(wanted.keys() | got.keys()):
        one, other = wanted.get(name), got.get(name)
        both_set = name in _PATHS and one is not None and other is not None
        if one != other and name not in IRRELEVANT and not both_set:
            changed[name] = [one, other]
    return changed


def _other_data(dataset: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the number of nodes or graphs, if it differs from that of the published data set of the same name."""
    facts = OGB.get(dataset["name"])
    if facts is None:
        return {}
    unit, size = f"{facts.info.level}s", facts.info.num_rows
    return {} if dataset[unit] == size else {f"data.{unit}": [size, dataset[unit]]}


def _key(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that identifies a run: all of its row but the date of its report."""
    return {key: value for key, value in row.items() if key != "date"}
