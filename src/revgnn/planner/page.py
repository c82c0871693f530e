"""What `revgnn plan` says: one JSON value, and its lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from ..console import print_table
from ..experiment import Experiment
from ..report.row import duration, integer, memory
from .dry_run import KEPT, step_size
from .estimate import estimate
from .roofline import rates_of, step_work
from .suggest import steps_of, what_fits
from .synthetic import shape_of_config

FIRST = 10
"""Suggestions that are shown."""


def make_plan(
    name: str, run: Experiment, memory_limit: int | None, *, device: str = "cpu", gpu: str = "h100"
) -> dict[str, Any]:
    """Plan a run without its data.

    Args:
        name: of the run.
        run: what would run.
        memory_limit: bytes that the process may take, or a GPU's tensors; ``None`` searches for nothing.
        device, gpu: as `rates_of`.
    Returns: one JSON value: sizes, peak by kind, time, and suggestions (the run as it is first).
    Raises: ValueError: sizes that are not known without the data; a peer that the data do not suit.
    """
    shape = shape_of_config(run.dataset)
    rates = rates_of(device, gpu)
    prediction = estimate(run, shape)
    nodes, edges = step_size(run, shape)
    seconds = step_work(run, shape, nodes, edges).seconds(rates)
    notes = [*shape.assumed]
    if device == "cuda":
        notes.append(
            "Bytes are of tensors with the kernels for the CPU, batches made ahead included: on CUDA an estimate."
        )
    if run.loader.kind == "clusters" and shape.kept is None:
        notes.append(f"Clusters are taken to keep {KEPT:.0%} of the edges: how many they do, their graph decides.")
    if prediction.how == "fitted":
        notes.append("Memory is fitted: carried on from trials of the same program at smaller sizes and depths.")
    return {
        "name": name,
        "shape": asdict(shape),
        "step": {"nodes": nodes, "edges": edges},
        "peak_bytes": prediction.peak,
        "process_bytes": prediction.process if device == "cpu" else None,
        "kinds": prediction.kinds,
        "phase": prediction.phase,
        "how": prediction.how,
        "parameters": prediction.parameters,
        "seconds_per_step": seconds,
        "steps_per_epoch": steps_of(run, shape),
        "rates": asdict(rates),
        "device": device,
        "memory": memory_limit,
        "suggestions": [asdict(one) for one in what_fits(run, shape, memory_limit, rates)] if memory_limit else [],
        "notes": notes,
    }


def show_plan(made: Mapping[str, Any], console: Console) -> None:
    """Print a plan for reading."""
    step = made["step"]
    facts = [
        ["run", made["name"]],
        ["a step sees", f"{step['nodes']:,} nodes, {step['edges']:,} edges; {made['steps_per_epoch']} an epoch"],
        ["parameters", integer(made["parameters"])],
        ["peak training memory", f"{memory(made['peak_bytes'])}, at the {made['phase']} ({made['how']})"],
        *([f"  {kind}", memory(size)] for kind, size in made["kinds"].items()),
        *([["the process", f"{memory(made['process_bytes'])}, interpreter included"]] if made["process_bytes"] else []),
        ["time per step", f"about {duration(made['seconds_per_step'])} ({made['rates']['source']})"],
    ]
    for fact, value in facts:
        console.print(f"{fact:<24}{value}", markup=False, soft_wrap=True)
    if made["memory"]:
        as_is, *others = made["suggestions"]
        verdict = "fits" if as_is["fits"] else "does not fit"
        console.print(f"\nIt {verdict} into {memory(made['memory'])}.", markup=False)
        if others:
            rows = suggestion_rows(others[:FIRST])
            print_table(
                console, ["what fits", "tensors", "process", "a step", "steps", "the same", "--set"], rows, text=7
            )
        elif not as_is["fits"]:
            console.print("Nothing that was tried fits.", markup=False)
    for note in made["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def suggestion_rows(suggestions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Write suggestions as cells: what, tensors, process, time of a step, steps, what stays the same, assignments."""
    return [
        [
            one["what"],
            memory(one["peak"]),
            memory(one["process"]),
            duration(one["seconds"]),
            str(one["steps"]),
            one["same"],
            " ".join(f"--set {setting}" for setting in one["settings"]),
        ]
        for one in suggestions
    ]
