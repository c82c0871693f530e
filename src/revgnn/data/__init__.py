"""From tables to batches: the data sets by name, readers of their files, and what a training step receives."""

from __future__ import annotations

from .batch import SPLITS, Batch, Batches
from .dataset import Dataset
from .datasets import DATASETS, DatasetConfig, load_dataset
from .loader import LoaderConfig, final_batches, make_batches
from .ogb import ProteinsFeatures
from .pieces import NodeBatches
from .prefetch import Prefetched
from .pyg_batches import PygBatches
from .tables import Columns, read_tables
from .whole import FullBatch, GraphBatches

__all__ = [
    "DATASETS",
    "SPLITS",
    "Batch",
    "Batches",
    "Columns",
    "Dataset",
    "DatasetConfig",
    "FullBatch",
    "GraphBatches",
    "LoaderConfig",
    "NodeBatches",
    "Prefetched",
    "ProteinsFeatures",
    "PygBatches",
    "final_batches",
    "load_dataset",
    "make_batches",
    "read_tables",
]
