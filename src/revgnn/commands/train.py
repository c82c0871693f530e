"""``revgnn train``: train a recipe, or a model on a user's folder; in this process or on a Ray cluster"""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

import torch

from ..console import progress_console, stages
from ..experiment import run_experiment
from ..launcher import world_size
from ..plain_config import flatten
from ..planner import Limits, choose_within, rates_of, shape_of_config
from ..planner.beside import set_beside
from ..planner.limits import parse_seconds
from ..planner.out_of_memory import out_of_memory_answered
from ..planner.page import both_units
from ..repeat import Summary, run_repeats
from ..report.facts import Report
from ..report.row import duration
from ..stack.budget import parse_bytes
from ..train import Callback, ProgressBar, Tracking
from ..train.callbacks.tracking import check_trackers
from ..train.device import Device
from ..train.distributed.ray import Workers, on_ray
from .choose import asked_for
from .output import log_to
from .report import show_report, show_runs

_ON_RAY = {"workers": 2, "cpus": 1, "restarts": 3}
"""Defaults of ``--ray-workers`` and its like."""


def run(arguments: Namespace) -> None:
    """Train, and show the result."""
    if arguments.time is not None or arguments.memory is not None:
        arguments.assignments = [*_chosen(arguments), *arguments.assignments]
    _, _, out, _ = asked_for(arguments)
    check_trackers(arguments.track)
    log_to(progress_console())
    if arguments.plan and (arguments.runs is not None or arguments.ray is not None or world_size() > 1):
        raise ValueError("--plan is of one run in one process; leave it out, or --runs, --ray and other ranks")
    given = {name: value for name in _ON_RAY if (value := getattr(arguments, f"ray_{name}")) is not None}
    if arguments.ray is None and given:
        flags = ", ".join(f"--ray-{name} {value}" for name, value in given.items())
        raise ValueError(f"{flags} goes with --ray ADDRESS; add it, or leave this out")
    if arguments.ray is None:
        summary, report = _trained(arguments, arguments.device, False)
    elif arguments.runs is not None:
        raise ValueError("--runs trains its seeds one after another in one process; leave out --runs or --ray")
    else:
        asked = {**_ON_RAY, **given}
        workers = Workers(address=arguments.ray, count=asked["workers"], cpus=asked["cpus"], restarts=asked["restarts"])
        summary, report = on_ray(partial(_trained, arguments), workers, out, cpu=arguments.device == "cpu")
    if summary is not None:
        show_runs(summary, out, as_json=arguments.json)
    elif report is not None:
        show_report(report, out, as_json=arguments.json)


def _chosen(arguments: Namespace) -> tuple[str, ...]:
    """Return the settings with which a run keeps ``--time`` and ``--memory``, and print them."""
    if arguments.ray is not None or world_size() > 1:
        raise ValueError("--time and --memory choose for one process; leave them out, or --ray and other ranks")
    if arguments.resume:
        raise ValueError(
            "--time and --memory choose anew, and a run resumes with its own settings: leave them out, and repeat the "
            "settings that were printed"
        )
    if not Path(arguments.what).is_dir():
        raise ValueError(f"--time and --memory go with a folder; the recipe {arguments.what} has its own network")
    limits = Limits(
        seconds=None if arguments.time is None else parse_seconds(arguments.time),
        memory=None if arguments.memory is None else parse_bytes(arguments.memory, "--memory"),
    )
    _, run, _, _ = asked_for(arguments)
    on_gpu = arguments.device == "auto" and torch.cuda.is_available()
    fixed = frozenset(text.partition("=")[0].strip() for text in arguments.assignments)
    console = progress_console()
    with stages("plan", console) as progress:
        shape, rates = shape_of_config(run.dataset, arguments.data_root), rates_of("cuda" if on_gpu else "cpu")
        choice = choose_within(run, shape, limits, rates, fixed=fixed, progress=progress)
    words = " ".join(f"--set {setting}" for setting in choice.settings) or "as it is"
    process = "" if choice.process is None else f", {both_units(choice.process)} of memory"
    console.print(f"chosen: {words}; about {duration(choice.seconds)}{process}", markup=False, soft_wrap=True)
    return choice.settings


def _trained(arguments: Namespace, device: Device, again: bool) -> tuple[Summary | None, Report | None]:
    """Train as one of the ranks; return the summary of several seeds, or the report of one on the first rank.

    Args:
        arguments: the parsed arguments.
        device: overrides their device.
        again: whether to resume from the checkpoint of an earlier attempt.
    """
    name, experiment, out, target = asked_for(arguments)
    console = progress_console()
    log_to(console)
    options = {
        "name": name,
        "target": target,
        "data_root": arguments.data_root,
        "device": device,
        "resume": arguments.resume or again,
        "download": arguments.download,
    }

    def shown(label: str, folder: Path, seed: int) -> list[Callback]:
        settings = {**flatten(experiment), "train.seed": seed}
        bar = ProgressBar(label=label, console=console)
        return [bar, Tracking(arguments.track, run=name, out=folder, settings=settings)]

    with out_of_memory_answered(experiment, arguments.data_root, device=device):
        if arguments.runs is not None:
            summary = run_repeats(
                experiment,
                out,
                runs=arguments.runs,
                callbacks=lambda seed: shown(f"{out.name} seed {seed}", out / f"seed-{seed}", seed),
                **options,
            )
            return summary, None
        report = run_experiment(experiment, out, callbacks=shown(out.name, out, experiment.train.seed), **options)
    if arguments.plan and report is not None:
        report = set_beside(report, experiment, out, arguments.data_root)
    return None, report
