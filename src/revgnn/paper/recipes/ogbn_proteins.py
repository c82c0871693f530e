"""Recipes of the paper's ogbn-proteins rows: Table 1 with its six baselines, and Table 6, ablations of 112 layers.

RevGNN's training follows the paper's official code (ogb_eff/ogbn_proteins). 2000 epochs are its parser's default and
match the paper's timing; its README says 1000.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...data import DatasetConfig, LoaderConfig, ProteinsFeatures
from ...experiment import Experiment
from ...nn.convs import GENOptions
from ...nn.model import EquilibriumOptions, ModelConfig
from ...train import LabelOptions, TrainConfig
from ..baselines import BaselineConfig

PROTEINS = DatasetConfig(name="ogbn-proteins")
"""Node features are sums of edge features and a one-hot species; edges keep their features."""
WITHOUT_SPECIES = replace(PROTEINS, proteins=ProteinsFeatures(species=False))
TRAIN = TrainConfig(epochs=2000, optimizer="adam", lr=0.001, clip_norm=1.0, checkpoint_every=10)
MAX = GENOptions(aggr="max")


# ------------------------------------------------------------------ Table 1
def gcn() -> Experiment:
    """Table 1, GCN: 3 layers, 256 channels."""
    return _plain(BaselineConfig(kind="gcn", num_layers=3, hidden_channels=256, norm=False, dropout=0.0))


def sage() -> Experiment:
    """Table 1, GraphSAGE: 3 layers, 256 channels."""
    return _plain(BaselineConfig(kind="sage", num_layers=3, hidden_channels=256, norm=False, dropout=0.0))


def deepergcn() -> Experiment:
    """Table 1, DeeperGCN (DyResGEN): 112 layers, 64 channels."""
    model = _res(112, 64, gen=GENOptions(aggr="softmax", t=1.0, learn_t=True))
    train = replace(TRAIN, epochs=1000, lr=0.01, clip_norm=None)
    return _in_parts(Experiment(dataset=PROTEINS, model=model, train=train), train=10, evaluate=5)


def unimp() -> Experiment:
    """Table 1, UniMP: 7 layers, 4 heads, 256 channels."""
    return _unimp("unimp", 2000)


def gat() -> Experiment:
    """Table 1, GAT with edge features: 6 layers, 6 heads, 480 channels."""
    model = BaselineConfig(
        kind="edge_gat",
        num_layers=6,
        hidden_channels=480,
        heads=6,
        dropout=0.25,
        input_dropout=0.1,
        edge_drop=0.1,
    )
    train = TrainConfig(epochs=1200, optimizer="adamw", lr=0.01, eval_every=5, checkpoint_every=10)
    loader = LoaderConfig(kind="neighbor", fanouts=(32,) * 6, batch_size=8_662, eval_parts=5)
    return Experiment(dataset=WITHOUT_SPECIES, model=model, train=train, loader=loader)


def unimp_cef() -> Experiment:
    """Table 1, UniMP with cross edge features: 7 layers, 256 channels."""
    return _unimp("unimp_cef", 5000)


def revgnn_deep() -> Experiment:
    """Table 1, RevGNN-Deep: 1001 layers, 80 channels."""
    return _in_parts(Experiment(dataset=PROTEINS, model=_rev(1001, 80), train=TRAIN), train=10, evaluate=5, views=10)


def revgnn_wide() -> Experiment:
    """Table 1, RevGNN-Wide: 448 layers, 224 channels."""
    return _in_parts(
        Experiment(dataset=PROTEINS, model=_rev(448, 224, dropout=0.2), train=TRAIN),
        train=10,
        evaluate=5,
        views=10,
    )


# ------------------------------------------------------------------ Table 6
def resgnn_64() -> Experiment:
    """Table 6, ResGNN-64: 112 layers, 64 channels."""
    return _ablation(_res(112, 64))


def resgnn_224() -> Experiment:
    """Table 6, ResGNN-224: 112 layers, 224 channels."""
    return _ablation(_res(112, 224))


def revgnn_64() -> Experiment:
    """Table 6, RevGNN-64: 112 layers, 64 channels."""
    return _ablation(_rev(112, 64))


def revgnn_80() -> Experiment:
    """Table 6, RevGNN-80: 112 layers, 80 channels."""
    return _ablation(_rev(112, 80))


def revgnn_224() -> Experiment:
    """Table 6, RevGNN-224: 112 layers, 224 channels."""
    return _ablation(_rev(112, 224))


def wt_resgnn_64() -> Experiment:
    """Table 6, WT-ResGNN-64: 112 layers, weights tied, 64 channels."""
    return _ablation(_tied(_res(112, 64)))


def wt_revgnn_64() -> Experiment:
    """Table 6, WT-RevGNN-64: 112 layers, weights tied, 64 channels."""
    return _ablation(_tied(_rev(112, 64)))


def wt_revgnn_80() -> Experiment:
    """Table 6, WT-RevGNN-80: 112 layers, weights tied, 80 channels."""
    return _ablation(_tied(_rev(112, 80)))


def wt_revgnn_224() -> Experiment:
    """Table 6, WT-RevGNN-224: 112 layers, weights tied, 224 channels."""
    return _ablation(_tied(_rev(112, 224)))


def deq_gnn_64() -> Experiment:
    """Table 6, DEQ-GNN-64: a fixed point of 56 iterations, 64 channels."""
    return _ablation(_deq(64))


def deq_gnn_224() -> Experiment:
    """Table 6, DEQ-GNN-224: a fixed point of 56 iterations, 224 channels."""
    return _ablation(_deq(224))


# ------------------------------------------------------------------ shared configurations
def _res(num_layers: int, hidden_channels: int, *, gen: GENOptions = MAX) -> ModelConfig:
    return ModelConfig(
        conv="gen",
        num_layers=num_layers,
        hidden_channels=hidden_channels,
        coupling="residual",
        backprop="store",
        norm="layer",
        dropout=0.1,
        species=8,
        gen=gen,
    )


def _rev(num_layers: int, hidden_channels: int, *, dropout: float = 0.1) -> ModelConfig:
    model = _res(num_layers, hidden_channels)
    return replace(model, coupling="grouped", num_groups=2, backprop="reversible", dropout=dropout)


def _tied(model: ModelConfig) -> ModelConfig:
    return replace(model, weight_tied=True, num_distinct=2)


def _deq(hidden_channels: int) -> ModelConfig:
    """Configure an equilibrium of 56 iterations with two convolutions each, unrolled in the first 100 epochs."""
    options = EquilibriumOptions(solver="broyden", max_iter=56, pretrain_epochs=100)
    return replace(_tied(_res(112, hidden_channels)), backprop="implicit", equilibrium=options)


def _plain(model: BaselineConfig) -> Experiment:
    """Configure OGB's own example: full batch, mean edge features as node features, no edge features."""
    dataset = replace(PROTEINS, edge_features=False, proteins=ProteinsFeatures(reduce="mean", species=False))
    train = TrainConfig(epochs=1000, optimizer="adam", lr=0.01, eval_every=5)
    return Experiment(dataset=dataset, model=model, train=train)


def _unimp(kind: Any, epochs: int) -> Experiment:
    model = BaselineConfig(kind=kind, num_layers=7, hidden_channels=256, heads=4, dropout=0.1)
    labels = LabelOptions(reuse=True, rate=0.5, refine=0)
    train = TrainConfig(epochs=epochs, optimizer="adam", lr=0.001, labels=labels, checkpoint_every=10)
    run = Experiment(dataset=WITHOUT_SPECIES, model=model, train=train)
    return _in_parts(run, train=9, evaluate=5)


def _ablation(model: ModelConfig) -> Experiment:
    return _in_parts(Experiment(dataset=PROTEINS, model=model, train=TRAIN), train=10, evaluate=5)


def _in_parts(run: Experiment, *, train: int, evaluate: int, views: int = 1) -> Experiment:
    """Set the numbers of random parts that the graph is split into.

    Args:
        train, evaluate: number of parts in a training epoch, and in its evaluation.
        views: number of random partitions in 3 parts over which the final logits are averaged; 1: no averaging, the
            evaluation of the best epoch is final.
    """
    loader = LoaderConfig(
        kind="random",
        num_parts=train,
        eval_parts=evaluate,
        final_parts=3 if views > 1 else None,
        final_views=views,
    )
    return replace(run, loader=loader)
