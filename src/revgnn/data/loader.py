"""Makes the batches of training and evaluation from a data set, according to the loader's configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path

from ..by_name import find_object, is_name
from ..node_order import NodeOrder
from .batch import Batches
from .dataset import Dataset
from .datasets import DatasetConfig, load_dataset, open_store
from .info import GraphInfo
from .ondisk.batches import StoredParts, StoredViews
from .ondisk.incoming import StoredNeighbors
from .ondisk.store import Store
from .prefetch import Prefetched
from .sampling import SAMPLERS, Sampler
from .sampling.full_batch import FullBatch, GraphBatches
from .sampling.neighbor import NeighborBatches
from .sampling.parts import Partition, Views
from .sampling.random import RandomPartition
from .sampling.saint import SaintOptions
from .subgraphs import Evaluation, GraphSource, NodeBatches, Training

_log = logging.getLogger(__name__)

_FULL, _ONDISK = "full", "ondisk"
_NEIGHBORS = ("fanouts", "batch_size", "with_replacement", "layer_wise")
_OPTIONS = ("num_parts", "parts_per_batch", *_NEIGHBORS, "saint", "diagonal")
"""Fields of `LoaderConfig` that some samplers read."""
_SAINT = SaintOptions()
_OF_DISK = ("parts_per_batch", *_NEIGHBORS)


def find_sampler(kind: str) -> Sampler | None:
    """Find a sampler in `SAMPLERS`, or import it by ``package.module:Name``; ``None``: there is none of this kind.

    Raises: ImportError, ValueError: the module does not exist, or has no `Sampler` of this name.
    """
    if not is_name(kind):
        return SAMPLERS.get(kind)
    found = find_object(kind)
    if not isinstance(found, Sampler):
        raise ValueError(f"loader.kind={kind} must name a revgnn.data.Sampler, got {found!r}")
    return found


def _options_of(kind: str) -> tuple[str, ...]:
    """Return the fields that a sampler reads."""
    sampler = find_sampler(kind)
    if sampler is None:
        return _OF_DISK if kind == _ONDISK else ()
    return (*sampler.needs, *sampler.takes)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """The sampling of a node-level data set for training and for evaluation.

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> len(revgnn.make_batches(data, loader=revgnn.LoaderConfig(kind="random", num_parts=3)))
        3
    """

    kind: str = _FULL
    """"full": the whole graph in one step; "random": partitions drawn anew in every epoch, a step for each part;
    "clusters": METIS clusters, shuffled and put together in every epoch; "neighbor": training nodes and sampled edges
    around them; "saint": GraphSAINT's sampled subgraphs; "ondisk": parts of a prepared graph, read from disk, shuffled
    and put together in every epoch, or, with ``fanouts``, its training nodes and sampled edges around them; or a
    `Sampler` of your own as package.module:Name."""
    num_parts: int | None = None
    """For "random": parts per epoch, one step each; for "clusters": number of METIS clusters, computed once."""
    parts_per_batch: int | None = None
    """For "clusters" and "ondisk": clusters or parts per step, with the edges between them; ``None``: 1."""
    diagonal: float | None = None
    """For "clusters": Cluster-GCN's diagonal enhancement: self loops, of which a mean over the neighbours counts this
    number more, 0 or above; ``None``: no loops are added. For convolutions that apply weights (gcn, sage)."""
    fanouts: tuple[int, ...] | None = None
    """For "neighbor" and "ondisk": incoming edges sampled per node in each hop, starting at training nodes; -1: all."""
    batch_size: int | None = None
    """For "neighbor" and "ondisk": training nodes per step."""
    with_replacement: bool = False
    """For "neighbor" and "ondisk": draw each edge independently of the others, so that one may be drawn several times;
    otherwise a node with no more edges than the fanout keeps all of them."""
    layer_wise: bool = False
    """For "neighbor" and "ondisk" with ``fanouts``: compute each layer on the sampled nodes and edges that later layers
    need, and logits of the training nodes alone. The logits are the same, except that BatchNorm and GraphNorm take
    statistics of fewer nodes. For stored and checkpointed layers: a reversible stack inverts its layers on all rows."""
    saint: SaintOptions = _SAINT
    """For "saint": what is sampled, and how it is normalised."""
    node_order: NodeOrder = "auto"
    """Order of the nodes of a whole graph in memory. Sums over neighbours are faster where neighbours are near: "auto"
    orders a large graph by METIS clusters, or by RCM without pymetis; "quick" by RCM; "clusters" and "rcm" also a small
    one; "given" none. Ids, rows and predictions stay the user's; dropout follows the order."""
    prefetch: int = 2
    """Batches prefetched in the background, each in memory; 0: none. "full" ignores it."""
    eval_parts: int = 1
    """Parts of the evaluation after an epoch; 1: the whole graph at once. For "ondisk", the number of groups into which
    the parts on disk are combined, at most the number of parts."""
    eval_views: int = 1
    """Random partitions over which the evaluation after an epoch averages the logits."""
    final_parts: int | None = None
    """Parts of a final evaluation of the best weights, whose scores are reported; ``None``: no final evaluation, the
    scores of the selection are reported."""
    final_views: int = 1
    """Random partitions over which the final evaluation averages the logits."""

    def __post_init__(self) -> None:
        sampler = find_sampler(self.kind)
        if sampler is None and self.kind not in (_FULL, _ONDISK):
            raise ValueError(
                f"loader.kind={self.kind!r} is unknown; choose one of {', '.join((_FULL, *SAMPLERS, _ONDISK))}, or "
                "name one of your own as package.module:Name"
            )
        defaults = {field.name: field.default for field in fields(self)}
        for name in set(_OPTIONS) - set(_options_of(self.kind)):
            value = getattr(self, name)
            if value != defaults[name]:
                kinds = [kind for kind in (*SAMPLERS, _ONDISK) if name in _options_of(kind)]
                raise ValueError(
                    f"loader.{name}={_written(value)} belongs to loader.kind={' or '.join(kinds)}, got kind="
                    f"{self.kind}; set the kind, or leave {name} out"
                )
        for name, example in ({} if sampler is None else sampler.needs).items():
            if getattr(self, name) is None:
                raise ValueError(f"loader.kind={self.kind} needs loader.{name}, got none; set it, such as {example}")
        if self.kind == _ONDISK:
            self._check_ondisk()
        self._check_numbers()
        self._check_views("eval")
        self._check_views("final")

    def _check_ondisk(self) -> None:
        if self.fanouts is None and (self.batch_size is not None or self.with_replacement or self.layer_wise):
            raise ValueError(
                "loader.kind=ondisk reads whole parts unless loader.fanouts is set: set it, or leave batch_size, "
                "with_replacement and layer_wise out"
            )
        if self.fanouts is not None and (self.batch_size is None or self.parts_per_batch is not None):
            raise ValueError(
                "loader.kind=ondisk with loader.fanouts samples around loader.batch_size training nodes, not "
                f"loader.parts_per_batch parts, got batch_size={_written(self.batch_size)} and parts_per_batch="
                f"{_written(self.parts_per_batch)}; set batch_size alone"
            )

    def _check_numbers(self) -> None:
        least = {"num_parts": 2, "parts_per_batch": 1, "batch_size": 1, "prefetch": 0, "diagonal": 0}
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
    def final_evaluation(self) -> tuple[int, int]:
        """Parts and views of the final evaluation."""
        if self.final_parts is None:
            return self.eval_parts, self.eval_views
        return self.final_parts, self.final_views

    @property
    def is_plain(self) -> bool:
        """Whether training and every evaluation use the whole graph."""
        return self.kind == _FULL and self.eval_parts == 1 and self.final_parts is None


WHOLE_GRAPH = LoaderConfig()
"""The whole graph in every step and evaluation."""


def read_data(
    config: DatasetConfig,
    loader: LoaderConfig,
    root: Path | str,
    *,
    download: bool = False,
    like: GraphInfo | None = None,
) -> Dataset | Store:
    """Read a data set into memory, or open it if its batches are read from disk.

    Args:
        config: the data set.
        loader: the loader's configuration.
        root, download, like: as in `load_dataset`.
    Raises: the exceptions of `load_dataset` and `open_store`.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import read_data
        >>> config = revgnn.DatasetConfig(name="prepared", path="graph")
        >>> type(read_data(config, revgnn.LoaderConfig(kind="ondisk"), root=".")).__name__
        'Store'
    """
    if loader.kind == _ONDISK:
        return open_store(config, root)
    return load_dataset(config, root, download=download, like=like)


def make_batches(
    dataset: Dataset | Store, batch_size: int | None = None, seed: int = 0, loader: LoaderConfig = WHOLE_GRAPH
) -> Batches:
    """Make the source of batches for a data set.

    Args:
        dataset: the data set; a `Store` only for the kind "ondisk".
        batch_size: graphs per step; ``None``: all graphs in one step. At node level it must be ``None``.
        seed: seed of the order of graphs, the partitions and the samples.
        loader: sampling of a node-level data set; a graph-level one requires the default.
    Returns: batches whose epochs are a pure function of (seed, epoch), independent of prefetching.
    Raises:
        ValueError: a node-level data set with a batch size, or a graph-level one with parts or neighbourhoods; a graph
            in memory for the kind "ondisk", or one on disk for another kind; more groups than parts.
        TypeError: neither a data set nor a store.
        ModuleNotFoundError: clusters without pymetis.
    Cost: one sort of E keys; with clusters, METIS.

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> (batch,) = revgnn.make_batches(data).train(epoch=1)
        >>> batch.rows["train"].numel()
        4
    """
    if not isinstance(dataset, Dataset | Store):
        raise TypeError(
            f"batches are made of a revgnn.Dataset or a Store, got {type(dataset).__name__}; of PyG's Data "
            "revgnn.dataset_from_pyg makes a data set"
        )
    if isinstance(dataset, Store) != (loader.kind == _ONDISK):
        raise ValueError(
            f"loader.kind={loader.kind} with {dataset.name}: the kind ondisk reads a prepared graph from disk, and "
            "every other kind needs it in memory; read it with read_data, under the same loader"
        )
    if isinstance(dataset, Store):
        return _stored(dataset, batch_size, seed, loader)
    if dataset.info.task_spec.has_many_graphs:
        if not loader.is_plain:
            raise ValueError(
                f"loader.kind={loader.kind} with eval_parts={loader.eval_parts} cuts one large graph, but "
                f"{dataset.name} consists of small ones, which stay whole; leave loader (in a prediction --parts) out, "
                "and choose batch_size"
            )
        return GraphBatches(dataset, batch_size, seed)
    if batch_size is not None:
        raise ValueError(
            f"batch_size={batch_size} counts graphs, but {dataset.name} is one graph and is trained on whole; "
            "choose batch_size=None; loader.kind cuts it into parts"
        )
    source = GraphSource(dataset)
    full = FullBatch(dataset, source.graph, loader.node_order)
    if loader.is_plain:
        return full
    sampler = find_sampler(loader.kind)
    options = {name: getattr(loader, name) for name in _options_of(loader.kind)}
    partition: Partition = RandomPartition(source.dataset.num_nodes)
    if sampler is not None and sampler.partition is not None:
        partition = sampler.partition(source, **options)

    def evaluation(parts: int, views: int) -> Evaluation:
        return (full if parts == 1 else Views(source, partition, parts, views, seed)).evaluate

    final = None if loader.final_parts is None else evaluation(loader.final_parts, loader.final_views)
    batches = NodeBatches(
        full if sampler is None else sampler.make(source, partition, seed, **options),
        evaluation(loader.eval_parts, loader.eval_views),
        final,
    )
    return Prefetched(batches, loader.prefetch) if loader.prefetch and loader.kind != _FULL else batches


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

    def evaluation(parts: int, views: int) -> Evaluation:
        return StoredViews(store, parts, views, seed).evaluate

    final = None if loader.final_parts is None else evaluation(loader.final_parts, loader.final_views)
    training: Training = StoredParts(store, together, seed)
    if loader.fanouts is not None:
        assert loader.batch_size is not None, "LoaderConfig has checked it"
        training = NeighborBatches(
            StoredNeighbors(store),
            loader.batch_size,
            loader.fanouts,
            seed,
            replace=loader.with_replacement,
            layer_wise=loader.layer_wise,
        )
    batches = NodeBatches(training, evaluation(loader.eval_parts, loader.eval_views), final)
    return Prefetched(batches, loader.prefetch) if loader.prefetch else batches


def final_batches(batches: Batches) -> Batches | None:
    """Return the batches of the final evaluation; ``None`` if there is none.

    Args:
        batches: the result of `make_batches`.

    Examples:
        >>> import revgnn
        >>> from revgnn.data import final_batches
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> loader = revgnn.LoaderConfig(kind="random", num_parts=3, final_parts=2, final_views=4)
        >>> len(list(final_batches(revgnn.make_batches(data, loader=loader)).evaluate()))
        8
    """
    if isinstance(batches, Prefetched):
        final = final_batches(batches.batches)
        return None if final is None else Prefetched(final, batches.depth)
    return batches.final if isinstance(batches, NodeBatches) else None


def _written(value: object) -> str:
    """Format a value for `--set`."""
    return "none" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)
