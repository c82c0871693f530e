"""Recipes on the embedded digits graph: ResGNN and RevGNN of equal depth and width.

These are no rows of the paper. The graph is small and its labels are easy, so they show the cost of depth, not its
benefit.
"""

from __future__ import annotations

from dataclasses import replace

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.model import ModelConfig
from ...train import TrainConfig


def resgnn() -> Experiment:
    """ResGNN: 28 SAGE layers, 64 channels, activations stored."""
    return _run(_RES)


def revgnn() -> Experiment:
    """RevGNN: 28 SAGE layers, 64 channels, reversible."""
    return _run(replace(_RES, coupling="grouped", num_groups=2, backprop="reversible"))


_RES = ModelConfig(
    conv="sage",
    num_layers=28,
    hidden_channels=64,
    coupling="residual",
    backprop="store",
    norm="layer",
    dropout=0.2,
)


def _run(model: ModelConfig) -> Experiment:
    train = TrainConfig(epochs=60, lr=0.003, eval_every=5, checkpoint_every=None)
    return Experiment(dataset=DatasetConfig(name="digits"), model=model, train=train)
