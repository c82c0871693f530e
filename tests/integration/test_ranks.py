"""Runs of several ranks under torchrun: equal to one process, stopped by a signal, a rank lost and the run taken up.

The file is its own worker: torchrun starts it with a run folder and what to do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from revgnn.data import Dataset, LoaderConfig, make_batches
from revgnn.models import ModelConfig, build_model
from revgnn.train import TrainConfig, fit, read_curve

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(epochs=3, lr=0.01, checkpoint_every=1, clip_norm=1.0, optimizer="adamw")
LIMIT = 90
"""Seconds that any job may take."""


def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(101, 5, generator=generator)
    order = torch.randperm(101, generator=generator)
    return Dataset(
        name="toy",
        edge_index=torch.randint(101, (2, 400), generator=generator),
        x=x,
        y=x[:, :3].argmax(1),
        splits={"train": order[:50], "valid": order[50:75], "test": order[75:]},
        level="node",
        task="multiclass",
        metric="accuracy",
        num_outputs=3,
    )


class Disturbed(nn.Module):
    """A network that counts its training forwards and, at one of them, does something to its process."""

    def __init__(self, inner: nn.Module, deed: str) -> None:
        super().__init__()
        self.inner, self.deed, self.calls = inner, deed, 0

    def forward(self, *arguments: object, **named: object) -> torch.Tensor:
        self.calls += self.training
        if self.calls == 5 and self.training and os.environ.get("RANK") == "1":
            if self.deed == "signal":
                signal.raise_signal(signal.SIGTERM)
            if self.deed == "lost" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os._exit(9)
        logits: torch.Tensor = self.inner(*arguments, **named)
        return logits


def train(out: Path, deed: str, accumulate: int, parts: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = ModelConfig(conv="sage", num_layers=4, hidden_channels=8, dropout=0.2, norm="layer", segments=2)
    model = Disturbed(build_model(config, in_channels=5, out_channels=3), deed)
    loader = LoaderConfig(kind="random", num_parts=parts)
    fit(
        model,
        make_batches(dataset(), seed=0, loader=loader),
        TrainConfig(**{**vars(CONFIG), "accumulate": accumulate}),
        metric="accuracy",
        out=out,
        resume=deed == "resume",
        device="cpu",
    )


def launch(out: Path, deed: str, *options: str) -> tuple[int, str]:
    """Run two ranks; give torchrun's status and what was said."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    with subprocess.Popen(
        [*command, __file__, str(out), deed], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as job:
        try:
            _, said = job.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    return job.returncode, said


def last(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(sorted((out / "ckpt").iterdir())[-1] / f"{name}.safetensors")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two ranks that nothing disturbed."""
    out = tmp_path_factory.mktemp("ranks") / "two"
    status, said = launch(out, "none")
    assert status == 0, said
    return out


def assert_same_bits(one: Path, other: Path) -> None:
    for name in ("model", "optimizer", "best"):
        mine, theirs = last(one, name), last(other, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_two_ranks_are_one_process_that_accumulates(two: Path, tmp_path: Path) -> None:
    train(tmp_path / "one", "none", accumulate=2)
    mine, theirs = last(two), last(tmp_path / "one")
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-6)
    for ours, other in zip(read_curve(two / "curve.jsonl"), read_curve(tmp_path / "one/curve.jsonl"), strict=True):
        assert ours["steps"] == other["steps"] == 3
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_the_run_goes_on(two: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    status, said = launch(out, "signal")
    assert status != 0
    assert "stopped after epoch 1 and 2 steps" in said
    assert (out / "ckpt/epoch-000001-step-000002").is_dir()
    status, said = launch(out, "resume")
    assert status == 0, said
    assert_same_bits(two, out)


def test_a_lost_rank_ends_the_job_and_is_named(tmp_path: Path) -> None:
    status, said = launch(tmp_path / "lost", "lost")
    assert status != 0
    assert "exitcode  : 9" in said or "exitcode: 9" in said


def test_a_restart_goes_on_from_the_newest_checkpoint(two: Path, tmp_path: Path) -> None:
    # A restart may itself meet a process that is going away, which torchrun answers with another.
    status, said = launch(tmp_path / "lost", "lost", "--max-restarts=3")
    assert status == 0, said
    assert_same_bits(two, tmp_path / "lost")


def test_another_number_of_batches_in_a_step_is_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ranks \* train.accumulate was 2 and is 1"):
        train(two, "resume", accumulate=1)


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], accumulate=1)
