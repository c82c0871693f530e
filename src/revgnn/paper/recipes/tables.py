"""Default experiments for a graph of your own, from two tables or from ``revgnn prepare``: one per convolution.

They take the folder as an argument, so they are no recipes; `MODELS` has them by name. Edges of tables are made
undirected, unless a graph.yaml is there; a prepared graph keeps its edges. Only the GEN network reads edge features,
and GCN and SAGE edge weights. A prepared graph of more than 1 GiB is read from disk part by part, a smaller one into
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ...data import DatasetConfig, LoaderConfig, Store, is_store
from ...data.prepare.inputs import CONFIG
from ...experiment import Experiment, ModelBuilder
from ...nn.convs import GATOptions
from ...nn.model import ModelConfig
from ...train import TrainConfig


def revsage(folder: Path) -> Experiment:
    """RevSAGE: 4 layers, 64 channels."""
    return _start(folder, "sage", hidden_channels=64)


def revgcn(folder: Path) -> Experiment:
    """RevGCN: 4 layers, 64 channels."""
    return _start(folder, "gcn", hidden_channels=64)


def revgen(folder: Path) -> Experiment:
    """RevGEN: 4 layers, 64 channels."""
    return _start(folder, "gen", hidden_channels=64)


def revgat(folder: Path) -> Experiment:
    """RevGAT: 4 layers, 3 heads, 96 channels in all."""
    return _start(folder, "gat", hidden_channels=96)


MODELS: dict[str, Callable[[Path], Experiment]] = {
    "revsage": revsage,
    "revgcn": revgcn,
    "revgen": revgen,
    "revgat": revgat,
}
DEFAULT = "revsage"
"""The model where none is named; docs/defaults.md compares it and the settings below with others."""


_IN_MEMORY = 2**30
"""Bytes on disk up to which a prepared graph is read into memory."""
_BYTES_PER_STEP = 2**27
"""Bytes of a larger graph that a step reads, approximately; at least one part."""


def _start(folder: Path, conv: Literal["gcn", "sage", "gen", "gat"], *, hidden_channels: int) -> Experiment:
    model = ModelConfig(
        conv=conv,
        num_layers=4,
        hidden_channels=hidden_channels,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="layer",
        dropout=0.2,
        gat=GATOptions(heads=3) if conv == "gat" else GATOptions(),
    )
    return on_tables(folder, model)


def on_tables(folder: Path, model: ModelBuilder) -> Experiment:
    """Configure training of a model on a folder of two tables, or on a prepared graph.

    Args:
        folder: the folder of the tables or of the prepared graph.
        model: builds the model.
    """
    train = TrainConfig(epochs=200, lr=0.01, patience=30)
    path = str(folder.resolve())
    if is_store(folder):
        prepared = DatasetConfig(name="prepared", path=path)
        return Experiment(dataset=prepared, model=model, train=train, loader=_loader(Store.open(folder)))
    # A graph.yaml says itself which edges are added.
    tables = DatasetConfig(name="tables", path=path, undirected=not (folder / CONFIG).is_file())
    return Experiment(dataset=tables, model=model, train=train)


def _loader(store: Store) -> LoaderConfig:
    size = store.manifest.num_bytes
    if size <= _IN_MEMORY or store.num_parts == 1:
        return LoaderConfig()
    parts = max(1, store.num_parts * _BYTES_PER_STEP // size)
    return LoaderConfig(kind="ondisk", parts_per_batch=parts, eval_parts=-(-store.num_parts // parts))
