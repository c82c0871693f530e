"""From tables to batches: the data sets by name, readers of their files, and what a training step receives."""

from __future__ import annotations

from .batch import SPLITS, Batch, Batches, Series
from .dataset import Dataset, Described
from .datasets import DATASETS, DatasetConfig, load_dataset, open_store
from .keyed import Keyed, KeyedDataset, KeyedStore, Keys
from .loader import LoaderConfig, final_batches, make_batches, read_data
from .manifest import StoreError
from .ogb import ProteinsFeatures
from .pieces import NodeBatches
from .prefetch import Prefetched
from .pyg_batches import PygBatches
from .schema import Schema
from .store import Store, is_store
from .stored import StoredParts, StoredViews
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
    "Described",
    "FullBatch",
    "GraphBatches",
    "Keyed",
    "KeyedDataset",
    "KeyedStore",
    "Keys",
    "LoaderConfig",
    "NodeBatches",
    "Prefetched",
    "ProteinsFeatures",
    "PygBatches",
    "Schema",
    "Series",
    "Store",
    "StoreError",
    "StoredParts",
    "StoredViews",
    "final_batches",
    "is_store",
    "load_dataset",
    "make_batches",
    "open_store",
    "read_data",
    "read_tables",
]
