"""How far a network sees, on generated chains whose first node alone tells the class of all. Accuracy.

No row of the paper. Nothing is downloaded. ``--set dataset.chain.length=200`` makes the chains longer. Networks have 16
channels.
"""

from __future__ import annotations

from dataclasses import replace

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.model import EquilibriumOptions, ModelConfig
from ...train import TrainConfig


def deq() -> Experiment:
    """DEQ: one contractive block at its fixed point, 16 channels."""
    # An evaluation carries a signal one hop, and the backward carries its gradient one hop back.
    options = EquilibriumOptions(
        contraction=0.99, contraction_norm="row", solver="picard", max_iter=1000, tol=1e-5, backward_max_iter=1000
    )
    return _run(replace(_resgcn(2), backprop="implicit", weight_tied=True, equilibrium=options))


def deq_unrolled() -> Experiment:
    """The block of deq, unrolled 30 times: the same parameters, 16 channels."""
    run = deq()
    assert isinstance(run.model, ModelConfig)
    options = replace(run.model.equilibrium, pretrain_epochs=run.train.epochs, pretrain_steps=30)
    return replace(run, model=replace(run.model, equilibrium=options))


def resgcn_8() -> Experiment:
    """ResGCN: 8 layers, 16 channels, stored."""
    return _run(_resgcn(8))


def revsage_32() -> Experiment:
    """RevSAGE: 32 layers, 16 channels."""
    return _run(_revsage(32))


def revsage_128() -> Experiment:
    """RevSAGE: 128 layers, 16 channels."""
    return _run(_revsage(128))


def _resgcn(num_layers: int) -> ModelConfig:
    return ModelConfig(
        conv="gcn",
        num_layers=num_layers,
        hidden_channels=16,
        coupling="residual",
        backprop="store",
        norm="none",
        dropout=0.0,
    )


def _revsage(num_layers: int) -> ModelConfig:
    # Without a norm the gradient of 128 layers overflows.
    model = replace(_resgcn(num_layers), conv="sage", norm="layer")
    return replace(model, coupling="grouped", backprop="reversible")


def _run(model: ModelConfig) -> Experiment:
    train = TrainConfig(epochs=150, lr=0.01, schedule="cosine", clip_norm=1.0, eval_every=5, checkpoint_every=None)
    return Experiment(dataset=DatasetConfig(name="chain"), model=model, train=train)
