"""Depth that pays, on the published minesweeper graph: which cells of a 100 x 100 field hold a mine? ROC-AUC.

No row of the paper. Every cell sees only the counts around it, and half of the counts are hidden, so what a cell hides
follows from counts many steps away. Ten published splits: ``revgnn train NAME --runs 10`` takes each once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.convs import GATOptions
from ...nn.model import EquilibriumOptions, ModelConfig
from ...train import TrainConfig

DATA = DatasetConfig(name="minesweeper")
TRAIN = TrainConfig(epochs=250, lr=0.01, clip_norm=1.0, eval_every=5, checkpoint_every=None)


# ------------------------------------------------------------------ depth
def revsage_4() -> Experiment:
    """RevSAGE: 4 layers, 64 channels."""
    return _run(_rev("sage", 4))


def revsage_8() -> Experiment:
    """RevSAGE: 8 layers, 64 channels."""
    return _run(_rev("sage", 8))


def revsage_16() -> Experiment:
    """RevSAGE: 16 layers, 64 channels."""
    return _run(_rev("sage", 16))


def revsage() -> Experiment:
    """RevSAGE: 32 layers, 64 channels."""
    return _run(_rev("sage", 32))


def revsage_64() -> Experiment:
    """RevSAGE: 64 layers, 64 channels."""
    return _run(_rev("sage", 64))


# ------------------------------------------------------------------ other couplings and convolutions
def ressage() -> Experiment:
    """ResSAGE: 32 layers, 64 channels, stored."""
    return _run(replace(_rev("sage", 32), coupling="residual", backprop="store"))


def revgcn() -> Experiment:
    """RevGCN: 32 layers, 64 channels."""
    return _run(_rev("gcn", 32))


def revgat() -> Experiment:
    """RevGAT: 32 layers, 2 heads, 64 channels."""
    return _run(_rev("gat", 32))


# ------------------------------------------------------------------ an equilibrium
def deq() -> Experiment:
    """DEQ: one contractive block at its fixed point, SAGE before it, 64 channels."""
    options = EquilibriumOptions(
        contraction=0.98,
        contraction_init="glorot",
        solver="anderson",
        max_iter=30,
        tol=1e-3,
        backward_max_iter=30,
        backward_tol=1e-2,
    )
    model = replace(_rev("sage", 2), coupling="residual", backprop="implicit", weight_tied=True, equilibrium=options)
    return Experiment(dataset=DATA, model=model, train=replace(TRAIN, schedule="cosine"))


def deq_unrolled() -> Experiment:
    """The block of deq, unrolled 8 times: the same parameters, 64 channels."""
    run = deq()
    assert isinstance(run.model, ModelConfig)
    options = replace(run.model.equilibrium, pretrain_epochs=run.train.epochs, pretrain_steps=8)
    return replace(run, model=replace(run.model, equilibrium=options))


def _rev(conv: Literal["gcn", "sage", "gat"], num_layers: int) -> ModelConfig:
    return ModelConfig(
        conv=conv,
        num_layers=num_layers,
        hidden_channels=64,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="batch",
        dropout=0.2,
        gat=GATOptions(heads=2),
    )


def _run(model: ModelConfig) -> Experiment:
    return Experiment(dataset=DATA, model=model, train=TRAIN)
