"""The one value that every reader returns: features, edges, labels, splits, and what is to be predicted and measured.

Hides where the data came from. It checks itself when it is made, so what comes after trusts it: features are finite,
splits are disjoint and in range, labels exist where a split asks for them. Categorical columns are held as uint8 codes,
an eighth of int64 and a 17th of OGB's bonds as floats; the loader widens them batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..graph import check_finite
from .batch import SPLITS

Level = Literal["node", "graph"]
Task = Literal["multiclass", "multilabel", "regression"]
Metric = Literal["accuracy", "rocauc", "rmse", "mae"]


class Described(Protocol):
    """What a data set knows of itself, whether it lies in memory or on disk; fields as in `Dataset`."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    @property
    def level(self) -> Level:
        """What carries a label."""
        ...

    @property
    def task(self) -> Task:
        """What is to be predicted."""
        ...

    @property
    def metric(self) -> Metric:
        """What selects the best epoch."""
        ...

    @property
    def num_outputs(self) -> int:
        """T."""
        ...

    @property
    def num_nodes(self) -> int:
        """N."""
        ...

    @property
    def num_edges(self) -> int:
        """E."""
        ...

    @property
    def num_graphs(self) -> int:
        """B."""
        ...

    @property
    def in_channels(self) -> int:
        """F."""
        ...

    @property
    def edge_channels(self) -> int | None:
        """K."""
        ...

    @property
    def categories(self) -> tuple[int, ...] | None:
        """Codes of each column of features."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The label that each class number stands for."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The user's columns."""
        ...

    @property
    def feature_widths(self) -> tuple[int, ...] | None:
        """How many numbers each of them holds."""
        ...

    @property
    def undirected(self) -> bool:
        """Whether the reverse of every edge was added."""
        ...

    @property
    def self_loops(self) -> bool:
        """Whether every node was given a self loop."""
        ...

    @property
    def split_sizes(self) -> Mapping[str, int]:
        """Split name -> nodes or graphs."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One graph of N nodes and E directed edges, or B graphs numbered one after the other, with labels and splits."""

    name: str
    """How reports call it."""
    level: Level
    """What carries a label: every node, or every graph."""
    task: Task
    """``multiclass``: one class of several; ``multilabel``: T yes-or-no answers; ``regression``: T numbers."""
    metric: Metric
    """What selects the best epoch."""
    x: Tensor
    """[N, F] float32; or [N, F] uint8 codes where ``categories`` is set, which a `Batch` delivers as int64."""
    edge_index: Tensor
    """[2, E] int64, sources above destinations; nodes are numbered over all graphs, as the rows of ``x``."""
    edge_attr: Tensor | None = None
    """[E, K] float32; or [E, k] uint8 codes where ``edge_categories`` is set, delivered as multi-hot float32."""
    y: Tensor
    """[n] int64 classes, -1 where unknown; or [n, T] float32, NaN where missing. n counts nodes or graphs."""
    splits: Mapping[str, Tensor]
    """``train``, ``valid`` and ``test`` -> int64 numbers of nodes or graphs; no number stands in two of them."""
    num_outputs: int
    """T: classes of a multiclass task, else columns of ``y``."""
    node_ptr: Tensor | None = None
    """[B+1] int64: nodes of graph g are ``node_ptr[g]`` to ``node_ptr[g+1]``; ``None`` at node level."""
    edge_ptr: Tensor | None = None
    """[B+1] int64: likewise its edges; ``None`` at node level."""
    class_names: tuple[str, ...] | None = None
    """The label that each class number stands for; ``None``: the number itself."""
    feature_names: tuple[str, ...] | None = None
    """The user's columns that ``x`` was made of; ``None`` where they have no names."""
    feature_widths: tuple[int, ...] | None = None
    """How many numbers each of these columns holds; ``None`` where they have no names."""
    node_ids: Any = None
    """[N] Arrow array of the user's own node ids; ``None``: the row numbers."""
    categories: tuple[int, ...] | None = None
    """How many codes each column of ``x`` has; ``None``: the columns are numbers."""
    edge_categories: tuple[int, ...] | None = None
    """How many codes each column of ``edge_attr`` has; ``None``: the columns are numbers."""
    undirected: bool = False
    """Whether the reverse of every edge was added after reading."""
    self_loops: bool = False
    """Whether every node was given a self loop after reading."""

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_edges(self)
        _check_features(self)
        _check_labels(self)
        _check_splits(self)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name}: {self.num_nodes} nodes, {self.num_edges} edges, {self.level}-level {self.task}, "
            f"{self.in_channels} features, {self.num_outputs} outputs, {self.metric})"
        )

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.size(0)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.size(1)

    @property
    def split_sizes(self) -> Mapping[str, int]:
        """Split name -> how many nodes or graphs it has."""
        return {name: ids.numel() for name, ids in self.splits.items()}

    @property
    def num_graphs(self) -> int:
        """B, 1 at node level."""
        return 1 if self.node_ptr is None else self.node_ptr.numel() - 1

    @property
    def in_channels(self) -> int:
        """F, the columns of ``x``."""
        return self.x.size(1)

    @property
    def edge_channels(self) -> int | None:
        """K as a `Batch` delivers it: multi-hot columns counted one by one; ``None``: the edges carry nothing."""
        if self.edge_attr is None:
            return None
        return self.edge_attr.size(1) if self.edge_categories is None else sum(self.edge_categories)


def _check_shapes(data: Dataset) -> None:
    if data.x.dim() != 2:
        raise ValueError(f"{data.name}: x must be [N, F], got {list(data.x.shape)}")
    if data.edge_index.dim() != 2 or data.edge_index.size(0) != 2 or data.edge_index.dtype != torch.int64:
        raise ValueError(
            f"{data.name}: edge_index must be int64 [2, E], got {data.edge_index.dtype} {list(data.edge_index.shape)}"
        )
    if data.edge_attr is not None and data.edge_attr.size(0) != data.num_edges:
        raise ValueError(
            f"{data.name}: edge_attr must have one row per edge: got {data.edge_attr.size(0)} rows "
            f"for {data.num_edges} edges"
        )
    if any((data.level == "graph") != (ptr is not None) for ptr in (data.node_ptr, data.edge_ptr)):
        raise ValueError(
            f"{data.name}: node_ptr and edge_ptr belong to graph-level data sets, and both to each of them"
        )
    for what, ptr, total in (("node_ptr", data.node_ptr, data.num_nodes), ("edge_ptr", data.edge_ptr, data.num_edges)):
        if ptr is not None and (int(ptr[0]) != 0 or int(ptr[-1]) != total or bool((ptr.diff() < 0).any())):
            raise ValueError(f"{data.name}: {what} must ascend from 0 to {total}, got {int(ptr[0])} to {int(ptr[-1])}")
    if data.node_ptr is not None and data.edge_ptr is not None and data.node_ptr.shape != data.edge_ptr.shape:
        raise ValueError(f"{data.name}: node_ptr and edge_ptr must have one entry per graph plus one, both")


def _check_edges(data: Dataset) -> None:
    low, high = torch.tensor(0), torch.tensor(data.num_nodes)
    if data.node_ptr is not None and data.edge_ptr is not None:
        counts = data.edge_ptr.diff()
        low, high = data.node_ptr[:-1].repeat_interleave(counts), data.node_ptr[1:].repeat_interleave(counts)
    bad = ((data.edge_index < low) | (data.edge_index >= high)).any(dim=0)
    if bool(bad.any()):
        edge = int(bad.nonzero()[0])
        src, dst = data.edge_index[:, edge].tolist()
        first, end = int(low.expand(bad.shape)[edge]), int(high.expand(bad.shape)[edge])
        raise ValueError(
            f"{data.name}: edges must join nodes of one graph: edge {edge} joins {src} and {dst}, where nodes are "
            f"{first} to {end - 1} ({int(bad.sum())} such edges)"
        )


def _check_features(data: Dataset) -> None:
    for what, values, sizes in (("x", data.x, data.categories), ("edge_attr", data.edge_attr, data.edge_categories)):
        if values is None:
            continue
        wanted = torch.float32 if sizes is None else torch.uint8
        if values.dtype != wanted:
            kind = "numbers" if sizes is None else "category codes"
            raise TypeError(f"{data.name}: {what} holds {kind} and must be {wanted}, got {values.dtype}")
        check_finite(values, f"{data.name}: {what}")
        if sizes is not None:
            _check_codes(values, sizes, f"{data.name}: {what}")


def _check_codes(codes: Tensor, sizes: tuple[int, ...], what: str) -> None:
    if codes.size(1) != len(sizes):
        raise ValueError(f"{what} must have one column per category size: got {codes.size(1)} columns for {len(sizes)}")
    bad = codes >= torch.tensor(sizes)
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{what} must hold codes below {sizes[column]} in column {column}: row {row} has {int(codes[row, column])} "
            f"({int(bad.sum())} such codes)"
        )


def _check_labels(data: Dataset) -> None:
    rows = data.num_nodes if data.level == "node" else data.num_graphs
    shape, dtype = ([rows], torch.int64) if data.task == "multiclass" else ([rows, data.num_outputs], torch.float32)
    if list(data.y.shape) != shape or data.y.dtype != dtype:
        raise ValueError(
            f"{data.name}: y of a {data.task} task must be {dtype} {shape}, got {data.y.dtype} {list(data.y.shape)}"
        )
    if data.task != "multiclass" and bool(data.y.isinf().any()):
        raise ValueError(f"{data.name}: y must be finite, or NaN where a label is missing; got an infinity")


def _check_splits(data: Dataset) -> None:
    if not set(data.splits) <= set(SPLITS) or "train" not in data.splits:
        raise ValueError(f"{data.name}: splits must be train, valid and test, got {', '.join(data.splits) or 'none'}")
    rows = data.y.size(0)
    for split, ids in data.splits.items():
        what = f"{data.name}: split {split}"
        if ids.dim() != 1 or ids.dtype != torch.int64:
            raise ValueError(f"{what} must be int64 [n], got {ids.dtype} {list(ids.shape)}")
        bad = (ids < 0) | (ids >= rows)
        if bool(bad.any()):
            raise ValueError(
                f"{what} must lie in 0..{rows - 1}: got {int(ids[bad][0])} ({int(bad.sum())} such numbers)"
            )
        if torch.unique(ids).numel() != ids.numel():
            raise ValueError(f"{what} names a {data.level} twice; name each once")
        if data.task == "multiclass":
            known = (data.y[ids] >= 0) & (data.y[ids] < data.num_outputs)
            if not bool(known.all()):
                first = int(ids[~known][0])
                raise ValueError(
                    f"{what} must have labels in 0..{data.num_outputs - 1}: {data.level} {first} has "
                    f"{int(data.y[first])} ({int((~known).sum())} such {data.level}s)"
                )
    for one, other in combinations(data.splits, 2):
        shared = data.splits[one][torch.isin(data.splits[one], data.splits[other])]
        if shared.numel():
            raise ValueError(
                f"{data.name}: splits {one} and {other} share {shared.numel()} {data.level}s, first {int(shared[0])}; "
                "evaluation would see its own training labels"
            )
