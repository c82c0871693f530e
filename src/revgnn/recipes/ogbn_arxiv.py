"""The paper's ogbn-arxiv rows with GCN, SAGE and GEN (Tables 2 and 3): 28 layers, residual against reversible.

Their training code was never published. What stands in is the nearest recipe that was: DeeperGCN's for ogbn-arxiv
(Li et al. 2020, arXiv:2006.07739), marked `assumed` in every target; so is the norm, which parameter counts do not
tell. The GCN and SAGE rows are reported with GCN's and GraphSAGE's usual options.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..data import DatasetConfig
from ..models import ModelConfig
from ..nn.convs import GENOptions
from ..run import Run, Target
from ..train import TrainConfig

ARXIV = DatasetConfig(name="ogbn-arxiv", undirected=True, self_loops=True)
TRAIN = TrainConfig(epochs=500, optimizer="adam", lr=0.001, loss="cross_entropy", select="metric")
SOFTMAX = GENOptions(aggr="softmax_sg", t=0.1, mlp_layers=1)
ASSUMED = ("dataset.undirected", "dataset.self_loops", "model.norm", "model.dropout", "train.epochs", "train.lr")


def resgcn() -> Run:
    """Table 3, ResGCN: 28 layers, 128 channels."""
    return _res("gcn", Target(metric=72.46, std=0.29, memory_gb=11.15, parameters=491_176))


def revgcn_deep() -> Run:
    """Tables 2 and 3, RevGCN-Deep: 28 layers, 128 channels."""
    return _rev("gcn", 128, Target(metric=73.01, std=0.31, memory_gb=1.84, parameters=262_056))


def revgcn_wide() -> Run:
    """Table 3, RevGCN: 28 layers, 180 channels."""
    return _rev("gcn", 180, Target(metric=73.22, std=0.19, memory_gb=2.73, parameters=499_540))


def ressage() -> Run:
    """Table 3, ResSAGE: 28 layers, 128 channels."""
    return _res("sage", Target(metric=72.46, std=0.29, memory_gb=8.93, parameters=949_928))


def revsage() -> Run:
    """Table 3, RevSAGE: 28 layers, 128 channels."""
    return _rev("sage", 128, Target(metric=72.69, std=0.23, memory_gb=1.17, parameters=491_432))


def revsage_wide() -> Run:
    """Table 3, RevSAGE: 28 layers, 180 channels."""
    return _rev("sage", 180, Target(metric=72.73, std=0.10, memory_gb=1.57, parameters=953_140))


def resgen() -> Run:
    """Tables 2 and 3, ResGEN, which is DeeperGCN: 28 layers, 128 channels."""
    return _res("gen", Target(metric=72.32, std=0.27, memory_gb=21.63, parameters=491_176))


def revgen() -> Run:
    """Table 3, RevGEN: 28 layers, 128 channels."""
    return _rev("gen", 128, Target(metric=72.34, std=0.18, memory_gb=4.08, parameters=262_056))


def revgen_wide() -> Run:
    """Table 3, RevGEN: 28 layers, 180 channels."""
    return _rev("gen", 180, Target(metric=72.93, std=0.10, memory_gb=5.67, parameters=499_540))


def _res(conv: Literal["gcn", "sage", "gen"], target: Target) -> Run:
    model = ModelConfig(
        conv=conv,
        num_layers=28,
        hidden_channels=128,
        coupling="residual",
        backprop="store",
        norm="batch",
        dropout=0.5,
        gen=SOFTMAX if conv == "gen" else GENOptions(),
    )
    return Run(dataset=ARXIV, model=model, train=TRAIN, paper=replace(target, assumed=ASSUMED))


def _rev(conv: Literal["gcn", "sage", "gen"], hidden_channels: int, target: Target) -> Run:
    run = _res(conv, target)
    model = replace(
        run.model,
        hidden_channels=hidden_channels,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="layer",
    )
    return replace(run, model=model)
