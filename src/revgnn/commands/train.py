"""``revgnn train``: train a recipe, or a model on a user's folder; in this process or on a Ray cluster"""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from ..console import progress_console
from ..experiment import Device, run_experiment
from ..launcher import world_size
from ..plain_config import flatten
from ..planner.beside import set_beside
from ..planner.out_of_memory import out_of_memory_answered
from ..repeat import Summary, run_repeats
from ..report.facts import Report
from ..train import Callback, ProgressBar, Tracking
from ..train.callbacks.tracking import check_trackers
from ..train.distributed.ray import Workers, on_ray
from .choose import asked_for
from .output import log_to
from .report import show_report, show_runs


def run(arguments: Namespace) -> None:
    """Train, and show the result."""
    _, _, out, _ = asked_for(arguments)
    check_trackers(arguments.track)
    log_to(progress_console())
    if arguments.plan and (arguments.runs is not None or arguments.ray is not None or world_size() > 1):
        raise ValueError("--plan is of one run in one process; leave it out, or --runs, --ray and other ranks")
    if arguments.ray is None:
        summary, report = _trained(arguments, arguments.device, False)
    elif arguments.runs is not None:
        raise ValueError("--runs trains its seeds one after another in one process; leave out --runs or --ray")
    else:
        workers = Workers(
            address=arguments.ray,
            count=arguments.ray_workers,
            cpus=arguments.ray_cpus,
            restarts=arguments.ray_restarts,
        )
        summary, report = on_ray(partial(_trained, arguments), workers, out, cpu=arguments.device == "cpu")
    if summary is not None:
        show_runs(summary, out, as_json=arguments.json)
    elif report is not None:
        show_report(report, out, as_json=arguments.json)


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
