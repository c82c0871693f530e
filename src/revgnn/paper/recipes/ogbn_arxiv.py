"""Recipes of the paper's ogbn-arxiv rows: Table 2 with its seven baselines, and the twelve rows of Table 3.

The code of the GCN, SAGE and GEN rows is unpublished. The nearest published recipe replaces it: DeeperGCN's for
ogbn-arxiv (Li et al. 2020, arXiv:2006.07739), marked `assumed`; so is the norm, which parameter counts do not reveal.
The GAT rows follow the paper's official code (ogb_eff/ogbn_arxiv_dgl).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ...data import DatasetConfig
from ...experiment import Experiment
from ...nn.convs import GATOptions, GENOptions
from ...nn.model import ModelConfig
from ...train import LabelOptions, TeacherOptions, TrainConfig
from ..baselines import BaselineConfig

ARXIV = DatasetConfig(name="ogbn-arxiv", undirected=True, self_loops=True)
TRAIN = TrainConfig(epochs=500, optimizer="adam", lr=0.001, select="metric")
GAT_TRAIN = TrainConfig(
    epochs=2000,
    optimizer="rmsprop",
    lr=0.002,
    warmup_epochs=50,
    loss="log_cross_entropy",
    select="loss",
    labels=LabelOptions(reuse=True, rate=0.5, refine=1),
)
SOFTMAX = GENOptions(aggr="softmax_sg", t=0.1, mlp_layers=1)
TEACHER = "runs/ogbn-arxiv/revgat/seed-{seed}/logits.safetensors"
"""Logits that ``revgnn train ogbn-arxiv/revgat --runs 10`` writes."""


# ------------------------------------------------------------------ Table 2: baselines
def sage() -> Experiment:
    """Table 2, GraphSAGE: 3 layers, 256 channels."""
    return _plain("sage")


def gcn() -> Experiment:
    """Table 2, GCN: 3 layers, 256 channels."""
    return _plain("gcn")


def dagnn() -> Experiment:
    """Table 2, DAGNN: 16 propagations, 256 channels."""
    model = BaselineConfig(kind="dagnn", num_layers=2, hidden_channels=256, hops=16, dropout=0.2)
    train = TrainConfig(epochs=1000, optimizer="adam", lr=0.005)
    return Experiment(dataset=replace(ARXIV, self_loops=False), model=model, train=train)


def gcnii() -> Experiment:
    """Table 2, GCNII: 16 layers, 256 channels."""
    model = BaselineConfig(kind="gcnii", num_layers=16, hidden_channels=256, initial=0.5, dropout=0.1)
    train = TrainConfig(epochs=1000, optimizer="adam", lr=0.001, patience=200)
    return Experiment(dataset=replace(ARXIV, self_loops=False), model=model, train=train)


def gat() -> Experiment:
    """Table 2, GAT with label reuse: 3 layers, 3 heads, 750 channels."""
    model = BaselineConfig(
        kind="gat",
        num_layers=3,
        hidden_channels=750,
        heads=3,
        dropout=0.75,
        input_dropout=0.25,
        edge_drop=0.3,
    )
    return Experiment(dataset=ARXIV, model=model, train=GAT_TRAIN)


def unimp_v2() -> Experiment:
    """Table 2, UniMP_v2: 3 layers, 3 heads, 300 channels."""
    model = BaselineConfig(
        kind="unimp_v2",
        num_layers=3,
        hidden_channels=300,
        heads=3,
        dropout=0.3,
        input_dropout=0.1,
        edge_drop=0.1,
    )
    labels = LabelOptions(reuse=True, rate=0.65, refine=0)
    train = TrainConfig(epochs=1500, optimizer="adam", lr=0.001, weight_decay=0.0005, labels=labels)
    return Experiment(dataset=ARXIV, model=model, train=train)


# ------------------------------------------------------------------ Table 3
def resgcn() -> Experiment:
    """Table 3, ResGCN: 28 layers, 128 channels."""
    return _res("gcn")


def revgcn_deep() -> Experiment:
    """Tables 2 and 3, RevGCN-Deep: 28 layers, 128 channels."""
    return _rev("gcn", 128)


def revgcn_wide() -> Experiment:
    """Table 3, RevGCN: 28 layers, 180 channels."""
    return _rev("gcn", 180)


def ressage() -> Experiment:
    """Table 3, ResSAGE: 28 layers, 128 channels."""
    return _res("sage")


def revsage() -> Experiment:
    """Table 3, RevSAGE: 28 layers, 128 channels."""
    return _rev("sage", 128)


def revsage_wide() -> Experiment:
    """Table 3, RevSAGE: 28 layers, 180 channels."""
    return _rev("sage", 180)


def resgen() -> Experiment:
    """Tables 2 and 3, ResGEN, which is DeeperGCN: 28 layers, 128 channels."""
    return _res("gen")


def revgen() -> Experiment:
    """Table 3, RevGEN: 28 layers, 128 channels."""
    return _rev("gen", 128)


def revgen_wide() -> Experiment:
    """Table 3, RevGEN: 28 layers, 180 channels."""
    return _rev("gen", 180)


def resgat() -> Experiment:
    """Table 3, ResGAT with label reuse: 5 layers, 768 channels."""
    run = _revgat(768)
    model = replace(_gat_model(768), coupling="residual", backprop="store")
    return replace(run, model=model, train=replace(run.train, keep_logits=False))


def revgat() -> Experiment:
    """Table 3, RevGAT with label reuse: 5 layers, 768 channels."""
    return _revgat(768)


def revgat_wide() -> Experiment:
    """Tables 2 and 3, RevGAT-Wide with label reuse: 5 layers, 1068 channels."""
    run = _revgat(1068)
    return replace(run, train=replace(run.train, keep_logits=False))


def revgat_selfkd() -> Experiment:
    """Table 2, RevGAT-SelfKD: a student of RevGAT with the same seed."""
    run = _revgat(768)
    teacher = TeacherOptions(path=TEACHER, alpha=0.95, temperature=0.7)
    return replace(run, train=replace(run.train, keep_logits=False, teacher=teacher))


# ------------------------------------------------------------------ shared configurations
def _plain(kind: Literal["gcn", "sage"]) -> Experiment:
    """Configure OGB's own example: both directions of every edge, BatchNorm."""
    model = BaselineConfig(kind=kind, num_layers=3, hidden_channels=256, norm=True, dropout=0.5)
    train = TrainConfig(epochs=500, optimizer="adam", lr=0.01)
    return Experiment(dataset=replace(ARXIV, self_loops=False), model=model, train=train)


def _res_model(conv: Literal["gcn", "sage", "gen"]) -> ModelConfig:
    return ModelConfig(
        conv=conv,
        num_layers=28,
        hidden_channels=128,
        coupling="residual",
        backprop="store",
        norm="batch",
        dropout=0.5,
        gen=SOFTMAX if conv == "gen" else GENOptions(),
    )


def _res(conv: Literal["gcn", "sage", "gen"]) -> Experiment:
    return Experiment(dataset=ARXIV, model=_res_model(conv), train=TRAIN)


def _rev(conv: Literal["gcn", "sage", "gen"], hidden_channels: int) -> Experiment:
    model = replace(
        _res_model(conv),
        hidden_channels=hidden_channels,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="layer",
    )
    return replace(_res(conv), model=model)


def _gat_model(hidden_channels: int) -> ModelConfig:
    return ModelConfig(
        conv="gat",
        num_layers=5,
        hidden_channels=hidden_channels,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="batch",
        dropout=0.75,
        input_dropout=0.25,
        gat=GATOptions(heads=3, norm_adj=True, edge_drop=0.3),
    )


def _revgat(hidden_channels: int) -> Experiment:
    train = replace(GAT_TRAIN, keep_logits=True)
    return Experiment(dataset=ARXIV, model=_gat_model(hidden_channels), train=train)
