"""Where to start on a graph of your own: one reversible network per convolution, over a folder of two tables.

These take the folder and so stand in no list; `MODELS` names them. Messages run both ways along every edge; with edge
features the GEN network reads them, the others leave them out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..data import DatasetConfig
from ..models import ModelConfig
from ..run import Run
from ..train import TrainConfig


def revgcn(folder: Path) -> Run:
    """RevGCN: 7 layers, 128 channels."""
    return _start(folder, "gcn", num_layers=7, hidden_channels=128)


def revsage(folder: Path) -> Run:
    """RevSAGE: 7 layers, 128 channels."""
    return _start(folder, "sage", num_layers=7, hidden_channels=128)


def revgen(folder: Path) -> Run:
    """RevGEN: 7 layers, 128 channels."""
    return _start(folder, "gen", num_layers=7, hidden_channels=128)


def revgat(folder: Path) -> Run:
    """RevGAT: 5 layers, 3 heads, 192 channels in all."""
    return _start(folder, "gat", num_layers=5, hidden_channels=192)


MODELS: dict[str, Callable[[Path], Run]] = {"revgcn": revgcn, "revsage": revsage, "revgen": revgen, "revgat": revgat}


def _start(folder: Path, conv: Literal["gcn", "sage", "gen", "gat"], *, num_layers: int, hidden_channels: int) -> Run:
    model = ModelConfig(
        conv=conv,
        num_layers=num_layers,
        hidden_channels=hidden_channels,
        coupling="grouped",
        num_groups=2,
        backprop="reversible",
        norm="batch",
        dropout=0.3,
    )
    train = TrainConfig(epochs=200, lr=0.003, patience=100)
    dataset = DatasetConfig(name="tables", path=str(folder.resolve()), undirected=True)
    return Run(dataset=dataset, model=model, train=train)
