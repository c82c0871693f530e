"""Prepare a graph from tables in stages: resolve columns, partition nodes, join edges, write parts.

Every stage continues after faults where it can, so that one report has all of them. The output folder appears only
after the last stage.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ...files import versions_of
from ...graph import Graph
from ...run_lock import claimed
from ..info import GraphInfo
from ..ondisk.manifest import Manifest, PartFacts, read_manifest, write_manifest
from ..ondisk.part import PartArrays, write_part
from ..ondisk.store import is_store, new_store
from ..readers.parquet import Faults
from ..sampling.clusters import metis_clusters
from .config import GraphConfig
from .engine import DAMAGED, Scan, choose_runner, repeated_ids, reverse_edges, split_edges, split_nodes
from .finish import ELSEWHERE, TWICE, NodeParts, RowCounts, count_faulty_edges, matrix, read_edges, read_part
from .hashing import HASH_NAME
from .inputs import Table, describe, open_table
from .resolve import Plan, resolve

_logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class DropFaulty:
    """The faulty rows that are dropped and counted instead of reported as faults."""

    bad_edges: bool = False
    """Edges with a missing or unknown id, or with faulty features."""
    duplicate_nodes: bool = False
    """Rows with the id of an earlier row."""
    bad_nodes: bool = False
    """Nodes without an id, or with a faulty feature, label or split. Their edges become bad edges."""


@dataclass(frozen=True)
class Prepared:
    """A prepared graph."""

    folder: Path
    manifest: Manifest
    skipped: bool
    """Whether the folder already had this graph from the same inputs."""
    seconds: float
    """Wall-clock time of the preparation."""

    def summary(self) -> dict[str, Any]:
        """Return the summary for programs, as JSON values."""
        manifest = self.manifest
        return {
            "graph": str(self.folder),
            "skipped": self.skipped,
            "seconds": self.seconds,
            "num_nodes": manifest.info.counts.nodes,
            "num_edges": manifest.info.counts.edges,
            "num_parts": manifest.num_parts,
            "num_bytes": manifest.num_bytes,
            "splits": dict(manifest.splits),
            "num_outputs": manifest.info.num_outputs,
            "dropped": dict(manifest.dropped),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return the summary for readers, as (name, value)."""
        manifest = self.manifest
        splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
        dropped = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in manifest.dropped.items())
        return [
            ("graph", str(self.folder)),
            ("nodes", f"{manifest.info.counts.nodes:,} ({splits})"),
            ("edges", f"{manifest.info.counts.edges:,}"),
            ("parts", f"{manifest.num_parts}, {manifest.num_bytes / 1e6:,.1f} MB"),
            ("dropped", dropped or "nothing"),
            ("time", "was there already" if self.skipped else f"{self.seconds:.1f} s"),
        ]


def prepare(
    config: GraphConfig,
    base: Path,
    out: Path,
    *,
    drop: DropFaulty | None = None,
    overwrite: bool = False,
    ray: str | None = None,
) -> Prepared:
    """Prepare a graph from tables.

    Args:
        config: the content of graph.yaml.
        base: the folder that its files are relative to.
        out: the folder to write. During preparation a temporary folder beside it takes about the size of the tables.
        drop: the faulty rows to drop; ``None``: none.
        overwrite: whether to replace a prepared graph in ``out``.
        ray: the address of a Ray cluster that sees ``base`` and the folder of ``out``, or ``local``.
    Returns: the prepared graph.
    Raises:
        FileExistsError: ``out`` contains something else.
        ClaimedError: another process prepares a graph there.
        ModuleNotFoundError: Daft, Ray or pymetis is not installed.
        ValueError: all faults of the tables.
    Cost: several streamed passes over the tables. In memory: the ids of all nodes, or the edges if they are smaller;
        and one part at a time.
    """
    started, drop = time.monotonic(), drop or DropFaulty()
    faults = Faults()
    nodes, edges = (open_table(side.files, base, faults) for side in (config.nodes, config.edges))
    if nodes is None or edges is None:
        faults.raise_if_any(base)
        raise AssertionError("a table without files is a fault")
    settings = json.loads(json.dumps({**asdict(config), "drop": asdict(drop)}))
    inputs = describe(nodes) + describe(edges)
    existing = _existing(out, inputs, settings, overwrite)
    if existing is not None:
        _logger.info("%s has these tables already; nothing to do", out)
        return Prepared(out, existing, True, time.monotonic() - started)
    choose_runner(ray)
    with claimed(out, beside=True), _work_folder(out) as work:
        preparation = _Preparation(config, drop, nodes, edges, work, faults)
        preparation.resolve(base)
        preparation.sort_rows(base)
        manifest = preparation.write(out, {"inputs": tuple(inputs), "config": settings})
    _logger.info(
        "%s: %s nodes, %s edges, %d parts",
        out,
        f"{manifest.info.counts.nodes:,}",
        f"{manifest.info.counts.edges:,}",
        manifest.num_parts,
    )
    return Prepared(out, manifest, False, time.monotonic() - started)


class _Preparation:
    """The stages of a preparation and the state between them."""

    def __init__(
        self, config: GraphConfig, drop: DropFaulty, nodes: Table, edges: Table, work: Path, faults: Faults
    ) -> None:
        self.config, self.drop, self.work, self.faults = config, drop, work, faults
        self.tables = nodes, edges
        self.dropped: Counter[str] = Counter()

    def resolve(self, base: Path) -> None:
        """Find the columns.

        Raises: ValueError: all faults so far, if too much is missing to continue.
        """
        _logger.info("reading the columns of %s", _files(self.tables))
        plan = resolve(self.config, *self.tables, self.faults)
        if plan is None:
            self.faults.raise_if_any(base)
            raise AssertionError("a column that cannot be read is a fault")
        self.plan: Plan = plan

    def sort_rows(self, base: Path) -> None:
        """Sort nodes and edges into parts.

        Raises: ValueError: all faults of all rows.
        """
        plan, work = self.plan, self.work
        assigned = _metis(plan, work, self.config.parts.count) if self.config.parts.method == "metis" else None
        self.nodes = NodeParts(
            work / "nodes",
            self.config.parts.count,
            self.config.nodes.id,
            RowCounts(plan.node_checks),
            self.drop.bad_nodes,
            self.dropped,
        )
        with _stage("nodes"):
            split_nodes(plan.nodes, work / "nodes", assigned)
            self.nodes.place(work / "places")
        _logger.info("%s nodes are sorted into parts", f"{self.nodes.num_nodes:,}")
        if self.config.parts.method == "column" and self.nodes.num_nodes:
            self._count_ids_of_two_parts()
        edge_faults = RowCounts(plan.edge_checks)
        if self.nodes.num_nodes:
            with _stage("edges"):
                split_edges(plan.edges, work / "places", work / "edges")
                bad = count_faulty_edges(work / "edges", edge_faults, (self.config.edges.src, self.config.edges.dst))
                if self.config.direction == "undirected":
                    reverse_edges(work / "edges", work / "reversed")
            if self.drop.bad_edges:
                self.dropped["bad_edges"] += bad
        else:
            self.faults.add(self.tables[0].names[0], None, "has no row that can be a node; a graph needs at least one")
        self._report(edge_faults)
        self.faults.raise_if_any(base)

    def _report(self, edge_faults: RowCounts) -> None:
        node_names, edge_names = (table.names for table in self.tables)
        # Always faults: rows lost in a damaged file cannot be counted, and a node's part cannot be guessed.
        never = {TWICE, ELSEWHERE, DAMAGED}
        dropped = {text for _, text in self.plan.node_checks.known} - never if self.drop.bad_nodes else set()
        dropped |= {TWICE} if self.drop.duplicate_nodes else set()
        self.nodes.row_faults.report(node_names, self.faults, without=frozenset(dropped))
        dropped = {text for _, text in self.plan.edge_checks.known} - never if self.drop.bad_edges else set()
        edge_faults.report(edge_names, self.faults, without=frozenset(dropped))
        split = self.config.split
        if split is not None and self.nodes.num_nodes and not self.nodes.splits["train"]:
            self.faults.add(node_names[0], split.column, "no row says train; at least one labelled node must")

    def _count_ids_of_two_parts(self) -> None:
        table = repeated_ids(self.work / "places")
        if len(table):
            check = self.plan.node_checks.number(self.config.nodes.id, ELSEWHERE)
            files, rows = (np.asarray(table.column(name)) for name in ("file", "row"))
            self.nodes.row_faults.add(check, files, rows, table.column("id").combine_chunks())

    def write(self, out: Path, provenance: dict[str, Any]) -> Manifest:
        """Write the parts one by one, then move the graph to ``out``.

        Args:
            out: the folder of the graph.
            provenance: the manifest's fields ``inputs`` and ``config``.
        """
        config, plan = self.config, self.plan
        replaced = out.with_name(f".old-{out.name}-{os.getpid()}") if is_store(out) else None
        with _stage("parts"), new_store(out if replaced is None else self.work / "graph") as folder:
            parts: list[PartFacts] = []
            logged_at = time.monotonic()
            for part in range(config.parts.count):
                parts.append(self._write_part(folder, part))
                if time.monotonic() - logged_at >= _SECONDS_BETWEEN_LINES:
                    logged_at = time.monotonic()
                    edges = sum(facts.edges for facts in parts)
                    _logger.info("part %d of %d: %s edges so far", part + 1, config.parts.count, f"{edges:,}")
            manifest = Manifest(
                info=GraphInfo(
                    name=config.name or out.resolve().name,
                    task=config.task,
                    num_outputs=plan.num_outputs,
                    class_names=plan.classes,
                    features=plan.features,
                    edge_features=plan.edge_features,
                    undirected=config.direction == "undirected",
                    self_loops=config.self_loops,
                ),
                splits=self.nodes.splits,
                partition={
                    "method": config.parts.method,
                    "seed": config.parts.seed,
                    "hash": HASH_NAME,
                    "column": config.parts.column,
                },
                parts=tuple(parts),
                dropped={name: count for name, count in sorted(self.dropped.items()) if count},
                versions={**versions_of("revgnn", "daft", "pyarrow", "numpy"), "hash": HASH_NAME},
                **provenance,
            )
            write_manifest(folder, manifest)
        if replaced is not None:
            os.replace(out, replaced)
            os.replace(self.work / "graph", out)
            shutil.rmtree(replaced)
        return manifest

    def _write_part(self, folder: Path, part: int) -> PartFacts:
        nodes, rows = self.nodes.read(part), self.plan.node_rows
        count = 0 if nodes is None else len(nodes)
        edges = read_edges(
            self.work / "edges",
            self.work / "reversed",
            part,
            count,
            self.plan.edge_rows.width,
            undirected=self.config.direction == "undirected",
            self_loops=self.config.self_loops,
            dropped=self.dropped,
        )
        if nodes is None:
            nodes = rows.schema.empty_table()
        y = nodes.column("y")
        labels = matrix(y, rows.num_targets) if rows.labels else np.asarray(y).astype(np.int64)
        return write_part(
            folder,
            part,
            PartArrays(
                ids=nodes.column("id").combine_chunks(),
                x=matrix(nodes.column("x"), rows.width),
                y=labels,
                split=np.asarray(nodes.column("split")).astype(np.int8),
                src_part=edges.src_part,
                src=edges.src,
                dst=edges.dst,
                edge_attr=edges.edge_attr,
            ),
            num_parts=self.config.parts.count,
        )


def _metis(plan: Plan, work: Path, count: int) -> Path:
    """Partition the graph with METIS; return a Parquet file of (id, part)."""
    with _stage("metis"):
        one: Scan = replace(plan.nodes, rows=replace(plan.node_rows, part=None, num_parts=1))
        split_nodes(one, work / "metis-nodes", None)
        places = work / "metis-places"
        key = plan.node_rows.key.column
        NodeParts(work / "metis-nodes", 1, key, RowCounts(plan.node_checks), False, Counter()).place(places)
        ids = pq.read_table(places, columns=["id"]).column("id") if any(places.iterdir()) else None
        out = work / "assigned.parquet"
        if ids is None:
            pq.write_table(
                pa.table({"id": pa.array([], plan.node_rows.key.kind), "part": pa.array([], pa.int32())}), out
            )
            return out
        split_edges(plan.edges, places, work / "metis-edges")
        edges = read_part(work / "metis-edges", 0, ["src_place", "dst_place"])
        names = ("src_place", "dst_place")
        ends = np.empty((2, 0)) if edges is None else np.stack([np.asarray(edges.column(name)) for name in names])
        graph = Graph.from_edge_index(torch.from_numpy(ends.astype(np.int64)), len(ids))
        part = metis_clusters(graph, count).numpy().astype(np.int32)
        pq.write_table(pa.table({"id": ids, "part": part}), out)
        for name in ("metis-nodes", "metis-places", "metis-edges"):
            shutil.rmtree(work / name, ignore_errors=True)
    return out


def _existing(out: Path, inputs: list[dict[str, Any]], settings: dict[str, Any], overwrite: bool) -> Manifest | None:
    """Return the manifest of a graph in ``out`` from the same inputs and settings; ``None``: write a new graph."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_store(out):
        raise FileExistsError(f"{out} exists and is no prepared graph; choose another --out, or remove it")
    if overwrite:
        return None
    manifest = read_manifest(out)
    same = [dict(one) for one in manifest.inputs] == inputs and dict(manifest.config) == settings
    if not same:
        raise FileExistsError(
            f"{out} is a graph of other tables or settings; choose another --out, or --overwrite replaces it"
        )
    return manifest


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Make a temporary folder for intermediate files beside ``out``, on the same file system."""
    work = Path(tempfile.mkdtemp(prefix=f".preparing-{out.name}-", dir=out.resolve().parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.monotonic()
    _logger.info("%s: started", name)
    yield
    _logger.info("%s: done in %.1f s", name, time.monotonic() - started)


def _files(tables: tuple[Table, Table]) -> str:
    counts = [f"{len(table.paths)} {'file' if len(table.paths) == 1 else 'files'}" for table in tables]
    size = sum(table.num_bytes for table in tables)
    return f"{counts[0]} of nodes and {counts[1]} of edges, {size / 1e6:,.1f} MB"
