"""The `Dataset` that every reader returns: features, edges, labels, splits, task and metric.

A `Dataset` checks itself on creation, so later stages rely on it: features are finite, splits are disjoint and in
range, and every row of a split has a label. Categorical columns are stored as uint8 codes, which take an eighth of the
memory of int64 and, for OGB's bonds, a 17th of multi-hot floats; the loader converts them batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import pyarrow as pa
import torch
from torch import Tensor

from .batch import check_finite
from .info import Counts, GraphInfo
from .task import SPLITS, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One graph of N nodes and E directed edges, or B graphs numbered one after the other, with labels and splits.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> data = revgnn.Dataset(
        ...     info=revgnn.GraphInfo(num_outputs=2),
        ...     x=torch.randn(4, 3),
        ...     edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]),
        ...     y=torch.tensor([0, 1, 1, 0]),
        ...     splits={"train": torch.tensor([0, 1]), "valid": torch.tensor([2]), "test": torch.tensor([3])},
        ... )
        >>> data.info.in_channels, data.info.counts.edges
        (3, 3)
    """

    info: GraphInfo
    """Metadata; widths and counts are filled in from the arrays."""
    x: Tensor
    """[N, F] float32; or [N, F] uint8 codes where ``info.categories`` is set, which a `Batch` delivers as int64."""
    edge_index: Tensor
    """[2, E] int64, row 0 sources and row 1 destinations; nodes are numbered over all graphs, as the rows of ``x``."""
    edge_attr: Tensor | None = None
    """[E, K] float32; or [E, k] uint8 codes where ``info.edge_categories`` is set, delivered as multi-hot float32."""
    y: Tensor
    """[n] int64 classes, -1 where unknown; or [n, T] float32, NaN where missing. n counts nodes or graphs."""
    splits: Mapping[str, Tensor]
    """``train``, ``valid`` and ``test`` -> int64 numbers of nodes or graphs; the splits are disjoint."""
    node_ptr: Tensor | None = None
    """[B+1] int64: nodes of graph g are ``node_ptr[g]`` to ``node_ptr[g+1]``; ``None`` at node level."""
    edge_ptr: Tensor | None = None
    """[B+1] int64: edges of graph g, in the same way; ``None`` at node level."""
    node_ids: pa.Array | None = None
    """[N] Arrow array of the user's own node ids; ``None``: the row numbers."""

    def __post_init__(self) -> None:
        _check_shapes(self)
        object.__setattr__(self, "info", _counted(self))
        _check_edges(self)
        _check_features(self)
        _check_labels(self)
        _check_splits(self)

    def __repr__(self) -> str:
        info = self.info
        return (
            f"Dataset({info.name}: {self.num_nodes} nodes, {self.num_edges} edges, {info.task_spec}, "
            f"{info.in_channels} features, {info.num_outputs} outputs, {info.metric})"
        )

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.info.name

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.size(0)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.size(1)


def _counted(data: Dataset) -> GraphInfo:
    """Fill in the widths and counts from the arrays."""
    info, edge_attr = data.info, data.edge_attr
    codes = None if edge_attr is None else info.edge_categories
    return replace(
        info,
        in_channels=data.x.size(1),
        edge_channels=sum(codes) if codes is not None else None if edge_attr is None else edge_attr.size(1),
        edge_categories=codes,
        edge_features=() if edge_attr is None else info.edge_features,
        edge_weight=info.edge_weight and edge_attr is not None,
        counts=Counts(
            nodes=data.num_nodes,
            edges=data.num_edges,
            graphs=1 if data.node_ptr is None else data.node_ptr.numel() - 1,
            splits=tuple((name, ids.numel()) for name, ids in data.splits.items()),
        ),
    )


def _check_shapes(data: Dataset) -> None:
    if data.x.dim() != 2:
        raise ValueError(f"{data.name}: x must be [N, F], got {list(data.x.shape)}")
    if data.x.layout != torch.strided:
        raise TypeError(f"{data.name}: x must be dense, got {data.x.layout}; give x.to_dense()")
    if data.edge_index.dim() != 2 or data.edge_index.size(0) != 2 or data.edge_index.dtype != torch.int64:
        raise ValueError(
            f"{data.name}: edge_index must be int64 [2, E], got {data.edge_index.dtype} {list(data.edge_index.shape)}"
        )
    if data.edge_attr is not None and data.edge_attr.dim() != 2:
        raise ValueError(f"{data.name}: edge_attr must be [E, K], got {list(data.edge_attr.shape)}")
    if data.edge_attr is not None and data.edge_attr.size(0) != data.num_edges:
        raise ValueError(
            f"{data.name}: edge_attr must have one row per edge: got {data.edge_attr.size(0)} rows "
            f"for {data.num_edges} edges"
        )
    if data.info.edge_weight and data.edge_attr is not None and data.edge_attr.size(1) != 1:
        raise ValueError(f"{data.name}: weights of edges must be [E, 1], got {list(data.edge_attr.shape)}")
    if any(data.info.task_spec.has_many_graphs != (ptr is not None) for ptr in (data.node_ptr, data.edge_ptr)):
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
    codes = data.info.categories, data.info.edge_categories
    for what, values, sizes in (("x", data.x, codes[0]), ("edge_attr", data.edge_attr, codes[1])):
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


def label_dtype(task: Task) -> torch.dtype:
    """Return the dtype of y."""
    return torch.int64 if task.has_classes else torch.float32


def _check_labels(data: Dataset) -> None:
    info, task, y = data.info, data.info.task_spec, data.y
    shape, dtype = list(task.label_shape(info.num_rows, info.num_outputs)), label_dtype(task)
    if list(y.shape) != shape or y.dtype != dtype:
        raise ValueError(f"{data.name}: y of a {task.name} task must be {dtype} {shape}, got {y.dtype} {list(y.shape)}")
    if not task.has_classes and bool(y.isinf().any()):
        raise ValueError(f"{data.name}: y must be finite, or NaN where a label is missing; got an infinity")


def _check_splits(data: Dataset) -> None:
    if not set(data.splits) <= set(SPLITS) or "train" not in data.splits:
        raise ValueError(f"{data.name}: splits must be train, valid and test, got {', '.join(data.splits) or 'none'}")
    rows, level = data.y.size(0), data.info.level
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
            raise ValueError(f"{what} names a {level} twice; name each once")
        if data.info.task_spec.has_classes:
            known = data.info.task_spec.labelled(data.y[ids]) & (data.y[ids] < data.info.num_outputs)
            if not bool(known.all()):
                first = int(ids[~known][0])
                raise ValueError(
                    f"{what} must have labels in 0..{data.info.num_outputs - 1}: {level} {first} has "
                    f"{int(data.y[first])} ({int((~known).sum())} such {level}s)"
                )
    for one, other in combinations(data.splits, 2):
        shared = data.splits[one][torch.isin(data.splits[one], data.splits[other])]
        if shared.numel():
            raise ValueError(
                f"{data.name}: splits {one} and {other} share {shared.numel()} {level}s, first {int(shared[0])}; "
                "evaluation would see its own training labels"
            )
