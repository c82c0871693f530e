"""What two ranks cost beside one process that takes the same steps: time, bytes between them, memory of each.

python -m benchmarks.ranks          measures every way on the CPU with gloo, appends its rows

A wide RevSAGE on small parts: the weights are most of what a rank holds. Bytes are those of the loopback interface
while the steps went on, which other programs on the machine may add to.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from revgnn.data import Dataset, LoaderConfig, make_batches
from revgnn.measure import StepMemory, tensor_bytes
from revgnn.nn.model import ModelConfig, build_model
from revgnn.train import TrainConfig, fit

from .machine import ROOT, facts

RESULTS = ROOT / "benchmarks" / "results" / "ranks.jsonl"
NODES, EDGES, FEATURES, CLASSES, PARTS = 240, 4_800, 64, 8, 4
LAYERS, HIDDEN, EPOCHS = 8, 1_024, 7


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to take a step of two batches."""

    ranks: int
    parallel: str
    segments: int


WAYS = (
    Way(ranks=1, parallel="ddp", segments=1),
    Way(ranks=1, parallel="ddp", segments=4),
    Way(ranks=2, parallel="ddp", segments=1),
    Way(ranks=2, parallel="ddp", segments=4),
    Way(ranks=2, parallel="fsdp", segments=1),
    Way(ranks=2, parallel="fsdp", segments=4),
)


def dataset() -> Dataset:
    """A random graph whose classes follow from the features."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NODES, FEATURES, generator=generator)
    order = torch.randperm(NODES, generator=generator)
    return Dataset(
        name="wide",
        edge_index=torch.randint(NODES, (2, EDGES), generator=generator),
        x=x,
        y=x[:, :CLASSES].argmax(1),
        splits={"train": order[: NODES // 2], "valid": order[NODES // 2 :]},
        level="node",
        task="multiclass",
        metric="accuracy",
        num_outputs=CLASSES,
    )


class Watch:
    """A `Progress` that takes the time of each step and what the loopback interface carried, after the first epoch."""

    def __init__(self, memory: StepMemory) -> None:
        self.memory = memory
        self.seconds: list[float] = []
        self.sent: list[int] = []
        self._before: tuple[float, int] | None = None

    def begin(self, **_: Any) -> None:
        """Nothing to do."""

    def step(self, *, epoch: int, **_: Any) -> None:
        """Note a step, once none is recorded any more."""
        self.memory.step()
        now = time.perf_counter(), _loopback()
        if self._before is not None and epoch > StepMemory.RECORDED_STEPS // 2 + 1:
            self.seconds.append(now[0] - self._before[0])
            self.sent.append(now[1] - self._before[1])
        self._before = now

    def epoch(self, row: Any) -> None:
        """Between epochs no step is under way."""
        self._before = None

    def end(self) -> None:
        """Nothing to do."""


def measure(way: Way) -> dict[str, Any]:
    """Train as one rank of a way, and say what it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    held: dict[str, int] = {}

    def look(optimizer: Optimizer, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        held.update(weights=tensor_bytes(parameters), gradients=tensor_bytes(gradients), optimizer=tensor_bytes(states))

    model = build_model(
        ModelConfig(
            conv="sage", num_layers=LAYERS, hidden_channels=HIDDEN, dropout=0.1, norm="layer", segments=way.segments
        ),
        in_channels=FEATURES,
        out_channels=CLASSES,
    )
    memory = StepMemory("cpu", model.parameters())
    watch = Watch(memory)
    hook = register_optimizer_step_post_hook(look)
    result = fit(
        model,
        make_batches(dataset(), seed=0, loader=LoaderConfig(kind="random", num_parts=PARTS, prefetch=0)),
        TrainConfig(
            epochs=EPOCHS,
            lr=1e-4,
            eval_every=EPOCHS,
            checkpoint_every=None,
            accumulate=2 // way.ranks,
            parallel="fsdp" if way.parallel == "fsdp" else "ddp",
        ),
        metric="accuracy",
        progress=watch,
        memory=memory,
        device="cpu",
    )
    hook.remove()
    return {
        "parameters": result.parameters,
        "step_s": statistics.median(watch.seconds or [0.0]),
        "sent_bytes": statistics.median(watch.sent or [0]),
        "peak_bytes": result.peak_memory,
        "held_bytes": held,
        "losses": [row["loss"] for row in result.curve],
    }


def launch(way: Way) -> dict[str, Any]:
    """Measure a way in processes of its own; the figures are the first rank's."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={way.ranks}", "-m"]
        words = ["benchmarks.ranks", "--worker", str(WAYS.index(way)), str(out)]
        subprocess.run(
            [sys.executable, *(starter if way.ranks > 1 else ["-m"]), *words],
            check=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        row: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return row


def _loopback() -> int:
    """Bytes that the loopback interface has carried; 0 where the system does not say."""
    counts = Path("/proc/net/dev")
    lines = counts.read_text(encoding="utf-8").splitlines() if counts.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.strip().startswith("lo:")), 0)


def main() -> None:
    """Measure and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "OUT"), help="be one rank of a way")
    arguments = parser.parse_args()
    if arguments.worker is not None:
        row = measure(WAYS[int(arguments.worker[0])])
        if os.environ.get("RANK", "0") == "0":
            Path(arguments.worker[1]).write_text(json.dumps(row), encoding="utf-8")
        return
    for way in WAYS:
        row = {"kind": "ranks", **facts("cpu"), **vars(way), "layers": LAYERS, "hidden": HIDDEN, **launch(way)}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({name: row[name] for name in ("ranks", "parallel", "segments", "step_s", "peak_bytes")}))


if __name__ == "__main__":
    main()
