"""Data: data sets by name, readers of their files, preparation of large graphs, samplers and batches."""

from __future__ import annotations

from .batch import SPLITS, Batch, Batches, Series
from .dataset import Dataset
from .datasets import DATASETS, DatasetConfig, load_dataset, open_store
from .inference_source import DatasetSource, InferenceSource, RowKeys, StoreSource
from .info import Counts, Feature, GraphInfo
from .label_statistics import class_weights, with_target_scale
from .loader import LoaderConfig, final_batches, make_batches, read_data
from .ondisk.batches import StoredParts, StoredViews
from .ondisk.manifest import StoreError
from .ondisk.store import Store, is_store
from .prefetch import Prefetched
from .prepare.inference import Columns
from .readers.chain import ChainOptions
from .readers.minefield import MinefieldOptions
from .readers.ogb import ProteinsFeatures
from .readers.tables import read_tables
from .sampling import SAMPLERS, Sampler
from .sampling.full_batch import FullBatch, GraphBatches
from .sampling.pyg import PygBatches
from .sampling.saint import SaintOptions
from .subgraphs import NodeBatches
from .task import TASKS, TargetScale, Task

__all__ = [
    "DATASETS",
    "SAMPLERS",
    "SPLITS",
    "TASKS",
    "Batch",
    "Batches",
    "ChainOptions",
    "Columns",
    "Counts",
    "Dataset",
    "DatasetConfig",
    "DatasetSource",
    "Feature",
    "FullBatch",
    "GraphBatches",
    "GraphInfo",
    "InferenceSource",
    "LoaderConfig",
    "MinefieldOptions",
    "NodeBatches",
    "Prefetched",
    "ProteinsFeatures",
    "PygBatches",
    "RowKeys",
    "SaintOptions",
    "Sampler",
    "Series",
    "Store",
    "StoreError",
    "StoreSource",
    "StoredParts",
    "StoredViews",
    "TargetScale",
    "Task",
    "class_weights",
    "final_batches",
    "is_store",
    "load_dataset",
    "make_batches",
    "open_store",
    "read_data",
    "read_tables",
    "with_target_scale",
]
