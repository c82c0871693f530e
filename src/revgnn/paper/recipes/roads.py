"""Depth on a road network, labelled by the rule of City-Networks: tenths of the eccentricity within 16 hops.

No row of the paper. The label of a node follows from the lengths of roads up to 16 steps away; its features are those
of its own roads. The file is looked for at ``california_roads.npz`` below the data root.
"""

from __future__ import annotations

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.model import ModelConfig
from ...train import TrainConfig

DATA = DatasetConfig(name="roads", path="california_roads.npz")
TRAIN = TrainConfig(epochs=150, lr=0.01, clip_norm=1.0, eval_every=5, checkpoint_every=None)


def revsage_4() -> Experiment:
    """RevSAGE: 4 layers, 64 channels."""
    return _run(4)


def revsage_16() -> Experiment:
    """RevSAGE: 16 layers, 64 channels."""
    return _run(16)


def revsage_64() -> Experiment:
    """RevSAGE: 64 layers, 64 channels."""
    return _run(64)


def _run(num_layers: int) -> Experiment:
    model = ModelConfig(
        conv="sage",
        num_layers=num_layers,
        hidden_channels=64,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="batch",
        dropout=0.2,
    )
    return Experiment(dataset=DATA, model=model, train=TRAIN)
