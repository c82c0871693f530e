"""Measures the resident memory of a run's first training steps in a separate process.

A process that has worked before reuses freed memory without growing, and recording allocations takes memory itself. So
the steps run in a new interpreter without a recording.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from ..data import Batches, Dataset, Store, make_batches, read_data
from ..experiment import Experiment, as_json, experiment_of, make_model
from ..files import parse_object
from ..meter import resident_peak
from ..plain_config import from_json
from ..resident import Resident, resident_now
from ..train import dry_run
from .dry_run import as_tried, enough, made_up_batches, made_up_data, ways_of_trial
from .measured import ways_of
from .synthetic import GraphShape

STEPS = 4
"""That are taken: two of each of two epochs, so that the optimizer's state is there, and the batches of the second."""


def resident_in_isolation(run: Experiment, data: GraphShape | Path) -> Resident | None:
    """Measure the resident memory of a run's first training steps on the CPU, with as many threads as this process.

    Args:
        run: the run; if it first unrolls a fixed point, steps that solve it are measured too.
        data: the shape of synthetic data; or the folder of data, from which the run's own data are read.
    Returns: the growth above the interpreter and its libraries, with the data, and the size of the process; ``None`` if
        the system does not report it.
    Raises: RuntimeError: the process failed; the message has its last output.
    Cost: seconds to start an interpreter, and the steps.
    """
    request = {
        "run": as_json(run),
        "shape": asdict(data) if isinstance(data, GraphShape) else None,
        "data_root": None if isinstance(data, GraphShape) else str(data),
        "threads": torch.get_num_threads(),
    }
    if resident_now() is None:
        return None
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request, default=str),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(
            f"the process that measures a training step ended with {done.returncode}: {said[-1] if said else 'killed'}"
        )
    return from_json(Resident, parse_object(done.stdout.splitlines()[-1]))


def _measured(ways: Iterable[Experiment], dataset: Dataset | Store, batches: Callable[[], Batches]) -> Resident:
    peak = resident_peak(dataset)
    for run in ways:
        made, model = batches(), make_model(run, dataset.info)
        dry_run(model, made, run.train, epochs=2, steps=STEPS // 2, num_outputs=dataset.info.num_outputs)
        del made, model
    assert peak.growth is not None and peak.process is not None, "where the system does not tell, nobody asks"
    return Resident(growth=peak.growth, process=peak.process)


def _main() -> None:
    request = parse_object(sys.stdin.read())
    torch.set_num_threads(request["threads"])
    run = experiment_of(request["run"])
    if request["shape"] is None:
        dataset = read_data(run.dataset, run.loader, Path(request["data_root"]))
        run = run.for_data(dataset.info)
        make = partial(make_batches, dataset, run.batch_size, run.train.seed, run.loader)
        found = _measured(ways_of(run), dataset, make)
    else:
        shape = from_json(GraphShape, request["shape"])
        shape = enough(run, shape)
        with as_tried(run, shape) as whole:
            data = made_up_data(run, shape)
            found = _measured(ways_of_trial(whole), data, partial(made_up_batches, whole, shape, data))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    _main()
