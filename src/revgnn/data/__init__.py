"""Data: data sets by name, readers of their files, preparation of large graphs, samplers and batches.

A public name is imported when it is first asked for, so that ``revgnn prepare`` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .batch import Batch, Batches, Series
    from .dataset import Dataset
    from .datasets import DATASETS, DatasetConfig, NamedDataset, find_dataset, load_dataset, open_store
    from .from_pyg import dataset_from_pyg
    from .inference_source import DatasetSource, InferenceSource, RowKeys, StoreSource
    from .info import Counts, Feature, GraphInfo
    from .label_statistics import class_weights, with_target_scale
    from .loader import LoaderConfig, final_batches, make_batches, read_data
    from .ondisk.batches import StoredParts, StoredViews
    from .ondisk.folder import is_store
    from .ondisk.manifest import StoreError
    from .ondisk.store import Store
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
    from .task import SPLITS, TASKS, TargetScale, Task

_HOMES = {
    "batch": ("Batch", "Batches", "Series"),
    "dataset": ("Dataset",),
    "datasets": ("DATASETS", "DatasetConfig", "NamedDataset", "find_dataset", "load_dataset", "open_store"),
    "from_pyg": ("dataset_from_pyg",),
    "inference_source": ("DatasetSource", "InferenceSource", "RowKeys", "StoreSource"),
    "info": ("Counts", "Feature", "GraphInfo"),
    "label_statistics": ("class_weights", "with_target_scale"),
    "loader": ("LoaderConfig", "final_batches", "make_batches", "read_data"),
    "ondisk.batches": ("StoredParts", "StoredViews"),
    "ondisk.folder": ("is_store",),
    "ondisk.manifest": ("StoreError",),
    "ondisk.store": ("Store",),
    "prefetch": ("Prefetched",),
    "prepare.inference": ("Columns",),
    "readers.chain": ("ChainOptions",),
    "readers.minefield": ("MinefieldOptions",),
    "readers.ogb": ("ProteinsFeatures",),
    "readers.tables": ("read_tables",),
    "sampling": ("SAMPLERS", "Sampler"),
    "sampling.full_batch": ("FullBatch", "GraphBatches"),
    "sampling.pyg": ("PygBatches",),
    "sampling.saint": ("SaintOptions",),
    "subgraphs": ("NodeBatches",),
    "task": ("SPLITS", "TASKS", "TargetScale", "Task"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

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
    "NamedDataset",
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
    "dataset_from_pyg",
    "final_batches",
    "find_dataset",
    "is_store",
    "load_dataset",
    "make_batches",
    "open_store",
    "read_data",
    "read_tables",
    "with_target_scale",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
