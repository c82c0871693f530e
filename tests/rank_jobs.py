"""Jobs of two ranks under torchrun, on a toy, and what they leave behind; for tests whose file is its own worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from revgnn.data import Dataset, GraphInfo

LIMIT = 300
"""Seconds that any job may take."""


def node_dataset() -> Dataset:
    """One graph of 101 nodes with three classes that follow from the features."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(101, 5, generator=generator)
    order = torch.randperm(101, generator=generator)
    return Dataset(
        info=GraphInfo(name="toy", num_outputs=3),
        edge_index=torch.randint(101, (2, 400), generator=generator),
        x=x,
        y=x[:, :3].argmax(1),
        splits={"train": order[:50], "valid": order[50:75], "test": order[75:]},
    )


def graph_dataset() -> Dataset:
    """40 graphs of 2 to 6 nodes with two independent tasks, some labels missing."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, 7, (40,), generator=generator)
    node_ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    x = torch.randn(int(node_ptr[-1]), 5, generator=generator)
    ends = torch.rand(2, 40, 4, generator=generator) * sizes[:, None] + node_ptr[:-1, None]
    y = (torch.rand(40, 2, generator=generator) < 0.5).float()
    y[torch.rand(40, 2, generator=generator) < 0.2] = torch.nan
    order = torch.randperm(40, generator=generator)
    return Dataset(
        info=GraphInfo(name="toys", level="graph", task="multilabel", metric="rocauc", num_outputs=2),
        edge_index=ends.floor().long().reshape(2, -1),
        x=x,
        y=y,
        splits={"train": order[:20], "valid": order[20:30], "test": order[30:]},
        node_ptr=node_ptr,
        edge_ptr=torch.arange(0, 161, 4),
    )


def launch(worker: str, *arguments: str | Path, options: tuple[str, ...] = (), **more: str) -> tuple[int, str]:
    """Start two ranks of a Python file, ``more`` in their environment; give torchrun's status and what was said."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **more,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    with subprocess.Popen(
        [*command, worker, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            said, _ = job.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    return job.returncode, said


def last(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Read a file of the newest checkpoint of a run folder."""
    return load_file(sorted((out / "ckpt").iterdir())[-1] / f"{name}.safetensors")


def assert_same_bits(one: Path, other: Path) -> None:
    """Hold two finished runs against each other: weights, optimizer, what was selected."""
    for name in ("model", "optimizer", "best"):
        mine, theirs = last(one, name), last(other, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def assert_close(one: Path, other: Path) -> None:
    """Hold two finished runs against each other within 1e-6."""
    for name in ("model", "optimizer", "best"):
        mine, theirs = last(one, name), last(other, name)
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-6, atol=1e-6)
