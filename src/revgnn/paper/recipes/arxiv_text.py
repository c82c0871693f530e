"""Recipes on ``arxiv-text``, minutes each on a CPU: ogbn-arxiv's graph, labels and split, other features.

The features are 128 columns from a short text per paper (TF-IDF, reduced); the data is a folder of two tables.

These are no rows of the paper: the features differ, so accuracies compare with each other, not with the paper's.
Networks are narrow and schedules short. Compared networks have equal numbers of parameters, or of channels, as stated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ...data import Columns, DatasetConfig, LoaderConfig, SaintOptions
from ...experiment import Experiment
from ...nn.convs import GATOptions, GENOptions
from ...nn.model import EquilibriumOptions, ModelConfig
from ...train import LabelOptions, TeacherOptions, TrainConfig

DATA = DatasetConfig(name="tables", path="arxiv_text", undirected=True, columns=Columns(scale="none"))
PARTS = LoaderConfig(kind="clusters", num_parts=512, parts_per_batch=32)
"""16 steps per epoch. A step has many small clusters, not a few large ones: a cluster is a field of research with its
own classes, and steps on one field after another learn several times slower."""
TRAIN = TrainConfig(epochs=24, lr=0.01, warmup_epochs=2, schedule="cosine", clip_norm=1.0, eval_every=3)
FULL_TRAIN = replace(TRAIN, epochs=100, warmup_epochs=10, eval_every=10)
TEACHER = "runs/arxiv-text/revgat_labels/logits.safetensors"
"""Logits that ``revgnn train arxiv-text/revgat_labels`` writes."""


# ------------------------------------------------------------------ residual against reversible, equal parameters
def resgcn() -> Experiment:
    """ResGCN: 14 layers, 94 channels, stored; as many parameters as revgcn."""
    return _by_parts(_res("gcn", 14, 94))


def revgcn() -> Experiment:
    """RevGCN: 14 layers, 128 channels, by METIS parts."""
    return _by_parts(_rev("gcn", 14, 128))


def ressage() -> Experiment:
    """ResSAGE: 14 layers, 92 channels, stored; as many parameters as revsage."""
    return _by_parts(_res("sage", 14, 92))


def revsage() -> Experiment:
    """RevSAGE: 14 layers, 128 channels, by METIS parts."""
    return _by_parts(_rev("sage", 14, 128))


def resgen() -> Experiment:
    """ResGEN: 14 layers, 94 channels, stored; as many parameters as revgen."""
    return _by_parts(_res("gen", 14, 94))


def revgen() -> Experiment:
    """RevGEN: 14 layers, 128 channels, by METIS parts."""
    return _by_parts(_rev("gen", 14, 128))


def resgat() -> Experiment:
    """ResGAT: 7 layers, 2 heads, 96 channels, stored; as many parameters as revgat."""
    return _by_parts(_res("gat", 7, 96))


def revgat() -> Experiment:
    """RevGAT: 7 layers, 2 heads, 128 channels, by METIS parts."""
    return _by_parts(_rev("gat", 7, 128))


# ------------------------------------------------------------------ depth, weight tying, equilibrium
def revgcn_7() -> Experiment:
    """RevGCN: 7 layers, 64 channels."""
    return _by_parts(_rev("gcn", 7, 64))


def revgcn_28() -> Experiment:
    """RevGCN: 28 layers, 64 channels."""
    return _by_parts(_rev("gcn", 28, 64))


def revgcn_112() -> Experiment:
    """RevGCN: 112 layers, 64 channels."""
    # 112 layers need less than 28: lr=0.01 costs 0.6 points of test accuracy, dropout=0.3 another 0.8.
    return _by_parts(replace(_rev("gcn", 112, 64), dropout=0.1), replace(TRAIN, lr=0.003, warmup_epochs=4))


def wt_resgcn() -> Experiment:
    """WT-ResGCN: 28 layers, 64 channels, 2 of them distinct."""
    return _by_parts(replace(_res("gcn", 28, 64), weight_tied=True, num_distinct=2))


def wt_revgcn() -> Experiment:
    """WT-RevGCN: 28 layers, 64 channels, 2 of them distinct."""
    return _by_parts(replace(_rev("gcn", 28, 64), weight_tied=True, num_distinct=2))


def deq() -> Experiment:
    """DEQ: one contractive block at its fixed point, 64 channels."""
    options = EquilibriumOptions(
        contraction=0.9, solver="anderson", memory=5, max_iter=30, tol=1e-3, backward_max_iter=30, backward_tol=1e-2
    )
    return _by_parts(replace(_res("gcn", 2, 64), weight_tied=True, backprop="implicit", equilibrium=options))


def deq_unrolled() -> Experiment:
    """The block of deq, unrolled 8 times: the same parameters, 64 channels."""
    run = deq()
    assert isinstance(run.model, ModelConfig)
    options = replace(run.model.equilibrium, pretrain_epochs=run.train.epochs, pretrain_steps=8)
    return replace(run, model=replace(run.model, equilibrium=options))


def deq_gcn() -> Experiment:
    """DEQ-GCN: the paper's block at its fixed point, 64 channels; first unrolled."""
    options = EquilibriumOptions(max_iter=12, backward_max_iter=12, pretrain_epochs=10, pretrain_steps=4)
    return _by_parts(replace(_res("gcn", 14, 64), weight_tied=True, backprop="implicit", equilibrium=options))


def revsage_56() -> Experiment:
    """RevSAGE with label reuse: 56 layers, 128 channels."""
    # The learning rate of 14 layers is too high for 56: the loss falls at half the speed.
    train = replace(TRAIN, epochs=64, lr=0.004, warmup_epochs=6, eval_every=4, labels=LabelOptions(reuse=True))
    return _by_parts(replace(_rev("sage", 56, 128), dropout=0.1), train)


# ------------------------------------------------------------------ full batch; label reuse; self-distillation
def revgcn_full_batch() -> Experiment:
    """RevGCN on the whole graph: 14 layers, 128 channels, 100 steps."""
    return Experiment(dataset=DATA, model=_rev("gcn", 14, 128), train=FULL_TRAIN)


def revgat_plain() -> Experiment:
    """RevGAT on the whole graph: 3 layers, 2 heads, 64 channels."""
    return Experiment(dataset=DATA, model=_rev("gat", 3, 64), train=FULL_TRAIN)


def revgat_labels() -> Experiment:
    """RevGAT with label reuse on the whole graph: 3 layers, 2 heads, 64 channels."""
    run = revgat_plain()
    return replace(run, train=replace(run.train, labels=LabelOptions(reuse=True), keep_logits=True))


def revgat_selfkd() -> Experiment:
    """RevGAT-SelfKD: a student of revgat_labels with the same architecture."""
    run = revgat_labels()
    return replace(run, train=replace(run.train, keep_logits=False, teacher=TeacherOptions(path=TEACHER)))


# ------------------------------------------------------------------ ways to make batches, one network for all
def batches_full() -> Experiment:
    """RevSAGE, 3 layers, 64 channels: the whole graph."""
    return _batches(LoaderConfig())


def batches_random() -> Experiment:
    """RevSAGE, 3 layers, 64 channels: random parts."""
    return _batches(LoaderConfig(kind="random", num_parts=16))


def batches_clusters() -> Experiment:
    """RevSAGE, 3 layers, 64 channels: METIS clusters."""
    return _batches(PARTS)


def batches_diagonal() -> Experiment:
    """RevSAGE, 3 layers, 64 channels: METIS clusters with diagonal enhancement."""
    return _batches(replace(PARTS, diagonal=1.0))


def batches_neighbor() -> Experiment:
    """RevSAGE, 3 layers, 64 channels: sampled neighbours."""
    return _batches(LoaderConfig(kind="neighbor", fanouts=(15, 10, 5), batch_size=1024))


def batches_saint() -> Experiment:
    """RevSAGE, 3 layers, 64 channels: GraphSAINT's random walks."""
    return _batches(LoaderConfig(kind="saint", saint=SaintOptions(budget=6000, walk_length=2)))


def _batches(loader: LoaderConfig) -> Experiment:
    """Equal epochs; every way has its own steps in each."""
    train = replace(TRAIN, epochs=8, warmup_epochs=1, eval_every=2)
    return Experiment(dataset=DATA, model=_rev("sage", 3, 64), train=train, loader=loader)


# ------------------------------------------------------------------ shared configurations
Conv = Literal["gcn", "sage", "gen", "gat"]


def _rev(conv: Conv, num_layers: int, hidden_channels: int) -> ModelConfig:
    return ModelConfig(
        conv=conv,
        num_layers=num_layers,
        hidden_channels=hidden_channels,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="layer",
        dropout=0.3,
        gen=GENOptions(aggr="softmax", mlp_layers=1),
        gat=GATOptions(heads=2),
    )


def _res(conv: Conv, num_layers: int, hidden_channels: int) -> ModelConfig:
    return replace(_rev(conv, num_layers, hidden_channels), coupling="residual", backprop="store")


def _by_parts(model: ModelConfig, train: TrainConfig = TRAIN) -> Experiment:
    return Experiment(dataset=DATA, model=model, train=train, loader=PARTS)
