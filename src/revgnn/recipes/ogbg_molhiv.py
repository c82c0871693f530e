"""The paper's ogbg-molhiv remark: 14 layers of 256 channels, where GraphNorm is slightly better than BatchNorm.

It prints no figures and no training code; DeeperGCN's recipe for ogbg-molhiv (Li et al. 2020, arXiv:2006.07739) stands
in, marked `assumed`.
"""

from __future__ import annotations

from typing import Literal

from ..data import DatasetConfig
from ..experiment import Experiment
from ..nn.convs import GENOptions
from ..nn.model import ModelConfig
from ..target import Target
from ..train import TrainConfig

ASSUMED = ("batch_size", "model.dropout", "model.gen", "train.epochs", "train.lr")


def revgen_graphnorm() -> Experiment:
    """RevGEN with GraphNorm: 14 layers, 256 channels."""
    return _rev("graph")


def revgen_batchnorm() -> Experiment:
    """RevGEN with BatchNorm: 14 layers, 256 channels."""
    return _rev("batch")


def _rev(norm: Literal["graph", "batch"]) -> Experiment:
    model = ModelConfig(
        conv="gen",
        num_layers=14,
        hidden_channels=256,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm=norm,
        dropout=0.2,
        # Bonds are multi-hot, so a linear map without bias is the sum of their embeddings.
        edge_encoder=False,
        gen=GENOptions(aggr="softmax", learn_t=True, mlp_layers=1, edge_bias=False),
    )
    train = TrainConfig(epochs=300, lr=1e-4, checkpoint_every=10)
    return Experiment(
        dataset=DatasetConfig(name="ogbg-molhiv"),
        model=model,
        train=train,
        batch_size=32,
        paper=Target(assumed=ASSUMED),
    )
