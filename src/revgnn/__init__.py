"""Train graph neural networks of any depth in the memory of one layer.

Letters, once for the project: N nodes, E edges, D hidden channels, C groups, L layers, H heads, K raw edge channels,
T tasks or classes, P parts, B graphs in a batch.

A public name is imported when it is first asked for, so that ``import revgnn`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .data import (
        Batch,
        Batches,
        Columns,
        Dataset,
        DatasetConfig,
        GraphInfo,
        LoaderConfig,
        PygBatches,
        dataset_from_pyg,
        load_dataset,
        make_batches,
    )
    from .experiment import Experiment, run_experiment
    from .graph import Graph
    from .interop import GroupAddRev, from_pyg, reversible, to_pyg
    from .measure import held_memory, median_seconds, peak_memory, saved_bytes
    from .nn import GATConv, GCNConv, GENConv, SAGEConv
    from .nn.model import GNN, ModelConfig, build_model
    from .paper.targets import Target
    from .stack import Stack
    from .train import Callback, FitResult, TrainConfig, fit
    from .trained import TrainedModel, from_pretrained, load

__version__ = "0.1.0"

_HOMES = {
    "data": (
        "Batch",
        "Batches",
        "Columns",
        "Dataset",
        "DatasetConfig",
        "GraphInfo",
        "LoaderConfig",
        "PygBatches",
        "dataset_from_pyg",
        "load_dataset",
        "make_batches",
    ),
    "graph": ("Graph",),
    "interop": ("GroupAddRev", "from_pyg", "reversible", "to_pyg"),
    "measure": ("held_memory", "median_seconds", "peak_memory", "saved_bytes"),
    "nn.model": ("GNN", "ModelConfig", "build_model"),
    "nn": ("GATConv", "GCNConv", "GENConv", "SAGEConv"),
    "experiment": ("Experiment", "run_experiment"),
    "paper.targets": ("Target",),
    "stack": ("Stack",),
    "train": ("Callback", "FitResult", "TrainConfig", "fit"),
    "trained": ("TrainedModel", "from_pretrained", "load"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "GNN",
    "Batch",
    "Batches",
    "Callback",
    "Columns",
    "Dataset",
    "DatasetConfig",
    "Experiment",
    "FitResult",
    "GATConv",
    "GCNConv",
    "GENConv",
    "Graph",
    "GraphInfo",
    "GroupAddRev",
    "LoaderConfig",
    "ModelConfig",
    "PygBatches",
    "SAGEConv",
    "Stack",
    "Target",
    "TrainConfig",
    "TrainedModel",
    "build_model",
    "dataset_from_pyg",
    "fit",
    "from_pretrained",
    "from_pyg",
    "held_memory",
    "load",
    "load_dataset",
    "make_batches",
    "median_seconds",
    "peak_memory",
    "reversible",
    "run_experiment",
    "saved_bytes",
    "to_pyg",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
