"""Depth on Cora, a small citation graph with 140 labels (public split).

No row of the paper. GCNII reaches 85.5 with 64 layers (Chen et al. 2020, arXiv:2007.02133).
"""

from __future__ import annotations

from dataclasses import replace

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.model import EquilibriumOptions, ModelConfig
from ...train import TrainConfig
from ..baselines import BaselineConfig

DATA = DatasetConfig(name="cora")


def revgcn_2() -> Experiment:
    """RevGCN: 2 layers, 64 channels."""
    return _run(2)


def revgcn_64() -> Experiment:
    """RevGCN: 64 layers, 64 channels."""
    return _run(64)


def deq() -> Experiment:
    """DEQ: one contractive block at its fixed point, GCN before it, 64 channels."""
    options = EquilibriumOptions(
        contraction=0.9, solver="anderson", max_iter=30, tol=1e-3, backward_max_iter=30, backward_tol=1e-2
    )
    model = ModelConfig(
        conv="gcn",
        num_layers=2,
        hidden_channels=64,
        coupling="residual",
        backprop="implicit",
        weight_tied=True,
        norm="none",
        dropout=0.8,
        input_dropout=0.8,
        equilibrium=options,
    )
    train = TrainConfig(epochs=300, patience=100, select="loss", lr=0.003, weight_decay=0.01, checkpoint_every=None)
    # The spectral bound is one for edges in both directions, which the published ones are already.
    return Experiment(dataset=replace(DATA, undirected=True), model=model, train=train)


def gcnii_64() -> Experiment:
    """GCNII as its authors trained it: 64 layers, 64 channels."""
    model = BaselineConfig(kind="gcn2", num_layers=64, hidden_channels=64, initial=0.1, identity=0.5, dropout=0.6)
    train = TrainConfig(
        epochs=1500,
        patience=100,
        select="loss",
        lr=0.01,
        weight_decay=0.0005,
        weight_decays=(("convs", 0.01),),
        checkpoint_every=None,
    )
    return Experiment(dataset=DATA, model=model, train=train)


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
    return Experiment(dataset=DATA, model=model, train=train)
