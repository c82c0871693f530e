"""Makes the plan of `revgnn plan`, and prints it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..console import print_table
from ..experiment import Experiment
from ..report.row import duration, integer, memory
from .estimate import estimate
from .process import process_bytes
from .roofline import MachineRates, rates_of, run_seconds, step_work
from .step_size import KEPT, step_size, steps_of
from .suggest import MARGIN, Suggestion, what_fits
from .synthetic import GraphShape, shape_of_config

FIRST = 10
"""Number of suggestions shown."""
TIMES = (
    "Times are orders of magnitude: of the recipes that were measured most are within a factor of two, small steps and "
    "fixed points up to ten times off (docs/planner.md)."
)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The predicted memory and time of a run, and settings that fit."""

    name: str
    shape: GraphShape
    step: dict[str, int]
    """The "nodes" and "edges" of a training step."""
    peak_bytes: int
    """Of tensors."""
    process_bytes: int | None
    """``None`` on a GPU."""
    kinds: dict[str, int]
    """Kind of tensor -> its bytes at the peak."""
    phase: str
    """The phase of the step that has the peak."""
    how: str
    """How the peak was predicted."""
    parameters: int
    seconds_per_step: float
    steps_per_epoch: int
    epochs: int
    seconds: float
    """Of the whole run, evaluations included."""
    rates: MachineRates
    device: str
    memory: int | None
    """The limit in bytes; ``None``: no search for suggestions."""
    suggestions: list[Suggestion]
    """The run as it is first; empty without a limit."""
    notes: list[str]


def make_plan(
    name: str,
    run: Experiment,
    memory_limit: int | None,
    *,
    device: str = "cpu",
    gpu: str = "h100",
    data_root: Path = Path(),
    progress: Callable[[str], None] = lambda stage: None,
) -> RunPlan:
    """Plan a run without its data.

    Args:
        name: name of the run.
        run: the experiment.
        memory_limit: bytes for the process, or for tensors on a GPU; ``None``: no search for suggestions.
        device, gpu: as in `rates_of`.
        data_root: folder for a relative ``dataset.path``, of which sizes are read.
        progress: called with a description of each prediction.
    Raises: FileNotFoundError: tables or roads of one's own are not there; ValueError: a peer that the data do not suit.
    """
    shape = shape_of_config(run.dataset, data_root)
    progress("the rates of this machine" if device == "cpu" else f"the rates of {gpu}")
    rates = rates_of(device, gpu)
    progress("as it is")
    prediction = estimate(run, shape)
    nodes, edges = step_size(run, shape)
    seconds = step_work(run, shape, nodes, edges).seconds(rates)
    notes = [*shape.assumed, TIMES]
    if device == "cuda":
        notes.append(
            "Bytes are of tensors with the kernels for the CPU, batches made ahead included: on CUDA an estimate."
        )
    if run.loader.kind == "clusters" and shape.kept is None:
        notes.append(f"Clusters are taken to keep {KEPT:.0%} of the edges: how many they do, their graph decides.")
    if prediction.how == "fitted":
        notes.append("Memory is fitted: carried on from trials of the same program at smaller sizes and depths.")
    ways = what_fits(run, shape, memory_limit, rates, progress=progress) if memory_limit else []
    if (
        memory_limit
        and not ways[0].fits
        and device == "cpu"
        and MARGIN * (data := process_bytes(run, shape, 0)) > memory_limit
    ):
        notes.append(
            f"The data, the sorting of their edges and the interpreter take {both_units(data)} without any step: "
            "prepare the graph on disk (revgnn prepare) and read it with loader.kind=ondisk."
        )
    return RunPlan(
        name=name,
        shape=shape,
        step={"nodes": nodes, "edges": edges},
        peak_bytes=prediction.peak,
        process_bytes=prediction.process if device == "cpu" else None,
        kinds=prediction.kinds,
        phase=prediction.phase,
        how=prediction.how,
        parameters=prediction.parameters,
        seconds_per_step=seconds,
        steps_per_epoch=steps_of(run, shape),
        epochs=run.train.epochs,
        seconds=run_seconds(run, shape, rates),
        rates=rates,
        device=device,
        memory=memory_limit,
        suggestions=ways,
        notes=notes,
    )


def show_plan(made: RunPlan, console: Console) -> None:
    """Print a plan for reading."""
    nodes, edges = made.step["nodes"], made.step["edges"]
    facts = [
        ["run", made.name],
        ["a step sees", f"{nodes:,} nodes, {edges:,} edges; {made.steps_per_epoch} an epoch"],
        ["parameters", integer(made.parameters)],
        ["peak training memory", f"{memory(made.peak_bytes)}, at the {made.phase} ({made.how})"],
        *([f"  {kind}", memory(size)] for kind, size in made.kinds.items()),
        *([["the process", f"{memory(made.process_bytes)}, interpreter included"]] if made.process_bytes else []),
        ["time per step", f"about {duration(made.seconds_per_step)} ({made.rates.source})"],
        ["time of the run", f"about {duration(made.seconds)}: {made.epochs:,} epochs, evaluations included"],
    ]
    for fact, value in facts:
        console.print(f"{fact:<24}{value}", markup=False, soft_wrap=True)
    if made.memory:
        as_is, *others = made.suggestions
        console.print(f"\n{_verdict(as_is, made.memory)}", markup=False, soft_wrap=True)
        if others:
            rows = suggestion_rows(others[:FIRST])
            print_table(
                console, ["what fits", "tensors", "process", "a step", "steps", "the same", "--set"], rows, text=7
            )
        elif not as_is.fits:
            console.print("Nothing that was tried fits.", markup=False)
    for note in made.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _verdict(as_is: Suggestion, limit: int) -> str:
    """Say whether a run fits, against the number that was asked for."""
    taken = as_is.peak if as_is.process is None else as_is.process
    verdict = "fits" if as_is.fits else "does not fit"
    share = f"{both_units(taken)} and {MARGIN - 1:.0%} to spare are {both_units(round(MARGIN * taken))}"
    return f"It {verdict} into {both_units(limit)}: {share}."


def both_units(size: int) -> str:
    """Write bytes in the decimal unit that `--memory` takes and in the binary one of reports."""
    power = min(max((len(str(size)) - 1) // 3, 0), 4)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]} ({memory(size)})"


def suggestion_rows(suggestions: Sequence[Suggestion]) -> list[list[str]]:
    """Write suggestions as cells: what, tensors, process, time of a step, steps, what stays the same, assignments."""
    return [
        [
            one.what,
            memory(one.peak),
            memory(one.process),
            duration(one.seconds),
            str(one.steps),
            one.same,
            " ".join(f"--set {setting}" for setting in one.settings),
        ]
        for one in suggestions
    ]
