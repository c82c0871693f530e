"""Recipes of the paper's ogbn-products ablations: RevGNN against SGC and SIGN, mini-batches against full batches.

The paper prints two accuracies and no architecture. The authors' later port in PyG (examples/rev_gnn.py) replaces it,
marked `assumed`: 112 SAGE layers of 160 channels, on OGB's leaderboard with 83.07 +- 0.30 and 2,945,007 parameters.
"""

from __future__ import annotations

from dataclasses import replace

from ...data import DatasetConfig, LoaderConfig
from ...experiment import Experiment
from ...nn.model import ModelConfig
from ...train import TrainConfig
from ..baselines import BaselineConfig

PRODUCTS = DatasetConfig(name="ogbn-products", self_loops=True)
TRAIN = TrainConfig(epochs=1000, optimizer="adam", lr=0.003, eval_every=10, checkpoint_every=10)


def revgnn_full_batch() -> Experiment:
    """RevGNN on the whole graph: 112 SAGE layers, 160 channels."""
    return _rev()


def revgnn_mini_batch() -> Experiment:
    """RevGNN on mini-batches: 112 SAGE layers, 160 channels."""
    run = _rev()
    return replace(run, loader=LoaderConfig(kind="random", num_parts=10))


def sgc() -> Experiment:
    """SGC: 3 propagations and one linear map."""
    model = BaselineConfig(kind="sgc", num_layers=1, hidden_channels=1, hops=3)
    train = TrainConfig(epochs=500, optimizer="adam", lr=0.01, eval_every=10)
    return Experiment(dataset=DatasetConfig(name="ogbn-products"), model=model, train=train)


def sign() -> Experiment:
    """SIGN: features of 5 hops, 512 channels."""
    model = BaselineConfig(kind="sign", num_layers=3, hidden_channels=512, hops=5, dropout=0.5, input_dropout=0.3)
    train = TrainConfig(epochs=1000, optimizer="adam", lr=0.001, eval_every=10)
    return Experiment(dataset=DatasetConfig(name="ogbn-products"), model=model, train=train)


def _rev() -> Experiment:
    model = ModelConfig(
        conv="sage",
        num_layers=112,
        hidden_channels=160,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="layer",
        dropout=0.5,
    )
    return Experiment(dataset=PRODUCTS, model=model, train=TRAIN)
