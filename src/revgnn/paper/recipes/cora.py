"""Depth on Cora, a small citation graph with 140 labels (public split).

No row of the paper. GCNII reaches 85.5 with 64 layers (Chen et al. 2020, arXiv:2007.02133).
"""

from __future__ import annotations

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.model import ModelConfig
from ...train import TrainConfig


def revgcn_2() -> Experiment:
    """RevGCN: 2 layers, 64 channels."""
    return _run(2)


def revgcn_64() -> Experiment:
    """RevGCN: 64 layers, 64 channels."""
    return _run(64)


def _run(num_layers: int) -> Experiment:
    model = ModelConfig(
        conv="gcn",
        num_layers=num_layers,
        hidden_channels=64,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="layer",
        dropout=0.5,
        input_dropout=0.5,
    )
    train = TrainConfig(epochs=150, lr=0.005, weight_decay=0.0005, clip_norm=1.0, checkpoint_every=None)
    return Experiment(dataset=DatasetConfig(name="cora"), model=model, train=train)
