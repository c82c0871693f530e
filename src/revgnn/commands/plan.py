"""``revgnn plan``: predict the memory and time of a run, and suggest settings that fit"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from ..console import progress_console, results_console, stages
from ..planner.page import make_plan, show_plan
from ..stack.budget import parse_bytes
from .choose import changed_experiment, choose_experiment
from .output import log_to, print_json


def run(arguments: Namespace) -> None:
    """Predict the memory and time of a run, and suggest settings that fit."""
    if arguments.gpu is not None and arguments.device != "cuda":
        raise ValueError(f"--gpu {arguments.gpu} goes with --device cuda; add it, or leave out --gpu")
    name, experiment = choose_experiment(arguments.what, arguments.model)
    name, experiment = changed_experiment(name, experiment, arguments.assignments)
    options = {"device": arguments.device, "gpu": arguments.gpu or "h100", "data_root": arguments.data_root}
    console = progress_console()
    log_to(console)
    memory_limit = None if arguments.memory is None else parse_bytes(arguments.memory, "--memory")
    if arguments.json:
        print_json(asdict(make_plan(name, experiment, memory_limit, **options)))
        return
    with stages("plan", console) as progress:
        made = make_plan(name, experiment, memory_limit, **options, progress=progress)
    show_plan(made, results_console())
