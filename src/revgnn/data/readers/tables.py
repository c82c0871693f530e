"""Reads a user's graph from two tables into memory, in the order of the rows, as ``revgnn prepare`` reads it.

All faults of both tables are reported together, each with file, column, first bad row and number of bad rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ..dataset import Dataset
from ..edges import prepare_edges
from ..info import GraphInfo
from ..prepare.columns import Key
from ..prepare.config import GraphConfig, parse, read_config
from ..prepare.engine import DAMAGED, Scan
from ..prepare.finish import RowCounts, matrix
from ..prepare.inference import Columns, infer
from ..prepare.initial_config import as_fields, tell
from ..prepare.inputs import CONFIG, Table, open_table, read_chunk, tables_in
from ..prepare.resolve import Plan, resolve
from ..task import SPLITS
from .parquet import Faults, is_null

INFERRED = Columns()
TWICE = "with an id that an earlier row has; give every node one row"
UNKNOWN = "with an id that the nodes do not have; add the node or drop the edge"


def read_tables(
    folder: Path, columns: Columns = INFERRED, *, task: str | None = None, like: GraphInfo | None = None
) -> Dataset:
    """Read a folder with graph.yaml, or with the tables nodes and edges (``nodes.parquet``, ``.csv``, a folder ...).

    Args:
        folder: holds the tables.
        columns: what is known of them; the rest is inferred. With a graph.yaml it must be left out.
        task: the task; ``None``: it follows from the label.
        like: metadata of the graph that a model was trained on, whose encodings and classes are taken over; labels may
            then be missing.
    Returns: the data set, nodes in the order of the rows.
    Raises:
        FileNotFoundError: if a table is missing.
        ValueError: listing every fault of both tables.
    Cost: two passes over each table, which must fit in memory; one hash table of the ids.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import read_tables
        >>> read_tables(Path("my_graph")).info.class_names  # a folder with nodes.csv and edges.csv
        ('ale', 'wine')
    """
    faults = Faults()
    config = _config(folder, columns, task, like, faults)
    nodes, edges = (open_table(side.files, folder, faults, side.csv) for side in (config.nodes, config.edges))
    plan = None if nodes is None or edges is None else resolve(config, nodes, edges, faults, like)
    if nodes is None or edges is None or plan is None:
        faults.raise_if_any(folder)
        raise AssertionError("what cannot be read is a fault")
    node_counts, edge_counts = RowCounts(plan.node_checks), RowCounts(plan.edge_checks)
    rows = _read(plan.nodes, node_counts)
    ids = rows.column("id").combine_chunks()
    _mark_repeated(ids, rows, node_counts, plan.node_rows.key.column)
    links = _read(plan.edges, edge_counts)
    # Without all ids, an edge's end may be one of the missing ones.
    is_complete = not ids.null_count and not _is_damaged(node_counts)
    ends = [_positions(links, end, key.column, ids, edge_counts if is_complete else None) for end, key in _ends(plan)]
    node_counts.report(nodes.names, faults, without=frozenset())
    edge_counts.report(edges.names, faults, without=frozenset())
    split = np.asarray(rows.column("split"))
    if config.split is not None and like is None and not (split == 0).any() and not _is_damaged(node_counts):
        faults.add(nodes.names[0], config.split.column, "no row says train; at least one labelled node must")
    faults.raise_if_any(folder)
    return _dataset(folder, config, plan, rows, links, ends, like)


def _dataset(
    folder: Path,
    config: GraphConfig,
    plan: Plan,
    rows: pa.Table,
    links: pa.Table,
    ends: list[NDArray[np.int64]],
    like: GraphInfo | None,
) -> Dataset:
    info = plan.info(config, config.name or folder.resolve().name)
    if like is not None:
        info = replace(info, num_outputs=like.num_outputs, class_names=like.class_names)
    y = rows.column("y")
    targets, width = plan.node_rows.num_targets, plan.edge_rows.width
    split = np.asarray(rows.column("split"))
    labels = matrix(y, targets) if targets else np.asarray(y)
    if not info.task_spec.has_classes and targets != info.num_outputs:
        # Labels of another graph that are not those of the model.
        labels = np.full((len(rows), info.num_outputs), np.nan, np.float32)
    dataset = Dataset(
        info=info,
        # Copies: Arrow's memory is read-only, which torch does not accept.
        x=torch.from_numpy(matrix(rows.column("x"), plan.node_rows.width).copy()),
        edge_index=torch.from_numpy(np.stack(ends)),
        edge_attr=torch.from_numpy(matrix(links.column("edge_attr"), width).copy()) if width else None,
        y=torch.from_numpy(labels.copy()),
        splits={name: torch.from_numpy(np.flatnonzero(split == number)) for number, name in enumerate(SPLITS)},
        node_ids=rows.column("id").combine_chunks(),
    )
    return prepare_edges(dataset, undirected=config.direction == "undirected", self_loops=config.self_loops)


def _config(folder: Path, columns: Columns, task: str | None, like: GraphInfo | None, faults: Faults) -> GraphConfig:
    """Read graph.yaml, or infer it from the two tables."""
    path = folder / CONFIG
    if path.is_file():
        if columns != INFERRED:
            raise ValueError(f"dataset.columns goes with tables without {CONFIG}; write it into {path}")
        config = read_config(path)
    else:
        first, second = tables_in(folder)
        nodes, edges = (open_table([name], folder, faults, columns.csv) for name in (first, second))
        faults.raise_if_any(folder)
        assert nodes is not None and edges is not None, "a table without files is a fault"
        try:
            inferred = infer(nodes, edges, (first, second), columns, task=task, like=like)
        except ValueError as error:
            raise ValueError(as_fields(str(error))) from None
        tell(inferred, in_training=True)
        config = parse(GraphConfig, inferred.values, str(folder))
    return config if like is None else config.with_task(like.task)


def described_tables(folder: Path, columns: Columns) -> tuple[GraphConfig, Table, Table]:
    """Return the configuration of a folder and its tables, without reading them.

    Raises: as `read_tables`.
    """
    faults = Faults()
    config = _config(folder, columns, None, None, faults)
    nodes, edges = (open_table(side.files, folder, faults, side.csv) for side in (config.nodes, config.edges))
    faults.raise_if_any(folder)
    assert nodes is not None and edges is not None, "a table without files is a fault"
    return config, nodes, edges


def _read(scan: Scan, counts: RowCounts) -> pa.Table:
    """Read all rows of a table in order, and count the checks that they fail."""
    tables = list(_rows(scan, counts))
    table = pa.concat_tables(tables) if tables else scan.rows.schema.empty_table()
    counts.add_bad(table.combine_chunks())
    return table


def _rows(scan: Scan, counts: RowCounts) -> Iterator[pa.Table]:
    for chunk in scan.chunks:
        row = chunk.first_row
        try:
            for row, batch in read_chunk(chunk, scan.columns):
                yield scan.rows.read(batch, chunk.file, row)
        except (pa.ArrowException, OSError):
            counts.add(counts.checks.number("", DAMAGED), np.array([chunk.file]), np.array([row]))


def _mark_repeated(ids: pa.Array, rows: pa.Table, counts: RowCounts, column: str) -> None:
    known = ~is_null(ids)
    first = pc.index_in(ids, value_set=ids).to_numpy(zero_copy_only=False)
    again = known & (first != np.arange(len(ids)))
    if again.any():
        files, numbers = (np.asarray(rows.column(name))[again] for name in ("file", "row"))
        counts.add(counts.checks.number(column, TWICE), files, numbers, ids.filter(pa.array(again)))


def _ends(plan: Plan) -> tuple[tuple[str, Key], tuple[str, Key]]:
    return ("src", plan.edge_rows.src), ("dst", plan.edge_rows.dst)


def _is_damaged(counts: RowCounts) -> bool:
    return any(counts.checks.known[check][1] == DAMAGED for _, check in counts.found)


def _positions(links: pa.Table, end: str, column: str, ids: pa.Array, counts: RowCounts | None) -> NDArray[np.int64]:
    """Return the row of the node of each end, and count those that no node has."""
    values = links.column(end).combine_chunks()
    found = pc.index_in(values, value_set=ids, skip_nulls=True)
    unknown = is_null(found) & ~is_null(values)
    if counts is not None and unknown.any():
        files, numbers = (np.asarray(links.column(name))[unknown] for name in ("file", "row"))
        counts.add(counts.checks.number(column, UNKNOWN), files, numbers, values.filter(pa.array(unknown)))
    return np.array(pc.fill_null(found, 0).to_numpy(zero_copy_only=False), dtype=np.int64)
