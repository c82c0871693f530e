"""A small net and its run, for tests that stop it, kill it and go on: every kind of randomness is in it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from revgnn.data import Batch
from revgnn.graph import Graph
from revgnn.train import Checkpoints, FitResult, TrainConfig, fit, load_latest, read_curve

CONFIG = TrainConfig(epochs=7, lr=0.02, warmup_epochs=3, schedule="cosine", clip_norm=1.0, checkpoint_every=2)


class Toy(nn.Module):
    """A net with BatchNorm and both kinds of dropout: from the global generator and from the seed it is given."""

    def __init__(self, stop_at: int | None = None, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.stop_at, self.signum, self.calls = stop_at, signum, 0

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        h = nn.functional.dropout(self.norm(self.first(x)).relu(), 0.3, self.training)
        if self.training:
            assert seed is not None
            h = h * (torch.rand(h.shape, generator=torch.Generator().manual_seed(seed)) < 0.8)
            self.calls += 1
            if self.calls == self.stop_at:
                signal.raise_signal(self.signum)
        return self.last(h)


class Redrawn:
    """Three batches whose training rows are drawn anew in every epoch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for _ in range(3):
            x = torch.randn(33, 4, generator=generator)
            rows = {"train": torch.arange(20), "valid": torch.arange(20, 27), "test": torch.arange(27, 33)}
            graph = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 33)
            self.batches.append(Batch(x=x, graph=graph, y=x[:, :3].argmax(1), rows=rows))

    def __len__(self) -> int:
        return 3

    def train(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        for batch in self.batches:
            yield replace(batch, rows={"train": torch.randperm(20, generator=generator)[:10]})

    def evaluate(self) -> Iterator[Batch]:
        return iter(self.batches)


def fit_toy(out: Path, config: TrainConfig = CONFIG, stop_at: int | None = None, **options: Any) -> FitResult:
    torch.manual_seed(0)
    model = Toy(stop_at, options.pop("signum", signal.SIGINT))
    batches = options.pop("batches", None) or Redrawn()
    callbacks = [Checkpoints(options.pop("configuration", None)), *options.pop("callbacks", ())]
    return fit(model, batches, config, metric="accuracy", out=out, device="cpu", callbacks=callbacks, **options)


def assert_same_run(one: Path, other: Path) -> None:
    """Compare the last weights, the optimizer, the selected weights and the curve of two runs, bit for bit."""
    a, b = load_latest(one), load_latest(other)
    assert (a.epoch, a.step) == (b.epoch, b.step)
    for mine, theirs in [(a.model, b.model), (a.optimizer, b.optimizer), (a.best, b.best), (a.rng, b.rng)]:
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), name
    curves = [read_curve(run / "curve.jsonl") for run in (one, other)]
    # What was measured and observed is of what was run at one go, as the last epoch was.
    clean = [
        [{**row, "seconds": 0.0, "memory": None, "observed": sorted(row["observed"])} for row in curve]
        for curve in curves
    ]
    assert clean[0] == clean[1]
    assert curves[0][-1]["observed"] == curves[1][-1]["observed"]
