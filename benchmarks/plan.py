"""Predictions of the planner beside measured peaks: every recipe, at sizes and depths beyond those of its trials.

    python -m benchmarks.plan --write benchmarks/results/plan.jsonl

A data set of the recipe's shape is made up at so many times the size of the larger trial (at most the whole one), the
net is as deep as the recipe's, and training steps are measured: the memory of some, then the time of others. Times are
of the process on the CPU, so that other programs disturb them less; take one thread.

With ``--again`` rows that were measured are predicted anew, at the sizes of their measurement, which stands.
With ``--real`` steps are measured on the recipe's own data, beside what is predicted with them and without.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from revgnn.data import make_batches, read_data
from revgnn.experiment import Experiment
from revgnn.overrides import override
from revgnn.paper.recipes import all_recipes, find_recipe
from revgnn.paper.results import read_lines
from revgnn.planner import GraphShape, estimate, shape_of_config
from revgnn.planner.dry_run import at_most, at_size, measured_peak, measured_seconds
from revgnn.planner.estimate import predicted as predicted_of_data
from revgnn.planner.isolated import resident_in_isolation
from revgnn.planner.measured import training_memory
from revgnn.planner.roofline import measured_rates, step_work
from revgnn.planner.step_size import step_size

from .machine import facts


def measure(name: str, times: float, deeper: int | None, data_root: Path) -> dict[str, Any]:
    """Predict and measure one recipe.

    Args:
        name: of the recipe.
        times: nodes and edges, of the larger trial's.
        deeper: layers, of the deeper trial's, at most; ``None``: all that the net has.
        data_root: below which the folders of tables lie; only their footers are read.
    """
    run = find_recipe(name)()
    run, shape = at_most(run, _shape(run, data_root), times, deeper)
    started = time.perf_counter()
    predicted = estimate(run, shape)
    planned = time.perf_counter()
    measured = measured_peak(run, shape)
    known = time.perf_counter()
    work = step_work(run, shape, *step_size(run, shape))
    return {
        "kind": "plan",
        "recipe": name,
        "num_nodes": shape.nodes,
        "num_edges": shape.edges,
        "layers": run.model.num_layers,
        "predicted_bytes": predicted.peak,
        "measured_bytes": measured,
        "ratio": predicted.peak / measured,
        "how": predicted.how,
        "phase": predicted.phase,
        "predict_s": planned - started,
        "measure_s": known - planned,
        "predicted_step_s": work.seconds(measured_rates(torch.get_num_threads(), time.process_time)),
        "measured_step_s": measured_seconds(run, shape, steps=3, clock=time.process_time),
        "threads": torch.get_num_threads(),
        **facts("cpu"),
    }


def predict_again(row: Mapping[str, Any], data_root: Path) -> dict[str, Any]:
    """Predict once more what a row measured.

    Args:
        row: that `measure` gave.
        data_root: as `measure`.
    Returns: the row with the new prediction; "commit" is the prediction's, "measured_commit" the measurement's.
    """
    run = find_recipe(row["recipe"])()
    shape = _shape(run, data_root)
    run, shape = at_size(run, shape, 1.0 if shape.info.level == "graph" else row["num_nodes"] / shape.nodes)
    started = time.perf_counter()
    predicted = estimate(run, shape)
    found = {
        "predicted_bytes": predicted.peak,
        "ratio": predicted.peak / row["measured_bytes"],
        "how": predicted.how,
        "phase": predicted.phase,
        "predict_s": time.perf_counter() - started,
        "measured_commit": row.get("measured_commit", row["commit"]),
    }
    return {**row, **found, **facts("cpu")}


def _shape(run: Experiment, data_root: Path) -> GraphShape:
    dataset = run.dataset
    if dataset.path is not None:
        dataset = replace(dataset, path=str(data_root / dataset.path))
    return shape_of_config(dataset)


def measure_process(name: str, times: float, deeper: int | None) -> dict[str, Any]:
    """Predict what a process takes for a recipe at a size, and measure it.

    Args: as `measure`.
    """
    run = find_recipe(name)()
    run, shape = at_most(run, shape_of_config(run.dataset), times, deeper)
    predicted, measured = estimate(run, shape), resident_in_isolation(run, shape)
    assert measured is not None, "the system must tell the resident size"
    return {
        "kind": "plan-process",
        "recipe": name,
        "num_nodes": shape.nodes,
        "num_edges": shape.edges,
        "layers": run.model.num_layers,
        "predicted_bytes": predicted.peak,
        "growth_bytes": measured.growth,
        "predicted_process_bytes": predicted.process,
        "process_bytes": measured.process,
        "ratio": predicted.process / measured.process,
        "threads": torch.get_num_threads(),
        **facts("cpu"),
    }


def measure_real(name: str, changes: Sequence[str], data_root: Path) -> dict[str, Any]:
    """Predict the steps of a recipe, with its data and without, and measure them on its data.

    Args:
        name: of the recipe.
        changes: to it, as ``--set`` takes them.
        data_root: where its data lie.
    """
    run = override(find_recipe(name)(), changes)
    dataset = read_data(run.dataset, run.loader, data_root)
    measured = training_memory(run, dataset)
    with_data = predicted_of_data(run, dataset, make_batches(dataset, run.batch_size, run.train.seed, run.loader))
    assert with_data is not None, "nothing is predicted of a graph on disk while it trains"
    without = estimate(run, _shape(run, data_root)).peak
    return {
        "kind": "plan-real",
        "recipe": name,
        "changes": list(changes),
        "predicted_bytes": with_data["peak_bytes"],
        "predicted_without_data_bytes": without,
        "measured_bytes": measured,
        "ratio": with_data["peak_bytes"] / measured,
        "ratio_without_data": without / measured,
        "threads": torch.get_num_threads(),
        **facts("cpu"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write a line per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=2.0, help="size, of the larger trial's")
    parser.add_argument("--deeper", type=int, help="depth at most, of the deeper trial's (default: the net's own)")
    parser.add_argument("--recipe", action="append", help="only this one; repeatable")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--real", action="store_true", help="measure on the data itself, at the whole size and depth")
    parser.add_argument("--again", type=Path, help="predict the newest rows of this file again, and measure nothing")
    parser.add_argument("--process", action="store_true", help="measure what the process takes instead of tensors")
    parser.add_argument("--set", action="append", default=[], help="change the recipe, with --real; repeatable")
    parser.add_argument("--write", type=Path, help="append to this file; without it, rows are printed")
    options = parser.parse_args(arguments)
    if options.set and not options.real:
        parser.error("--set changes what is measured with --real; without it every recipe is measured as it is")
    newest = {row["recipe"]: row for row in read_lines(options.again)} if options.again else {}
    for name in options.recipe or newest or all_recipes():
        if options.again:
            row = predict_again(newest[name], options.data_root)
        elif options.real:
            row = measure_real(name, options.set, options.data_root)
        elif options.process:
            row = measure_process(name, options.times, options.deeper)
        else:
            row = measure(name, options.times, options.deeper, options.data_root)
        found = row["process_bytes" if options.process else "measured_bytes"]
        print(f"{name}: {row['ratio']:.3f} ({found / 1e6:.1f} MB)", file=sys.stderr, flush=True)
        if options.write is None:
            print(json.dumps(row))
        else:
            with options.write.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
