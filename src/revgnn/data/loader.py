"""How a data set is fed to training and evaluation: one configuration, one function that chooses."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .batch import Batches
from .dataset import Dataset
from .datasets import DatasetConfig, load_dataset, open_store
from .ondisk.batches import StoredParts, StoredViews
from .ondisk.store import Store
from .prefetch import Prefetched
from .sampling.full_batch import FullBatch, GraphBatches
from .sampling.partition import ClusterPartition, Partition, RandomPartition, metis_clusters
from .subgraphs import GraphSource, NeighborBatches, NodeBatches, PartBatches, Views

_log = logging.getLogger(__name__)

Kind = Literal["full", "random", "clusters", "khop", "stored"]

_BELONGS: dict[str, tuple[Kind, ...]] = {
    "num_parts": ("random", "clusters"),
    "parts_per_batch": ("clusters", "stored"),
    "fanouts": ("khop",),
    "batch_size": ("khop",),
}
"""Field -> the kinds that read it."""

_NEEDED: dict[Kind, dict[str, str]] = {
    "full": {},
    "random": {"num_parts": "10"},
    "clusters": {"num_parts": "1500"},
    "khop": {"fanouts": "[15, 10, 5]", "batch_size": "1024"},
    "stored": {},
}
"""Kind -> the fields that it cannot do without, each with a value to begin with."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What the steps of an epoch see of a node-level data set, and what an evaluation sees."""

    kind: Kind = "full"
    """"full": the whole graph in one step; "random": partitions drawn anew in every epoch, a step for each part;
    "clusters": METIS clusters, shuffled and put together in every epoch; "khop": training nodes and their sampled
    neighbourhood; "stored": parts of a prepared graph, read from disk, shuffled and put together in every epoch."""
    num_parts: int | None = None
    """For "random": parts, and so steps, of an epoch; for "clusters": clusters that METIS cuts, once."""
    parts_per_batch: int | None = None
    """For "clusters" and "stored": clusters or parts in a step, with the edges between them; ``None`` is 1."""
    fanouts: tuple[int, ...] | None = None
    """For "khop": incoming edges that a node draws in each hop, the hop from the training nodes first; -1: all."""
    batch_size: int | None = None
    """For "khop": training nodes in a step."""
    prefetch: int = 2
    """Batches made ahead in the background, each in memory; 0: none. "full" has nothing to make."""
    eval_parts: int = 1
    """Parts of the evaluation after an epoch; 1: the whole graph at once. For "stored", how many groups the parts on
    disk are put into: at most as many as there are."""
    eval_views: int = 1
    """Partitions whose logits are averaged in the evaluation after an epoch."""
    final_parts: int | None = None
    """Parts of one more evaluation of the selected weights, whose scores are reported; ``None``: those of the
    evaluation that selected them are."""
    final_views: int = 1
    """Partitions whose logits are averaged in that evaluation."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"loader.kind={self.kind!r} is unknown; choose one of {', '.join(get_args(Kind))}")
        for name, kinds in _BELONGS.items():
            value = getattr(self, name)
            if value is not None and self.kind not in kinds:
                raise ValueError(
                    f"loader.{name}={_written(value)} belongs to loader.kind={' or '.join(kinds)}, got kind="
                    f"{self.kind}; set the kind, or leave {name} out"
                )
        for name, example in _NEEDED[self.kind].items():
            if getattr(self, name) is None:
                raise ValueError(f"loader.kind={self.kind} needs loader.{name}, got none; set it, such as {example}")
        self._check_numbers()
        self._check_views("eval")
        self._check_views("final")

    def _check_numbers(self) -> None:
        least = {"num_parts": 2, "parts_per_batch": 1, "batch_size": 1, "prefetch": 0}
        for name in ("eval_parts", "eval_views", "final_parts", "final_views"):
            least[name] = 1
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                instead = "; for one part choose kind=full" if name == "num_parts" else ""
                raise ValueError(f"loader.{name} must be at least {smallest}, got {value}{instead}")
        if self.fanouts is not None and (not self.fanouts or any(f < 1 and f != -1 for f in self.fanouts)):
            raise ValueError(
                f"loader.fanouts must have one number per hop, each at least 1, or -1 for all edges, got "
                f"{_written(self.fanouts)}; choose such as [15, 10, 5]"
            )
        parts, together = self.num_parts, self.parts_per_batch
        if parts is not None and together is not None and together > parts:
            raise ValueError(
                f"loader.parts_per_batch={together} must be at most loader.num_parts={parts}: there are no more "
                "clusters; lower it"
            )

    def _check_views(self, stage: str) -> None:
        parts, views = getattr(self, f"{stage}_parts"), getattr(self, f"{stage}_views")
        if views > 1 and parts in (None, 1):
            raise ValueError(
                f"loader.{stage}_views={views} averages partitions, got loader.{stage}_parts={_written(parts)}: the "
                f"whole graph looks the same every time; set {stage}_parts to 2 or more, or {stage}_views to 1"
            )
        if parts is not None and self.kind == "clusters" and self.num_parts is not None and parts > self.num_parts:
            raise ValueError(
                f"loader.{stage}_parts={parts} must be at most loader.num_parts={self.num_parts}: a part of an "
                "evaluation is made of whole clusters; lower it"
            )

    @property
    def is_plain(self) -> bool:
        """Whether training and every evaluation see the whole graph."""
        return self.kind == "full" and self.eval_parts == 1 and self.final_parts is None


WHOLE_GRAPH = LoaderConfig()
"""The whole graph in every step and evaluation."""


def read_data(
    config: DatasetConfig, loader: LoaderConfig, root: Path | str, *, download: bool = False
) -> Dataset | Store:
    """Read a data set into memory; or, where batches are read from disk, open it.

    Args:
        config: which one.
        loader: how it will be fed.
        root, download: as in `load_dataset`.
    Raises: what `load_dataset` and `open_store` raise.
    """
    return open_store(config, root) if loader.kind == "stored" else load_dataset(config, root, download=download)


def make_batches(
    dataset: Dataset | Store, batch_size: int | None = None, seed: int = 0, loader: LoaderConfig = WHOLE_GRAPH
) -> Batches:
    """Choose how a data set is fed to training.

    Args:
        dataset: what to feed; a `Store` for the kind "stored" alone.
        batch_size: graphs in a step; ``None``: everything in one step. At node level it must be ``None``.
        seed: of the order of graphs, the partitions and the draws.
        loader: what a step of a node-level data set sees; a graph-level one takes the default alone.
    Returns: batches whose epochs are a pure function of (seed, epoch), whatever is made ahead.
    Raises:
        ValueError: a node-level data set with a batch size, or a graph-level one with parts or neighbourhoods; a graph
            in memory for the kind "stored", or one on disk for another; more parts than there are.
        ModuleNotFoundError: clusters without pymetis.
    Cost: one sort of E keys; with clusters, METIS.
    """
    if isinstance(dataset, Store) != (loader.kind == "stored"):
        raise ValueError(
            f"loader.kind={loader.kind} with {dataset.name}: the kind stored reads a prepared graph from disk, and "
            "every other kind needs it in memory; read it with read_data, under the same loader"
        )
    if isinstance(dataset, Store):
        return _stored(dataset, batch_size, seed, loader)
    if dataset.info.task_spec.has_many_graphs:
        if not loader.is_plain:
            raise ValueError(
                f"loader.kind={loader.kind} with eval_parts={loader.eval_parts} cuts one large graph, but "
                f"{dataset.name} consists of small ones, which stay whole; choose batch_size, and leave loader out"
            )
        return GraphBatches(dataset, batch_size, seed)
    if batch_size is not None:
        raise ValueError(
            f"batch_size={batch_size} counts graphs, but {dataset.name} is one graph and is trained on whole; "
            "choose batch_size=None; loader.kind cuts it into parts"
        )
    source = GraphSource(dataset)
    full = FullBatch(dataset, source.graph)
    if loader.is_plain:
        return full
    partition = _partition(source, loader)

    def evaluation(parts: int, views: int) -> FullBatch | Views:
        return full if parts == 1 else Views(source, partition, parts, views, seed)

    final = None if loader.final_parts is None else evaluation(loader.final_parts, loader.final_views)
    batches = NodeBatches(
        full if loader.kind == "full" else _training(source, partition, loader, seed),
        evaluation(loader.eval_parts, loader.eval_views),
        final,
    )
    return Prefetched(batches, loader.prefetch) if loader.prefetch and loader.kind != "full" else batches


def _stored(store: Store, batch_size: int | None, seed: int, loader: LoaderConfig) -> Batches:
    together = loader.parts_per_batch or 1
    asked = {"parts_per_batch": together, "eval_parts": loader.eval_parts, "final_parts": loader.final_parts or 1}
    for name, parts in asked.items():
        if parts > store.num_parts:
            raise ValueError(
                f"loader.{name}={parts} must be at most {store.num_parts}, the parts of {store.name}; lower it, or "
                "prepare more parts"
            )
    if batch_size is not None:
        raise ValueError(f"batch_size={batch_size} counts graphs; {store.name} is one: set loader.parts_per_batch")
    _log.info(
        "%s: %d nodes and %d edges in %d parts on disk (%.2f GiB); a step reads %d of them, an evaluation takes %d "
        "pieces",
        store.name,
        store.num_nodes,
        store.num_edges,
        store.num_parts,
        store.manifest.num_bytes / 2**30,
        together,
        loader.eval_parts,
    )
    final = None if loader.final_parts is None else StoredViews(store, loader.final_parts, loader.final_views, seed)
    batches = NodeBatches(
        StoredParts(store, together, seed), StoredViews(store, loader.eval_parts, loader.eval_views, seed), final
    )
    return Prefetched(batches, loader.prefetch) if loader.prefetch else batches


def final_batches(batches: Batches) -> Batches | None:
    """Give the batches of the evaluation whose scores are reported; ``None`` where those of the last one are.

    Args:
        batches: what `make_batches` gave.
    """
    if isinstance(batches, Prefetched):
        final = final_batches(batches.batches)
        return None if final is None else Prefetched(final, batches.depth)
    return batches.final if isinstance(batches, NodeBatches) else None


def _partition(source: GraphSource, loader: LoaderConfig) -> Partition:
    if loader.kind != "clusters":
        return RandomPartition(source.dataset.num_nodes)
    assert loader.num_parts is not None, "LoaderConfig has checked it"
    return ClusterPartition(metis_clusters(source.graph, loader.num_parts), loader.num_parts)


def _training(
    source: GraphSource, partition: Partition, loader: LoaderConfig, seed: int
) -> PartBatches | NeighborBatches:
    if loader.kind == "khop":
        assert loader.batch_size is not None and loader.fanouts is not None, "LoaderConfig has checked it"
        return NeighborBatches(source, loader.batch_size, loader.fanouts, seed)
    assert loader.num_parts is not None, "LoaderConfig has checked it"
    return PartBatches(source, partition, -(-loader.num_parts // (loader.parts_per_batch or 1)), seed)


def _written(value: Any) -> str:
    """A value as `--set` takes it."""
    return "none" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)
