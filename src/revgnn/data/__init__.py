"""From tables to batches: the data sets by name, readers of their files, and what a training step receives."""

from __future__ import annotations

from .batch import SPLITS, Batch, Batches
from .dataset import Dataset
from .datasets import DATASETS, DatasetConfig, load_dataset
from .loader import FullBatch, GraphBatches, make_batches
from .ogb import ProteinsFeatures
from .tables import Columns, read_tables

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
    "ProteinsFeatures",
    "load_dataset",
    "make_batches",
    "read_tables",
]
